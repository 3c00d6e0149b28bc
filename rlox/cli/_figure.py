"""Learning curves as a picture, through matplotlib, which is imported here alone."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError, printable
from ..files import atomic_write

if TYPE_CHECKING:
    from ._runs_plot import Drawn, PlotOptions

# Okabe and Ito (2008): told apart with any colour vision; with the style of the line also without colours.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def check_library() -> None:
    """Raise MissingDependencyError where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise MissingDependencyError("a picture needs the package matplotlib, which is not installed",
                                     hint="`pip install 'rlox[plot]'`", value="matplotlib")  # fmt: skip


def write_figure(path: str | os.PathLike[str], drawn: Sequence[Drawn], options: PlotOptions) -> Path:
    """Write the curves, one panel per task; the same curves give the same SVG.

    Raises
    ------
    WriteError
        The file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from ._runs_plot import x_axis

    tasks = list(dict.fromkeys(d.group.task for d in drawn))
    labels = list(dict.fromkeys(d.group.label for d in drawn))
    columns = min(len(tasks), 3)
    rows = math.ceil(len(tasks) / columns)
    kind = Path(path).suffix.lower().removeprefix(".")
    with rc_context({"svg.hashsalt": "rlox", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(5.6 * columns + 0.8, 4.0 * rows + 0.4), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis, task in zip(axes, tasks, strict=False):
            here = [d for d in drawn if d.group.task == task]
            x_label, x_scale = x_axis(here, options)
            _panel(axis, here, labels, x_scale)
            axis.set_title(printable(task), parse_math=False)
            axis.set_xlabel(x_label)
            axis.set_ylabel(_y_label(options), parse_math=False)
        for axis in axes[len(tasks) :]:
            axis.set_visible(False)
        metadata = {"Date": None} if kind == "svg" else {}
        return atomic_write(path, lambda file: figure.savefig(file, format=kind, dpi=150, metadata=metadata))


def _panel(axis: Any, here: Sequence[Drawn], labels: Sequence[str], scale: float) -> None:
    """Draw the curves of one task; a group looks the same in every panel."""
    for d in here:
        i, curve = labels.index(d.group.label), d.curve
        color, x = COLORS[i % len(COLORS)], curve.x / scale
        n = int(curve.n.max())
        name = f"{printable(d.group.label)} ({n} run{'s' if n > 1 else ''})"
        axis.plot(x, curve.y, STYLES[i % len(STYLES)], color=color, label=name, linewidth=1.8,
                  marker=MARKERS[i % len(MARKERS)], markersize=5, markevery=max(1, len(x) // 8))  # fmt: skip
        axis.fill_between(x, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    for text in axis.legend(frameon=False).get_texts():
        text.set_parse_math(False)


def _y_label(options: PlotOptions) -> str:
    """Return what the vertical axis shows."""
    center = "IQM" if options.center == "iqm" else "mean"
    smooth = f", mean of {options.smooth} values" if options.smooth > 1 else ""
    return f"{printable(options.y)}\n{center} over runs, {100 * options.ci:g}% interval{smooth}"
