"""Learning curves: the values of each run on one grid of steps, and their middle and interval over the runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..seeding import derive
from .aggregate import LEVEL, Floats, iqm, mean
from .reading import ELAPSED, RunRecord, finite, measured

Axis = Literal["steps", "time"]
MAX_POINTS = 500
RESAMPLES = 2_000  # of a band; a table's interval has more
STATISTICS = {"iqm": iqm, "mean": mean}


@dataclass(frozen=True)
class Series:
    """The values of one metric of one run.

    Attributes
    ----------
    x, y : (T,) float64 arrays
        ``x`` rises strictly: steps, or seconds of training.
    dropped : int
        Values left out because they were NaN or infinite.
    """

    run: RunRecord
    x: Floats
    y: Floats
    dropped: int = 0


@dataclass(frozen=True)
class Curve:
    """The middle of several runs, and its interval.

    Attributes
    ----------
    x, y, low, high : (T,) float64 arrays
        ``low`` and ``high`` are NaN where fewer than two runs are.
    n : (T,) int64 array
        Runs that reach from before x to beyond it.
    """

    x: Floats
    y: Floats
    low: Floats
    high: Floats
    n: NDArray[np.int64]


def read_series(run: RunRecord, metric: str, axis: Axis = "steps", smooth: int = 1) -> Series:
    """Return the values of a metric of a run.

    Where two rows have the same step the later one counts. The seconds of a row without a clock (an evaluation's) are
    interpolated between the rows around it that have one; those of a resumed run go on from where they were.

    Parameters
    ----------
    run : RunRecord
    metric : str
        By outside name, e.g. ``eval/return_mean``.
    axis : {"steps", "time"}
    smooth : int
        Mean of the last so many values of the run, ≥ 1; of fewer at its start.

    Raises
    ------
    ConfigError
        ``smooth`` is below 1.
    """
    if smooth < 1:
        raise ConfigError(f"smooth is {smooth}, must be at least 1", param="--smooth", value=smooth)
    values: dict[int, float] = {}
    clock: dict[int, float] = {}
    dropped = 0
    for row in measured(run):
        if metric in row["metrics"]:
            value = finite(row["metrics"][metric])
            dropped += value is None
            if value is not None:
                values[row["step"]] = value
        elapsed = finite(row["metrics"].get(ELAPSED))
        if elapsed is not None:
            clock[row["step"]] = elapsed
    steps = np.array(sorted(values), np.float64)
    y = _trailing_mean(np.array([values[int(step)] for step in steps], np.float64), smooth)
    if axis == "steps" or not len(steps):
        return Series(run, steps, y, dropped)
    if not clock:
        return Series(run, steps[:0], y[:0], dropped)
    seconds = np.interp(steps, *_whole_clock(clock))
    rising = np.append(True, np.diff(seconds) > 0)
    return Series(run, seconds[rising], y[rising], dropped)


def make_curve(
    series: Sequence[Series], statistic: Literal["iqm", "mean"] = "iqm", *, level: float = LEVEL, seed: int = 0
) -> Curve:
    """Return the middle of several runs on a common grid, with its percentile bootstrap interval over the runs.

    The grid is that of the runs where they share one, else all of their points (at most 500, then evenly spaced);
    between two of its points a run is a straight line, and before its first and after its last it has no value. Each
    interval resamples the runs that have one there.

    Parameters
    ----------
    series : sequence of Series
        With at least one point in all.
    statistic : {"iqm", "mean"}
    level : float
        In (0, 1).
    seed : int

    Raises
    ------
    ConfigError
        No point at all, or ``level`` out of range.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}, must be in (0, 1)", param="--ci", value=level)
    with_points = [s for s in series if len(s.x)]
    if not with_points:
        raise ConfigError("no run has a point to draw")
    x = _grid(with_points)
    table = np.stack([np.interp(x, s.x, s.y, left=math.nan, right=math.nan) for s in with_points])  # (n, T)
    present = ~np.isnan(table)
    y, low, high = (np.full(len(x), math.nan) for _ in range(3))
    masks, which = np.unique(present, axis=1, return_inverse=True)
    for k, mask in enumerate(masks.T):
        if not mask.any():
            continue
        columns = np.flatnonzero(which.reshape(-1) == k)
        values = table[mask][:, columns].T  # (points, runs)
        y[columns] = STATISTICS[statistic](values)
        if mask.sum() > 1:
            low[columns], high[columns] = _band(values, statistic, level, seed)
    kept = present.any(0)
    return Curve(x[kept], y[kept], low[kept], high[kept], present.sum(0)[kept].astype(np.int64))


def _band(values: Floats, statistic: str, level: float, seed: int) -> tuple[Floats, Floats]:
    """Return the interval at each of (points, runs) values; the same resamples of runs at every point."""
    n = values.shape[1]
    drawn = np.random.default_rng(derive(seed, "bootstrap/curve")).integers(n, size=(RESAMPLES, n))
    quantiles = [(1 - level) / 2, (1 + level) / 2]
    ends = [np.quantile(STATISTICS[statistic](row[drawn]), quantiles) for row in values]  # row by row: little memory
    return np.array([low for low, _ in ends]), np.array([high for _, high in ends])


def _grid(series: Sequence[Series]) -> Floats:
    points = np.unique(np.concatenate([s.x for s in series]))
    if len(points) <= MAX_POINTS:
        return points
    return np.linspace(points[0], points[-1], MAX_POINTS)


def _whole_clock(clock: dict[int, float]) -> tuple[Floats, Floats]:
    """Return steps and seconds, with what earlier processes took before a clock that began again."""
    steps = np.array(sorted(clock), np.float64)
    seconds = np.array([clock[int(step)] for step in steps], np.float64)
    restarts = np.append(0.0, np.where(np.diff(seconds) < 0, seconds[:-1], 0.0))
    return steps, seconds + np.cumsum(restarts)


def _trailing_mean(y: Floats, n: int) -> Floats:
    if n == 1 or not len(y):
        return y
    total = np.append(0.0, np.cumsum(y))
    end = np.arange(1, len(y) + 1)
    begin = np.maximum(end - n, 0)
    return np.asarray((total[end] - total[begin]) / (end - begin))
