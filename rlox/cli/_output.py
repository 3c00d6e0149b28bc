"""The one sink of every command: results to stdout, everything else to stderr.

Text on a terminal is tables; in a pipe it is ``key<TAB>value`` lines or tab-separated rows with a header; with ``--json``
stdout carries exactly one JSON document, written when the command ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from typer import Exit

from .. import __version__
from ..errors import ConfigError, printable
from ..files import shortest, write_error
from ._divert import results
from ._options import Flag
from ._text import cell, encodable, flat, one_line, short, to_json, tsv

NARROW = 60  # columns: below this a table becomes stacked lines
COLORS = ("auto", "always", "never")
_STYLES = {"error": "1;31", "warning": "33", "hint": "36", "key": "1"}
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Out:
    """Where a command writes.

    Attributes
    ----------
    json, quiet, verbose, debug : bool
        The options of the same names.
    color : {"auto", "always", "never"}
    schema : str
        Name of the JSON document, e.g. ``rlox.eval/1``; set from the command's name.
    run : Path or None
        The run directory, once there is one: ``crash.log`` goes there.
    result : dict
        What the JSON document carries.
    warnings : list of str
    argv : tuple of str
        The command as it was typed.
    """

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self.quiet = False
        self.verbose = False
        self.debug = bool(os.environ.get("RLOX_DEBUG", "0") not in ("", "0"))
        self.color = "auto"
        self.schema = "rlox.result/1"
        self.run: Path | None = None
        self.result: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.argv: tuple[str, ...] = ()
        self._said_stopped = False

    # --- stdout ---

    @results()
    def record(self, mapping: Mapping[str, Any]) -> None:
        """Show one result: a line per key; nested tables as ``outer.inner``. In JSON its keys join ``result``."""
        if self.json:
            self.result.update(mapping)
            return
        lines = [(key, cell(value)) for key, value in flat(mapping)]
        if self.on_terminal:
            width = max((len(k) for k, _ in lines), default=0) if self.width >= NARROW else 0
            self._stdout("".join(f"{self._style(f'{k:<{width}}', 'key')}  {short(v)}\n" for k, v in lines))
        else:
            self._stdout("".join(f"{tsv(k)}\t{tsv(v)}\n" for k, v in lines))

    @results()
    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Iterable[Any]],
        *,
        name: str = "rows",
        optional: Sequence[str] = (),
        whole: Sequence[str] = (),
    ) -> None:
        """Show rows. In JSON ``result[name]`` is a list of objects with the columns as keys.

        The ``optional`` columns are left out, one after the other, where a terminal is too narrow for all of them. Long
        text is folded in its cell, in the ``whole`` columns never.
        """
        cells = [list(row) for row in rows]
        if self.json:
            self.result[name] = [dict(zip(columns, row, strict=True)) for row in cells]
        elif not self.on_terminal:
            lines = [columns, *([cell(v) for v in row] for row in cells)]
            self._stdout("".join("\t".join(tsv(v) for v in line) + "\n" for line in lines))
        elif self.width < NARROW or not self._fitting_table(columns, cells, optional, whole):
            pad = max(map(len, columns)) if self.width >= NARROW else 0
            blocks = [
                "".join(f"{c:<{pad}}  {short(cell(v))}\n" for c, v in zip(columns, row, strict=True)) for row in cells
            ]
            self._stdout("\n".join(blocks))

    @results()
    def line(self, text: str) -> None:
        """Write one line of text; nothing with ``--json``."""
        if not self.json:
            self._stdout(one_line(text) + "\n")

    @results()
    def drawing(self, lines: Iterable[str]) -> None:
        """Write lines that were drawn for this terminal, their colours included; nothing with ``--json``."""
        if not self.json:
            self._stdout("".join(f"{line}\n" for line in lines))

    def data(self, **values: Any) -> None:
        """Add to ``result`` of the JSON document without showing anything as text."""
        self.result.update(values)

    # --- stderr ---

    def note(self, text: str) -> None:
        """Tell what goes on; not with ``--quiet``."""
        if not self.quiet:
            self._stderr(one_line(text) + "\n")

    def detail(self, text: str) -> None:
        """Tell more with ``--verbose``."""
        if self.verbose:
            self.note(text)

    def warn(self, text: str) -> None:
        """Write one ``warning:`` line, and list it in the JSON document."""
        text = printable(_ANSI.sub("", text).strip(), 1000)
        self.warnings.append(text)
        if not self.quiet:
            self._stderr(f"{self._style('warning:', 'warning', sys.stderr)} {text}\n")

    def failure(self, message: str, hint: str | None = None) -> None:
        """Write the error and what to do next, also with ``--quiet``: at most three lines."""
        text = f"{self._style('error:', 'error', sys.stderr)} {printable(message, 1000)}\n"
        if hint:
            text += f"\n{self._style('hint:', 'hint', sys.stderr)} {printable(hint, 1000)}\n"
        self._stderr(text)

    def stopped(self) -> None:
        """Say, once, that the command was stopped, and of a training what is kept of it."""
        if self._said_stopped:
            return
        self._said_stopped = True
        if not self.schema.startswith(("rlox.train", "rlox.offline")):
            self.note("stopped")
            return
        from ..runs.directory import kept_checkpoint

        kept = None if self.run is None else kept_checkpoint(self.run)
        self.note("stopped: no checkpoint written" if kept is None else f"stopped: {shortest(kept)} is kept")

    def trace(self, text: str) -> None:
        """Write a traceback, line by line."""
        self._stderr("".join(one_line(line) + "\n" for line in text.splitlines()))

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Yield ``update(done, wanted)``: a bar on stderr where that is a terminal, else nothing."""
        if self.quiet or not is_terminal(sys.stderr) or _dumb():
            yield lambda done, wanted: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(file=sys.stderr, width=max(self.width, 20), no_color=not self.use_color(sys.stderr))
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(printable(label), total=None)
            yield lambda done, wanted: bar.update(task, completed=done, total=wanted)

    # --- the JSON document ---

    def finish(self, exit_code: int, error: Mapping[str, Any] | None = None) -> None:
        """Write the JSON document, if that was asked for, and flush stdout."""
        if self.json:
            head: dict[str, Any] = {"schema": "rlox.error/1" if error else self.schema, "rlox": __version__}
            body: dict[str, Any] = {"ok": exit_code == 0, "exit_code": exit_code}
            if error is not None:
                body["error"] = error
            if error is None or self.result:
                body["result"] = self.result
            plain, nonfinite = to_json({**head, **body, "warnings": self.warnings})
            if nonfinite:
                plain["nonfinite"] = nonfinite
            self._stdout(json.dumps(plain, allow_nan=False) + "\n")
        with _writing():
            sys.stdout.flush()

    # --- the terminal ---

    @property
    @results()
    def on_terminal(self) -> bool:
        """Whether stdout is a terminal."""
        return is_terminal(sys.stdout)

    @property
    def rich_help(self) -> bool:
        """Whether help is drawn in panels: on a terminal that is wide enough and not dumb."""
        return self.on_terminal and not _dumb() and self.width >= NARROW

    @property
    def width(self) -> int:
        """Columns of the terminal; ``COLUMNS`` wins, 0 and 1 included."""
        columns = os.environ.get("COLUMNS", "")
        return int(columns) if columns.isascii() and columns.isdigit() else shutil.get_terminal_size().columns

    def use_color(self, stream: TextIO) -> bool:
        """Whether to colour what goes to ``stream``: --color, then NO_COLOR, FORCE_COLOR, TERM, the terminal."""
        if self.color != "auto":
            return self.color == "always"
        if os.environ.get("NO_COLOR"):
            return False
        if os.environ.get("FORCE_COLOR"):
            return True
        return is_terminal(stream) and not _dumb()

    def _style(self, text: str, style: str, stream: TextIO | None = None) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.use_color(stream or sys.stdout) else text

    def _fitting_table(
        self, columns: Sequence[str], rows: list[list[Any]], optional: Sequence[str], whole: Sequence[str]
    ) -> bool:
        """Draw the table with as many of its columns as fit; False, and nothing drawn, where too few do."""
        for n in range(len(optional) + 1):
            kept = [i for i, column in enumerate(columns) if column not in optional[:n]]
            if self._rich_table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], whole):
                return True
        return False

    def _rich_table(self, columns: Sequence[str], rows: list[list[Any]], whole: Sequence[str]) -> bool:
        """Draw a table with whole numbers and names; False, and nothing drawn, where the terminal is too narrow."""
        numeric = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(columns))]
        shown = [[short(cell(value)) for value in row] for row in rows]
        kept = [numeric[i] or column in whole for i, column in enumerate(columns)]
        widths = [
            max(len(column), *(len(row[i]) if kept[i] else min(len(row[i]), 16) for row in shown), 0)
            for i, column in enumerate(columns)
        ]
        if sum(widths) + 3 * len(widths) + 1 > self.width:
            return False
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        grid = Table(box=box.ROUNDED)
        for column, number, width in zip(columns, numeric, widths, strict=True):
            grid.add_column(Text(column), justify="right" if number else "left", overflow="fold", min_width=width)
        for row in shown:
            grid.add_row(*map(Text, row))
        color = self.use_color(sys.stdout)
        console = Console(file=sys.stdout, width=self.width, color_system="auto" if color else None,
                          no_color=not color, force_terminal=True if color else None)  # fmt: skip
        console.print(grid)
        return True

    def _stdout(self, text: str) -> None:
        with _writing():
            sys.stdout.write(encodable(text, sys.stdout))
            sys.stdout.flush()

    def _stderr(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a closed stderr stops nothing
            sys.stderr.write(encodable(text, sys.stderr))
            sys.stderr.flush()


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Say that results could not be written; a reader that went away is not an error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise write_error("standard output", error) from error


_current = Out()


def current() -> Out:
    """Return the sink of the running command."""
    return _current


def start(argv: Sequence[str]) -> Out:
    """Make the sink of a command that is about to run; ``--json`` and ``--color`` count before anything is parsed."""
    global _current
    words = list(argv[: argv.index("--")]) if "--" in argv else list(argv)
    _current = Out(json="--json" in words)
    _current.argv = ("rlox", *argv)
    for word, after in zip(words, [*words, ""][1:], strict=True):
        color = after if word == "--color" else word.removeprefix("--color=")
        _current.color = color if color in COLORS and word.startswith("--color") else _current.color
    return _current


def common_options() -> list[Flag]:
    """Return the options of every command, as parameters that act on the current sink.

    Append them to the parameters of a command; they add no argument to its function.
    """

    def switch(*names: str, help: str, callback: Callable[..., None] = _set_switch) -> Flag:
        return Flag(*names, help=help, switch=True, panel="Common", expose=False, eager=True, callback=callback)

    return [
        switch("help", "--help", "-h", help="Show this message and exit", callback=_show_help),
        switch("json", "--json", help="Write one JSON document to stdout"),
        switch("quiet", "--quiet", "-q", help="Write errors only to stderr"),
        switch("verbose", "--verbose", "-v", help="Say more on stderr"),
        switch("debug", "--debug", help="Show the traceback of an error"),
        Flag("color", "--color", help="Colours", metavar="|".join(COLORS), default="auto", panel="Common", expose=False,
             eager=True, callback=_set_color, completion=lambda text: COLORS),
    ]  # fmt: skip


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal; a closed one is not."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def _set_switch(ctx: Any, param: Any, value: bool | None) -> None:
    if value:
        setattr(_current, param.name, True)


def _show_help(ctx: Any, param: Any, value: bool | None) -> None:
    if value and not ctx.resilient_parsing:
        _current.json = False
        _current._stdout(f"{ctx.get_help()}\n")
        raise Exit(0)


def _set_color(ctx: Any, param: Any, value: str | None) -> None:
    if value is None:
        return
    if value not in COLORS:
        raise ConfigError(f"color is {printable(value)!r}, must be one of {', '.join(COLORS)}",
                          param="--color", value=value)  # fmt: skip
    _current.color = value


def _dumb() -> bool:
    return os.environ.get("TERM", "") in ("", "dumb", "unknown")
