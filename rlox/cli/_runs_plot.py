"""``rlox runs plot``: learning curves on the terminal, as numbers in a pipe, or as a picture."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..config.fields import option, options_of
from ..config.sections import Section
from ..errors import ConfigError, NotFoundError, printable
from ..files import shortest
from ..runs.groups import Group, group_runs, unknown_metric
from ..runs.reading import RunRecord, measured
from ._commands import Command
from ._options import Flag, flag, typed
from ._output import NARROW, Out, current
from ._plot import MIN_WIDTH, Line, draw, legend_mark
from ._runs import group_by_flag, plain, runs_argument, runs_dir_flag, select, unfinished, warn_each

if TYPE_CHECKING:
    from ..runs.curves import Curve

_HELP = """Plot learning curves: the middle of each group of runs, with a bootstrap band over the runs.

Runs that differ only in their seed are one group. Runs that are not finished are drawn as far as they go, and said.
In a pipe the curves are tab-separated numbers; a picture needs the extra plot.

Examples:
  rlox runs plot runs/sac/Pendulum-v1
  rlox runs plot runs/sac runs/td3 --y rollout/return_mean --x time --smooth 5
  rlox runs plot runs/sac/Pendulum-v1 -o curves.svg
"""
_FORMATS = (".png", ".svg")
_UNITS = ((7200.0, 3600.0, "h"), (300.0, 60.0, "min"), (0.0, 1.0, "s"))


@dataclass(frozen=True, kw_only=True)
class PlotOptions(Section):
    """The flags of ``rlox runs plot`` with a value each."""

    x: Literal["steps", "time"] = option("steps", "Steps, or seconds of training", panel="Options")
    y: str = option("eval/return_mean", "Metric to plot", panel="Options", metavar="KEY")
    smooth: int = option(1, "Mean of the last so many values of each run", panel="Options", ge=1)
    center: Literal["iqm", "mean"] = option("iqm", "What is drawn of the runs of a group", panel="Options")
    ci: float = option(0.95, "Level of the band", panel="Options", gt=0, lt=1)


@dataclass(frozen=True)
class Drawn:
    """One curve and what it is of."""

    group: Group
    curve: Curve


def command() -> Command:
    """Return the command."""
    params = [
        runs_argument(),
        *map(flag, options_of(PlotOptions)),
        Flag("--out", "-o", help="Picture to write, .png or .svg; replaced when it exists", metavar="FILE"),
        group_by_flag(),
        runs_dir_flag(),
    ]
    return Command("plot", help=_HELP, callback=_plot, codes=(0, 2, 3, 6, 8), params=params)


def _plot(
    runs: tuple[str, ...], out: str | None, group_by: tuple[str, ...], runs_dir: str | None, **given: Any
) -> None:
    sink = current()
    options: PlotOptions = typed(PlotOptions, given)
    if out is not None:
        from ._figure import check_library

        if Path(out).suffix.lower() not in _FORMATS:
            raise ConfigError(f"out is {printable(out)!r}, must end in {' or '.join(_FORMATS)}", param="--out", value=out)
        check_library()
    records = select(runs, runs_dir)
    grouping = group_runs(records, group_by)
    for text in grouping.notes:
        sink.warn(text)
    drawn = _curves(grouping.groups, records, options)
    _say_data(sink, drawn, options)
    if out is not None:
        from ._figure import write_figure

        path = write_figure(out, drawn, options)
        sink.record({"path": shortest(path), "bytes": path.stat().st_size, "n_curves": len(drawn)})
    elif not sink.json and sink.on_terminal:
        _draw(sink, drawn, options)
    elif not sink.json:
        _print_points(sink, drawn, options)


def _curves(groups: Sequence[Group], records: Sequence[RunRecord], options: PlotOptions) -> list[Drawn]:
    """Return the curve of each group that has one; runs without a point, or not finished, are said."""
    from ..runs.curves import make_curve, read_series

    drawn, said = [], []
    for group in groups:
        series = [read_series(run, options.y, options.x, options.smooth) for run in group.runs]
        for s in series:
            path = shortest(s.run.path)
            if s.dropped:
                said.append(f"{path}: {s.dropped} values of {options.y} are NaN or infinite and left out")
            if not len(s.x):
                said.append(f"{path} has no {options.y}" + (" with a time" if options.x == "time" else ""))
            elif s.run.state != "finished":
                newest = max(row["step"] for row in measured(s.run))
                said.append(f"{unfinished(s.run, newest)}: drawn as far as it goes")
        if any(len(s.x) for s in series):
            drawn.append(Drawn(group, make_curve(series, options.center, level=options.ci)))
    if not drawn:
        missing = unknown_metric(options.y, records, "--y")
        if options.y not in missing.suggestions:
            raise missing
        raise NotFoundError(f"no run has a value of {options.y} that can be drawn", value=options.y, hint="try `--x steps`")
    warn_each(said)
    return drawn


def _say_data(sink: Out, drawn: Sequence[Drawn], options: PlotOptions) -> None:
    """Put the curves into the JSON document."""
    if sink.json:
        sink.data(
            x=options.x, y=options.y, center=options.center, level=options.ci, smooth=options.smooth,
            curves=[
                {"group": d.group.label, "task": d.group.task, "x": d.curve.x.tolist(), "n": d.curve.n.tolist(),
                 options.center: d.curve.y.tolist(), "low": [plain(v) for v in d.curve.low.tolist()],
                 "high": [plain(v) for v in d.curve.high.tolist()]}
                for d in drawn
            ],
        )  # fmt: skip


def _print_points(sink: Out, drawn: Sequence[Drawn], options: PlotOptions) -> None:
    """Write the curves as rows."""
    columns = ["group", "task", "step" if options.x == "steps" else "seconds", "n", options.center, "low", "high"]
    rows = []
    for d in drawn:
        c = d.curve
        for x, n, y, low, high in zip(*(v.tolist() for v in (c.x, c.n, c.y, c.low, c.high)), strict=True):
            at = int(x) if options.x == "steps" and x == int(x) else x
            rows.append([d.group.label, d.group.task, at, n, y, plain(low), plain(high)])
    sink.table(columns, rows)


def _draw(sink: Out, drawn: Sequence[Drawn], options: PlotOptions) -> None:
    """Draw one plot per task on the terminal, each with its legend."""
    color, unicode = sink.use_color(sys.stdout), _shows_unicode()
    lines_there = shutil.get_terminal_size().lines
    height = max(4, min(lines_there - 8, 18, sink.width // 4))
    for task in dict.fromkeys(d.group.task for d in drawn):
        here = [d for d in drawn if d.group.task == task]
        label, scale = x_axis(here, options)
        sink.line(f"{options.y}  {task}")
        lines = [
            Line(d.group.label, (d.curve.x / scale).tolist(), d.curve.y.tolist(), d.curve.low.tolist(),
                 d.curve.high.tolist()) for d in here
        ]  # fmt: skip
        if sink.width >= MIN_WIDTH:
            sink.drawing(draw(lines, width=sink.width, height=height, x_label=label, unicode=unicode, color=color))
        sink.drawing(_legend(sink, here, color))
    band = f", {100 * options.ci:g}% bootstrap interval" if any(d.curve.n.max() > 1 for d in drawn) else ""
    smooth = f", mean of {options.smooth} values" if options.smooth > 1 else ""
    sink.line(f"{'IQM' if options.center == 'iqm' else 'mean'} over runs{band}{smooth}")


def _legend(sink: Out, here: Sequence[Drawn], color: bool) -> list[str]:
    """Return a line per curve: its letter, its name, its runs, where it ends."""
    rows = []
    for i, d in enumerate(here):
        n, y, low, high = (v[-1] for v in (d.curve.n, d.curve.y, d.curve.low, d.curve.high))
        interval = f" [{low:.6g}, {high:.6g}]" if plain(low) is not None else ""
        end = f"{y:.6g}{interval}, n={n}"
        name, mark = printable(d.group.label), legend_mark(i, len(here), color)
        if sink.width < NARROW or 4 + len(name) + len(end) > sink.width:
            rows += [f"{mark} {name}", f"    {end}"]
        else:
            rows.append(f"{mark} {name}  {end}")
    return rows


def x_axis(here: Sequence[Drawn], options: PlotOptions) -> tuple[str, float]:
    """Return what the horizontal axis shows, and what x is divided by for it."""
    if options.x == "time":
        longest = max(float(d.curve.x[-1]) for d in here)
        scale, unit = next((scale, unit) for least, scale, unit in _UNITS if longest >= least)
        return f"training time ({unit})", scale
    kinds = {run.kind for d in here for run in d.group.runs}
    return {"online": "environment steps", "offline": "gradient steps"}[kinds.pop()] if len(kinds) == 1 else "steps", 1.0


def _shows_unicode() -> bool:
    """Whether the terminal takes Braille characters; the system's console of Linux takes them and has none to show."""
    try:
        "⣿".encode(getattr(sys.__stdout__, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return os.environ.get("TERM", "") not in ("", "dumb", "linux")
