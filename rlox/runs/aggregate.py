"""Statistics over runs: interquartile mean, stratified bootstrap, probability of improvement.

A score is one number per run; runs of one environment (or dataset) form a stratum. Intervals are percentile intervals
of the stratified bootstrap: each resample draws, in every stratum, as many runs as it has, with replacement. All draws
come from a seed, so the same scores give the same interval.

Source: Agarwal, Schwarzer, Castro, Courville, Bellemare (2021), "Deep Reinforcement Learning at the Edge of the
Statistical Precipice", sections 4.1 to 4.3; reference implementation ``rliable/library.py`` and ``rliable/metrics.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError
from ..seeding import derive

RESAMPLES = 10_000
LEVEL = 0.95
_BLOCK = 2_000_000  # numbers drawn at a time

Floats = NDArray[np.float64]
Statistic = Callable[..., Any]


@dataclass(frozen=True)
class Summary:
    """The runs of one group.

    Attributes
    ----------
    n : int
    mean, std, median, iqm : float
        ``std`` is that of a sample (divided by n − 1), NaN for one run.
    low, high : float
        Interval of the IQM; NaN where no stratum has two runs.
    """

    n: int
    mean: float
    std: float
    median: float
    iqm: float
    low: float
    high: float


def iqm(scores: ArrayLike, axis: int = -1) -> Any:
    """Return the interquartile mean: the mean without the lowest and the highest quarter.

    Of n scores ⌊n/4⌋ are left out at either end, so below four it is the mean.

    Parameters
    ----------
    scores : (..., n) array_like of float
        n ≥ 1.
    axis : int

    Returns
    -------
    float, or array without ``axis``

    Source
    ------
    Agarwal et al. (2021), section 4.3; equals ``scipy.stats.trim_mean(scores, 0.25)``.

    Examples
    --------
    >>> float(iqm([1.0, 2.0, 3.0, 100.0]))
    2.5
    """
    ordered = np.sort(np.moveaxis(np.asarray(scores, np.float64), axis, -1), axis=-1)
    n = ordered.shape[-1]
    return ordered[..., n // 4 : n - n // 4].mean(axis=-1)


def mean(scores: ArrayLike, axis: int = -1) -> Any:
    """Return the mean; the same call as :func:`iqm`."""
    return np.asarray(scores, np.float64).mean(axis=axis)


def stratified_bootstrap(
    strata: Sequence[ArrayLike],
    statistic: Statistic = iqm,
    *,
    level: float = LEVEL,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of a statistic over all runs, resampled within each stratum.

    Parameters
    ----------
    strata : sequence of (n_k,) array_like of float
        The scores of each stratum, n_k ≥ 1, finite. They are put together as they are: where environments have
        different scales, normalise first.
    statistic : callable
        ``statistic(scores, axis=-1)`` of an (R, n) array, for R resamples at once.
    level : float
        In (0, 1).
    n_resamples : int
        ≥ 1.
    seed : int

    Returns
    -------
    (low, high) : float
        NaN where no stratum has two runs: there is nothing to resample.

    Raises
    ------
    ConfigError
        No score, one that is not finite, or a ``level`` or ``n_resamples`` out of range.

    Notes
    -----
    O(R n log n) for the IQM; memory is bounded, whatever R is.

    Source
    ------
    Agarwal et al. (2021), section 4.1 (stratified bootstrap with percentile intervals).
    """
    scores = _strata(strata, "strata")
    _check(level, n_resamples)
    if max(map(len, scores)) < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(derive(seed, "bootstrap"))
    width = sum(map(len, scores))
    found = [
        statistic(np.concatenate([values[generator.integers(len(values), size=(r, len(values)))] for values in scores], 1),
                  axis=-1)
        for r in _blocks(n_resamples, width)
    ]  # fmt: skip
    return _interval(np.concatenate(found), level)


