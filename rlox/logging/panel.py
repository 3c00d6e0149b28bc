"""What ConsoleLogger shows, as Rich renderables and as plain text; nothing here knows a clock or a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

STYLES = {
    "env": "green",
    "inference": "cyan",
    "buffer": "blue",
    "update": "magenta",
    "eval": "yellow",
    "log": "bright_black",
    "save": "red",
    "other": "white",
}
NARROW = 60
_LABEL = 9
_MAX_ROWS = 2
_LETTERS = {"eval": "E"}  # e is env's


@dataclass
class Snapshot:
    """The figures of one moment; None where there is none yet."""

    title: str = "rlox"
    step: int = 0
    total: int | None = None
    per_second: float | None = None
    elapsed_s: float | None = None
    left_s: float | None = None
    return_mean: float | None = None
    length_mean: float | None = None
    n_episodes: int | None = None
    history: Sequence[float] = ()
    eval_step: int | None = None
    eval_mean: float | None = None
    eval_std: float | None = None
    best: float | None = None
    saved: str | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)


def number(value: float | None) -> str:
    """Return a figure in at most ten characters.

    >>> [number(x) for x in (-157.23, 0.012345, 3.0, 1234567.0, None)]
    ['-157.2', '0.01235', '3', '1.235e+06', '-']
    """
    if value is None:
        return "-"
    if math.isfinite(value) and 100 <= abs(value) < 1e6:
        return f"{value:.1f}"
    return f"{value:.4g}"


def rate(per_second: float) -> str:
    """Return steps per second, e.g. ``212`` or ``3.4``."""
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.2g}"


def duration(seconds: float | None) -> str:
    """Return a time for people.

    >>> [duration(s) for s in (46.6, 192, 7500, 97200, None)]
    ['47s', '3m12s', '2h05m', '1d03h', '-']
    """
    if seconds is None or not math.isfinite(seconds):
        return "-"
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 86400}d{s % 86400 // 3600:02d}h"


def plain_train(s: Snapshot) -> str:
    """Return one line: ``step=10000/20000 sps=212 return=-157.2 eta=47s``."""
    parts = [f"step={s.step}" if s.total is None else f"step={s.step}/{s.total}"]
    if s.per_second is not None:
        parts.append(f"sps={rate(s.per_second)}")
    if s.return_mean is not None:
        parts.append(f"return={number(s.return_mean)}")
    elif s.losses:  # offline: there is no return to show
        parts.extend(f"{name}={number(value)}" for name, value in list(s.losses.items())[:2])
    if s.left_s is not None and math.isfinite(s.left_s):
        parts.append(f"eta={duration(s.left_s)}")
    return " ".join(parts)


def plain_eval(s: Snapshot) -> str:
    """Return one line: ``step=10000 eval_return=-143.9 eval_std=12.3 best=-143.9``."""
    parts = [f"step={s.step}", f"eval_return={number(s.eval_mean)}"]
    if s.eval_std is not None:
        parts.append(f"eval_std={number(s.eval_std)}")
    if s.best is not None:
        parts.append(f"best={number(s.best)}")
    return " ".join(parts)


def render(s: Snapshot, width: int, *, ascii_only: bool, color: bool) -> RenderableType:
    """Return the panel for a terminal of this width: a frame, or stacked lines where it is narrower than 60."""
    if ascii_only:
        losses = {_ascii(name): value for name, value in s.losses.items()}
        s = replace(s, title=_ascii(s.title.replace("·", "-")), saved=s.saved and _ascii(s.saved), losses=losses)
    if width < NARROW:
        return Group(*(_stacked_line(key, value, width) for key, value in _stacked(s, ascii_only)))
    inner = width - 4  # frame and padding on both sides
    rows = [_progress(s, inner, ascii_only), _speed(s, ascii_only), Text()]
    rows += _returns(s, inner, ascii_only)
    rows += _losses(s, inner)
    if s.shares:
        rows += _time(s.shares, inner, ascii_only, color)
    if s.saved:
        rows.append(_row("saved", Text(s.saved)))
    for row in rows:
        row.no_wrap, row.overflow = True, "ellipsis" if not ascii_only else "crop"
    title = Text(s.title, "bold")
    frame = box.ASCII if ascii_only else box.ROUNDED
    return Panel(Group(*rows), frame, title=title, title_align="left", border_style="bright_black", width=width)


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def _row(label: str, value: Text) -> Text:
    return Text.assemble((f"{label:<{_LABEL}}", "bright_black"), value)


def _progress(s: Snapshot, inner: int, ascii_only: bool) -> Text:
    if s.total is None:
        return Text(f"{s.step:,} steps", "bold")
    part = min(max(s.step / s.total, 0.0), 1.0) if s.total else 1.0
    figures = f"  {s.step:,} / {s.total:,}  {math.floor(part * 100):3d}%"
    cells = max(inner - len(figures), 10)
    done = round(part * cells)
    full, rest = ("#", "-") if ascii_only else ("━", "─")
    return Text.assemble((full * done, "green"), (rest * (cells - done), "bright_black"), (figures, "bold"))


def _speed(s: Snapshot, ascii_only: bool) -> Text:
    parts = []
    if s.per_second is not None:
        parts.append(f"{rate(s.per_second)} steps/s")
    if s.elapsed_s is not None:
        parts.append(f"{duration(s.elapsed_s)} elapsed")
    if s.left_s is not None and math.isfinite(s.left_s):
        parts.append(f"{duration(s.left_s)} left")
    return Text((" | " if ascii_only else " · ").join(parts))


def _returns(s: Snapshot, inner: int, ascii_only: bool) -> list[Text]:
    rows = []
    if s.return_mean is not None:
        value = Text.assemble((f"{number(s.return_mean):<9}", "bold"), " ", (sparkline(s.history, ascii_only), "green"))
        about = [] if s.n_episodes is None else [f"{s.n_episodes:,} episodes"]
        about += [] if s.length_mean is None else ["length " + f"{s.length_mean:.1f}".removesuffix(".0")]
        text = "  " + ", ".join(about) if about else ""
        if _LABEL + value.cell_len + len(text) <= inner:
            value.append(text, "bright_black")
        rows.append(_row("return", value))
    if s.eval_mean is not None:
        spread = "" if s.eval_std is None else f" {'+-' if ascii_only else '±'} {number(s.eval_std)}"
        value = Text.assemble((number(s.eval_mean), "bold yellow"), f"{spread}  at {s.eval_step or 0:,}")
        if s.best is not None:
            value.append(f"  best {number(s.best)}", "bright_black")
        rows.append(_row("eval", value))
    return rows


def _losses(s: Snapshot, inner: int) -> list[Text]:
    cells = [Text.assemble((name, "bright_black"), f" {number(value)}") for name, value in s.losses.items()]
    return [_row("" if i else "train", row) for i, row in enumerate(_flow(cells, inner - _LABEL))]


def _time(shares: Mapping[str, float], inner: int, ascii_only: bool, color: bool) -> list[Text]:
    """Return a bar cut in proportion to the shares and its legend; without colours, letters or shades tell apart."""
    seen = [(name, share) for name, share in shares.items() if share >= 0.005]
    bar, legend = Text(), []
    for i, n in enumerate(_apportion([share for _, share in seen], inner - _LABEL)):
        name, share = seen[i]
        glyph = _LETTERS.get(name, name[0]) if ascii_only else "█" if color else "█▒▓░"[i % 4]
        style = STYLES.get(name, "white")
        bar.append(glyph * n, style)
        legend.append(Text.assemble((glyph, style), f" {name} {share:.0%}"))
    return [_row("time", bar), *(_row("", row) for row in _flow(legend, inner - _LABEL))]


def _flow(cells: Iterable[Text], width: int) -> list[Text]:
    """Set cells side by side, two blanks between them, in at most two rows; what does not fit is left out."""
    rows: list[Text] = []
    for cell in cells:
        if rows and rows[-1].cell_len + 2 + cell.cell_len <= width:
            rows[-1].append("  ").append_text(cell)
        elif len(rows) < _MAX_ROWS:
            rows.append(cell.copy())
        else:
            break
    return rows


def _apportion(shares: Sequence[float], cells: int) -> list[int]:
    """Divide ``cells`` in proportion to the shares, by the largest remainders; exactly all are given out."""
    total = sum(shares)
    if total <= 0:
        return [0] * len(shares)
    exact = [share / total * cells for share in shares]
    whole = [math.floor(x) for x in exact]
    by_rest = sorted(range(len(shares)), key=lambda i: whole[i] - exact[i])
    for i in by_rest[: cells - sum(whole)]:
        whole[i] += 1
    return whole


def sparkline(values: Iterable[float], ascii_only: bool = False) -> str:
    """Return values as a row of small bars, the lowest to the highest.

    >>> sparkline([0, 1, 2, 3])
    '▁▃▆█'
    """
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    levels = "_.-=+*#" if ascii_only else "▁▂▃▄▅▆▇█"
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    return "".join(levels[round((value - low) / span * (len(levels) - 1))] for value in finite)


def _stacked(s: Snapshot, ascii_only: bool) -> list[tuple[str, str]]:
    rows = [("step", f"{s.step}" if s.total is None else f"{s.step}/{s.total}")]
    if s.per_second is not None:
        rows.append(("steps/s", rate(s.per_second)))
    if s.elapsed_s is not None:
        rows.append(("elapsed", duration(s.elapsed_s)))
    if s.left_s is not None and math.isfinite(s.left_s):
        rows.append(("left", duration(s.left_s)))
    if s.return_mean is not None:
        rows.append(("return", number(s.return_mean)))
    if s.eval_mean is not None:
        rows.append(("eval", f"{number(s.eval_mean)} at {s.eval_step or 0}"))
    if s.best is not None:
        rows.append(("best", number(s.best)))
    rows += [(name, number(value)) for name, value in list(s.losses.items())[:6]]
    rows += [(f"time {name}", f"{share:.0%}") for name, share in s.shares.items() if share >= 0.05]
    return rows


def _stacked_line(key: str, value: str, width: int) -> Text:
    return Text.assemble((f"{key:<14}", "bright_black"), f"  {value}", no_wrap=True, overflow="crop")
