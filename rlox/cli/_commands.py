"""Commands and lazy groups of commands, with the help that all of them share."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import typer
from typer._click.core import Command as BaseCommand
from typer._click.core import Context, Parameter
from typer.core import TyperCommand, TyperGroup

from ..errors import ConfigError, closest, printable
from ._divert import diverted
from ._errors import exit_codes
from ._output import common_options, current

Builder = Callable[[], Any]


class _Help:
    """Help in panels on a terminal, in plain sections elsewhere; texts carry no markup."""

    help: str | None
    params: list[Parameter]

    def format_help(self, ctx: Context, formatter: Any) -> None:
        """Draw the help."""
        out = current()
        if not out.rich_help:
            BaseCommand.format_help(self, ctx, formatter)  # type: ignore[arg-type]
            return
        import sys

        from typer import rich_utils

        color = out.use_color(sys.stdout)
        rich_utils.FORCE_TERMINAL = True if color else None
        rich_utils.COLOR_SYSTEM = "auto" if color else None
        rich_utils.MAX_WIDTH = out.width
        with _escaped(self, ctx):
            rich_utils.rich_format_help(obj=self, ctx=ctx, markup_mode="rich")  # type: ignore[arg-type]

    def format_help_text(self, ctx: Context, formatter: Any) -> None:
        """Write the plain help; paragraphs with an indented line are kept as they are."""
        for paragraph in inspect.cleandoc(self.help or "").split("\n\n"):
            formatter.write_paragraph()
            lines = paragraph.splitlines()
            if any(line.startswith("  ") for line in lines):
                formatter.write("".join(f"  {line}\n" for line in lines))
            else:
                with formatter.indentation():
                    formatter.write_text(" ".join(lines))

    def format_options(self, ctx: Context, formatter: Any) -> None:
        """Write the plain sections, one per panel, in the order of the panels in rich help."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):  # type: ignore[attr-defined]
            row = param.get_help_record(ctx)
            if row is not None:
                default = "Arguments" if param.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(param, "rich_help_panel", None) or default, []).append(row)
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
        if isinstance(self, TyperGroup):
            self.format_commands(ctx, formatter)


class Command(_Help, TyperCommand):
    """A command with the options of every command, and its exit codes at the end of its help.

    Works for Typer functions (``@app.command(cls=Command)``) and for commands built from lists of parameters.

    Parameters
    ----------
    help : str
        A one-line purpose, then a paragraph of examples: ``Examples:`` and indented lines.
    codes : iterable of int
        Exit codes that it can return.
    schema : str, optional
        Name of its JSON document; default: from the command's name, e.g. ``rlox.checkpoint.info/1``.
    """

    def __init__(
        self, name: str | None, *, codes: Iterable[int] = (0, 2), schema: str | None = None, **attrs: Any
    ) -> None:
        attrs.setdefault("epilog", None)
        attrs["epilog"] = attrs["epilog"] or exit_codes(codes)
        attrs["params"] = [*(attrs.get("params") or []), *common_options()]
        super().__init__(name, **attrs)
        self.schema = schema

    def invoke(self, ctx: Context) -> Any:
        """Run the command's function."""
        path = ".".join(ctx.command_path.split()[1:])
        current().schema = self.schema or f"rlox.{path or self.name}/1"
        with _saying_when_stopped(), diverted():
            return super().invoke(ctx)


class Group(_Help, TyperGroup):
    """A group whose commands are imported when one of them is run, never for its help.

    Parameters
    ----------
    name : str
    commands : mapping of str to (summary, builder)
        ``builder()`` returns the command (or a Typer app); ``summary`` is its line in the help.
    noun : str
        What its commands are called in an error message.
    """

    def __init__(
        self,
        name: str,
        commands: Mapping[str, tuple[str, Builder]],
        *,
        help: str,
        noun: str = "command",
        params: Iterable[Parameter] = (),
        **attrs: Any,
    ) -> None:
        stubs: dict[str, Any] = {n: Command(n, help=summary) for n, (summary, _) in commands.items()}
        attrs.setdefault("no_args_is_help", True)
        super().__init__(name=name, commands=stubs, help=help, params=[*params, *common_options()], **attrs)
        self.noun = noun
        self._builders = {n: build for n, (_, build) in commands.items()}

    def load(self, name: str) -> Any:
        """Import and return the command of that name."""
        return as_command(self._builders[name]())

    def invoke(self, ctx: Context) -> Any:
        """Import and run the command that was named."""
        with _saying_when_stopped():
            return super().invoke(ctx)

    def find(self, ctx: Context, name: str) -> Any:
        """Return the command that ``name`` means, or None. Override it to accept more than the fixed names."""
        return self.load(name) if name in self._builders else None

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command to run; ConfigError with near names when there is none."""
        name = args[0]
        command = self.find(ctx, name)
        if command is not None:
            return name, command, args[1:]
        if ctx.resilient_parsing:  # completion
            return None, None, args[1:]
        names = self.list_commands(ctx)
        near = closest(name, names)
        known = f"known: {', '.join(names)}"
        hint = f"did you mean {near[0]!r}? {known}" if near else known
        raise ConfigError(f"unknown {self.noun} {printable(name)!r}", hint=hint, value=name, suggestions=near or names)


def as_command(built: Any) -> Any:
    """Return a command or a Typer app as a command."""
    return typer.main.get_command(built) if isinstance(built, typer.Typer) else built


@contextlib.contextmanager
def _saying_when_stopped() -> Iterator[None]:
    """Leave a line on stderr when Ctrl-C or a signal ends a command that has no way of its own to stop."""
    try:
        yield
    except BaseException as error:
        plain_exit = isinstance(error, SystemExit) and not hasattr(error, "exit_code")  # training's second signal has one
        if not isinstance(error, Exception) and not plain_exit:
            current().stopped()
        raise


@contextlib.contextmanager
def _escaped(command: Any, ctx: Context) -> Iterator[None]:
    """Let Rich print the help texts as they are: nothing in them is markup."""
    from rich.markup import escape

    holders = [command, *command.get_params(ctx), *getattr(command, "commands", {}).values()]
    fields = [(h, f) for h in holders for f in ("help", "epilog") if isinstance(getattr(h, f, None), str)]
    originals = [getattr(h, f) for h, f in fields]
    try:
        for (holder, field), text in zip(fields, originals, strict=True):
            setattr(holder, field, escape(inspect.cleandoc(text)))
        yield
    finally:
        for (holder, field), text in zip(fields, originals, strict=True):
            setattr(holder, field, text)
