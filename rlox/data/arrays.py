"""From a caller's arrays to checked columns with episode boundaries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._ext.layout import Array, Layout, cast
from ..errors import DatasetError

_ADVICE = "all columns hold one row per transition"


@dataclass(frozen=True)
class Columns:
    """Transitions by column, with the end of every episode flagged.

    ``terminated`` and ``truncated`` are never both set; the last row always has one of them, ``tail`` says that it had
    none. ``next_obs`` is None where the next observation is that of the next row of the episode.
    """

    obs: Array
    next_obs: Array | None
    actions: Array
    rewards: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    tail: bool

    @property
    def layout(self) -> Layout:
        """Return the layout of one row; single integers are discrete actions."""
        shapes = self.obs.shape[1:], self.actions.shape[1:]
        return Layout(shapes[0], self.obs.dtype, shapes[1], self.actions.dtype, len(self.obs))

    @property
    def unknown(self) -> npt.NDArray[np.bool_]:
        """Mark rows whose next observation is missing although a target needs it: truncated, nothing stored."""
        return self.truncated if self.next_obs is None else np.zeros_like(self.truncated)

    def starts(self) -> npt.NDArray[np.int64]:
        """Return the first row of each episode."""
        ends = np.flatnonzero(self.terminated | self.truncated)
        return np.concatenate(([0], ends[:-1] + 1)).astype(np.int64)

    def kinds(self) -> npt.NDArray[np.uint8]:
        """Return what ``ColumnStore`` wants to know of each row: the flags and where its next observation is."""
        flags = self.terminated.view(np.uint8) | (self.truncated.view(np.uint8) << 1)
        if self.next_obs is not None:
            return np.asarray(flags | 8, np.uint8)
        return np.asarray(np.where(flags != 0, flags | 4, flags), np.uint8)


def check_columns(
    given: Mapping[str, Any], obs_dim: int | tuple[int, ...] | None, act_dim: int | None, *, finite: bool = True
) -> Columns:
    """Return the arrays as columns; what already has the right dtype and layout is not copied.

    Parameters
    ----------
    given : mapping
        obs, actions, rewards, terminated; next_obs and truncated may be absent or None.
    obs_dim, act_dim : optional
        How to cut flat arrays into rows; without them the number of rewards decides.
    finite : bool
        False leaves out the search for NaN and infinity, for values that were checked before.

    Raises
    ------
    DatasetError
        Naming the column: wrong shape or dtype, other length, no rows, NaN, flags other than 0 and 1.
    """
    try:
        rewards = _scalars("rewards", given["rewards"], np.float32)
        n = len(rewards)
        if n == 0:
            raise DatasetError("the dataset has no rows")
        obs = _rows("obs", given["obs"], n, obs_dim, _obs_dtype(given["obs"], obs_dim))
        next_obs = given.get("next_obs")
        if next_obs is not None:
            next_obs = _rows("next_obs", next_obs, n, obs.shape[1:], obs.dtype)
        actions = _actions(given["actions"], n, act_dim)
        terminated = _scalars("terminated", given["terminated"], np.bool_)
        truncated = given.get("truncated")
        truncated = np.zeros(n, np.bool_) if truncated is None else _scalars("truncated", truncated, np.bool_)
    except (TypeError, ValueError) as error:
        raise DatasetError(str(error)) from error
    for name, flags in (("terminated", terminated), ("truncated", truncated)):
        if len(flags) != n:
            raise DatasetError(f"'{name}' has {len(flags)} rows, 'rewards' has {n}", hint=_ADVICE)
    if finite:
        for name, column in (("obs", obs), ("next_obs", next_obs), ("actions", actions), ("rewards", rewards)):
            _check_finite(name, column)
    truncated = truncated & ~terminated
    tail = not (terminated[-1] or truncated[-1])
    truncated[-1] |= tail
    return Columns(obs, next_obs, actions, rewards, terminated, truncated, tail)


def _scalars(name: str, value: object, dtype: npt.DTypeLike) -> Array:
    array = np.asarray(value)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DatasetError(f"'{name}' has shape {array.shape}, must be (n,)")
    return cast(f"'{name}'", array, np.dtype(dtype))


def _obs_dtype(value: object, obs_dim: object) -> np.dtype[Any]:
    """Images keep their bytes; everything else becomes float32."""
    array = np.asarray(value)
    image = array.dtype == np.uint8 and (array.ndim > 2 or (isinstance(obs_dim, tuple) and len(obs_dim) > 1))
    return np.dtype(np.uint8 if image else np.float32)


def _rows(name: str, value: object, n: int, dim: int | tuple[int, ...] | None, dtype: np.dtype[Any]) -> Array:
    """Return ``value`` as n rows of this size or shape; flat arrays are cut."""
    array = np.asarray(value)
    if array.ndim > 1 and len(array) != n:
        raise DatasetError(f"'{name}' has {len(array)} rows, 'rewards' has {n}", hint=_ADVICE)
    shape = (dim,) if isinstance(dim, int) else dim
    if shape is None:
        if array.ndim == 0 or array.size == 0 or array.size % n:
            raise DatasetError(f"'{name}' has shape {array.shape}, which is not {n} rows (as many as 'rewards' has)")
        shape = array.shape[1:] if array.ndim > 1 else (array.size // n,)
    if array.size != n * math.prod(shape):
        raise DatasetError(f"'{name}' has shape {array.shape}, must be {(n, *shape)}")
    return cast(f"'{name}'", array, dtype).reshape(n, *shape)


def _actions(value: object, n: int, act_dim: int | None) -> Array:
    """Return (n, act_dim) float32, or (n,) int64 for one integer per row."""
    array = np.asarray(value)
    if array.dtype.kind in "biu" and array.size == n and array.ndim <= 2 and act_dim in (None, 1):
        discrete = _rows("actions", array, n, 1, np.dtype(np.int64)).reshape(n)
        if discrete.min() < 0:
            row = int(np.argmax(discrete < 0))
            raise DatasetError(f"'actions' has the discrete action {discrete[row]}, first in row {row}; least is 0")
        return discrete
    if array.ndim > 2 and act_dim is None:
        act_dim = math.prod(array.shape[1:])
    return _rows("actions", array, n, act_dim, np.dtype(np.float32))


def _check_finite(name: str, column: Array | None) -> None:
    if column is None or column.dtype.kind != "f":
        return
    bad = ~np.isfinite(column)
    if bad.any():
        count = int(bad.sum())
        row = int(np.argmax(bad.reshape(len(column), -1).any(axis=1)))
        what = "values that are" if count > 1 else "value that is"
        raise DatasetError(
            f"'{name}' has {count} {what} NaN or infinite, first in row {row}",
            hint="leave their episodes out",
            value=row,
        )