def difference(
    x: Sequence[ArrayLike],
    y: Sequence[ArrayLike],
    statistic: Statistic = iqm,
    *,
    level: float = LEVEL,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return statistic(x) − statistic(y), and its percentile interval with both resampled.

    Parameters
    ----------
    x, y : sequence of (n_k,) and (m_k,) array_like of float
        The strata of two groups, as in :func:`stratified_bootstrap`.

    Returns
    -------
    (difference, low, high) : float
        The interval is NaN where neither group has a stratum with two runs.
    """
    ours, theirs = _strata(x, "x"), _strata(y, "y")
    _check(level, n_resamples)
    point = float(statistic(np.concatenate(ours)) - statistic(np.concatenate(theirs)))
    if max(map(len, [*ours, *theirs])) < 2:
        return point, math.nan, math.nan
    generator = np.random.default_rng(derive(seed, "bootstrap/difference"))
    found = []
    for r in _blocks(n_resamples, sum(map(len, [*ours, *theirs]))):
        of_x, of_y = (
            statistic(np.concatenate([v[generator.integers(len(v), size=(r, len(v)))] for v in side], 1), axis=-1)
            for side in (ours, theirs)
        )
        found.append(of_x - of_y)
    return point, *_interval(np.concatenate(found), level)


def probability_of_improvement(x: Sequence[ArrayLike], y: Sequence[ArrayLike]) -> float:
    """Return the probability that a run of X scores higher than one of Y, averaged over environments.

    P(X > Y) = 1/K Σₖ U(Xₖ, Yₖ) / (nₖ mₖ), where U counts the pairs (x, y) with x > y, ties as one half (Mann–Whitney).

    Parameters
    ----------
    x, y : sequence of (n_k,) and (m_k,) array_like of float
        Scores in environment k of either group; both have the same K ≥ 1 environments, in the same order.

    Returns
    -------
    float
        In [0, 1]; one half where neither is better.

    Raises
    ------
    ConfigError
        Different numbers of environments, no score, or one that is not finite.

    Source
    ------
    Agarwal et al. (2021), section 4.3 and appendix A.5; ``rliable.metrics.probability_of_improvement``.

    Examples
    --------
    >>> probability_of_improvement([[1.0, 3.0]], [[2.0, 3.0]])
    0.375
    """
    return float(np.mean([_wins(a, b).mean() for a, b in _pairs(x, y)]))


def improvement_interval(
    x: Sequence[ArrayLike],
    y: Sequence[ArrayLike],
    *,
    level: float = LEVEL,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of the probability of improvement, runs of both resampled in each environment.

    Parameters
    ----------
    x, y : as in :func:`probability_of_improvement`

    Returns
    -------
    (low, high) : float
        NaN where no group has two runs in any environment.

    Notes
    -----
    A resample is the share of draws that each run had, so its value is a bilinear form of the (n, m) table of wins.
    """
    pairs = _pairs(x, y)
    _check(level, n_resamples)
    if max(max(len(a), len(b)) for a, b in pairs) < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(derive(seed, "bootstrap/improvement"))
    total: Floats = np.zeros(n_resamples)
    for a, b in pairs:
        wins, at = _wins(a, b), 0
        for r in _blocks(n_resamples, len(a) + len(b)):
            total[at : at + r] += ((_drawn(generator, r, len(a)) @ wins) * _drawn(generator, r, len(b))).sum(1)
            at += r
    return _interval(total / len(pairs), level)


def summarize(strata: Sequence[ArrayLike], *, level: float = LEVEL, seed: int = 0) -> Summary:
    """Return the figures of one group, with the stratified bootstrap interval of its IQM."""
    scores = np.concatenate(_strata(strata, "strata"))
    low, high = stratified_bootstrap(strata, level=level, seed=seed)
    std = float(scores.std(ddof=1)) if len(scores) > 1 else math.nan
    return Summary(len(scores), float(scores.mean()), std, float(np.median(scores)), float(iqm(scores)), low, high)


def _wins(a: Floats, b: Floats) -> Floats:
    """The (n, m) table: 1 where a run of the first scores higher, one half where they are equal."""
    return np.greater(a[:, None], b).astype(np.float64) + 0.5 * np.equal(a[:, None], b)


def _drawn(generator: np.random.Generator, r: int, n: int) -> Floats:
    """The (r, n) shares of n draws with replacement that fell on each of n runs."""
    cells = generator.integers(n, size=(r, n)) + n * np.arange(r)[:, None]
    return np.bincount(cells.reshape(-1), minlength=r * n).reshape(r, n) / n


def _pairs(x: Sequence[ArrayLike], y: Sequence[ArrayLike]) -> list[tuple[Floats, Floats]]:
    ours, theirs = _strata(x, "x"), _strata(y, "y")
    if len(ours) != len(theirs):
        raise ConfigError(f"x has {len(ours)} environments and y has {len(theirs)}, must be the same")
    return list(zip(ours, theirs, strict=True))


def _strata(strata: Sequence[ArrayLike], name: str) -> list[Floats]:
    """Return the strata as arrays; ConfigError where there is nothing in one, or a number that is not finite."""
    arrays = [np.asarray(scores, np.float64) for scores in strata]
    if not arrays or any(a.ndim != 1 or not len(a) for a in arrays):
        shapes = ", ".join(str(a.shape) for a in arrays) or "none"
        raise ConfigError(f"{name} has scores of shapes {shapes}, must be one row of at least one score per environment")
    bad = sum(int((~np.isfinite(a)).sum()) for a in arrays)
    if bad:
        raise ConfigError(f"{name} has {bad} scores that are NaN or infinite, must be finite")
    return arrays


def _check(level: float, n_resamples: int) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}, must be in (0, 1)", param="level", value=level)
    if n_resamples < 1:
        raise ConfigError(f"n_resamples is {n_resamples}, must be at least 1", param="n_resamples", value=n_resamples)


def _blocks(n_resamples: int, width: int) -> Iterator[int]:
    """Yield how many resamples to draw at a time."""
    size = max(1, _BLOCK // width)
    for start in range(0, n_resamples, size):
        yield min(size, n_resamples - start)


def _interval(values: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
