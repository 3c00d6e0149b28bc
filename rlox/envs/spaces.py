"""Observations as flat float32 vectors, actions between [-1, 1] and the environment's own units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..errors import SpaceError, printable

SUPPORTED_OBS = "Box (at most rank 2 when uint8), Discrete, MultiBinary, MultiDiscrete and Dict of these"
SUPPORTED_ACTIONS = "Box with finite bounds and Discrete"
UNBOUNDED = 1e37  # half a range as large as float32 goes is a way of writing "no bound"
MAX_DIM = 1_000_000  # one-hot of a huge Discrete would otherwise ask for gigabytes

Float32 = NDArray[np.float32]


class ObsSpace:
    """Encode the observations of a space as flat float32 vectors.

    A Box of any shape is flattened and cast, Discrete and each part of MultiDiscrete become one-hot, MultiBinary 0/1;
    the parts of a Dict are concatenated in sorted order of their keys.

    Parameters
    ----------
    space : gymnasium.Space
        Box, Discrete, MultiBinary, MultiDiscrete or Dict of these.

    Attributes
    ----------
    space : gymnasium.Space
    dim : int
        Length of the encoded vector.

    Raises
    ------
    SpaceError
        For Tuple, Text, Graph, Sequence, images (uint8 of rank 3), empty and gigantic spaces.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space = space
        self._parts = _parts(space, "")
        self.dim = sum(part.dim for part in self._parts)
        if not 0 < self.dim <= MAX_DIM:
            raise SpaceError(f"{describe(space)} has {self.dim} values per observation, must be 1…{MAX_DIM}")
        self._box_shape = space.shape if isinstance(space, spaces.Box) else None
        is_float = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
        self._fast_shape = self._box_shape if is_float else None

    def encode(self, obs: Any) -> Float32:
        """Return one observation as a fresh (dim,) float32 array; ValueError when it does not belong to the space."""
        out = np.empty(self.dim, np.float32)
        self.write(obs, out)
        return out

    def write(self, obs: Any, out: Float32) -> None:
        """Write one observation into ``out``, a (dim,) float32 array; ValueError names what does not fit."""
        if type(obs) is np.ndarray and obs.shape == self._fast_shape and obs.dtype.kind == "f":
            out[:] = obs if obs.ndim == 1 else obs.reshape(-1)
            return
        start = 0
        for part in self._parts:
            part.write(part.find(obs), out[start : start + part.dim])
            start += part.dim

    def encode_batch(self, obs: Any) -> Float32:
        """Return observations as a fresh (N, dim) float32 array.

        Parameters
        ----------
        obs : sequence of observations, or batched array (N, …), or mapping of batched arrays for a Dict space

        Raises
        ------
        ValueError
            When an observation does not belong to the space.
        """
        if type(obs) is np.ndarray and self._box_shape is not None and obs.shape[1:] == self._box_shape:
            if obs.dtype.kind in "biuf":
                return obs.reshape(len(obs), self.dim).astype(np.float32)
        if isinstance(obs, Sequence):
            rows = obs
        else:
            leaf = obs
            while isinstance(leaf, Mapping):
                leaf = next(iter(leaf.values()))
            if np.ndim(leaf) == 0:
                raise ValueError(f"a batch of observations is needed, got {_what(obs)}")
            rows = [_pick(obs, i) for i in range(len(leaf))]
        out = np.empty((len(rows), self.dim), np.float32)
        for row, one in zip(out, rows, strict=True):
            self.write(one, row)
        return out

    def cast(self, obs: Any) -> Any:
        """Return one or many observations with integers and floats in the dtypes of the space, where that is exact.

        Raises
        ------
        ValueError
            Naming a number that the dtype does not have, e.g. 300 where the space has uint8.
        """
        return _cast(self.space, obs, "observation")

    def entry(self, i: int) -> str:
        """Return what the user calls entry ``i`` of an encoded observation, e.g. ``observation['goal'] entry 1``."""
        for part in self._parts:
            if i < part.dim:
                return f"{part.name} entry {i}"
            i -= part.dim
        raise IndexError(i)

    def check(self, obs: Any) -> None:
        """Raise ValueError unless ``obs`` lies in the space: structure, shape, kind of dtype and bounds."""
        for part in self._parts:
            value = part.find(obs)
            part.write(value, np.empty(part.dim, np.float32))
            part.check_bounds(value)


class ActionSpace:
    """Translate actions between [-1, 1] per dimension and the environment's own units.

    Parameters
    ----------
    space : gymnasium.Space
        Box of floats with finite bounds and low < high everywhere (any shape; flattened here), or Discrete.

    Attributes
    ----------
    space : gymnasium.Space
    discrete : bool
    dim : int
        Numbers per action; 1 when discrete.
    n : int
        Number of discrete actions; 0 for a Box.
    start : int
        The first discrete action in the environment's units.
    shape : tuple of int
        Shape of one action as the environment takes it.
    low, high : (dim,) float32 arrays
        Bounds; for Discrete the first and last action.

    Raises
    ------
    SpaceError
        Naming the bound and the index that cannot be used.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space = space
        self.discrete = isinstance(space, spaces.Discrete)
        self.n = self.start = 0
        self.shape: tuple[int, ...] = ()
        if isinstance(space, spaces.Discrete):
            self.n, self.start, self.dim = int(space.n), int(space.start), 1
            self.dtype = np.dtype(np.int64)
            low, high = np.array([self.start], np.float32), np.array([self.start + self.n - 1], np.float32)
        elif isinstance(space, spaces.Box):
            low, high = _check_action_box(space)
            self.dim, self.shape, self.dtype = low.size, space.shape, space.dtype
        else:
            raise SpaceError(f"{describe(space)} actions are not supported, supported are {SUPPORTED_ACTIONS}")
        self.low: Float32 = low
        self.high: Float32 = high
        self._middle: Float32 = ((low.astype(np.float64) + high) / 2).astype(np.float32)
        self._half: Float32 = ((high.astype(np.float64) - low) / 2).astype(np.float32)

    def to_env(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Return (…, dim) actions in [-1, 1] as float32 in the environment's units, never outside its bounds.

        For Discrete: indices from 0 become the environment's int64 actions.
        """
        if self.discrete:
            return np.asarray(actions, np.int64) + self.start
        out = np.asarray(actions, np.float32) * self._half
        out += self._middle
        np.maximum(out, self.low, out=out)  # NaN stays NaN
        np.minimum(out, self.high, out=out)
        return out

    def from_env(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Return (…, dim) actions in the environment's units as float32 in [-1, 1]; Discrete as indices from 0."""
        if self.discrete:
            return np.asarray(actions, np.int64) - self.start
        out = (np.asarray(actions, np.float32) - self._middle) / self._half
        np.maximum(out, np.float32(-1), out=out)
        np.minimum(out, np.float32(1), out=out)
        return out


def describe(space: object) -> str:
    """Return a space as short printable text for messages, e.g. ``Discrete(2)``."""
    return printable(" ".join(str(space).split()), 120)


def same_space(a: gym.Space[Any], b: gym.Space[Any]) -> bool:
    """Return whether two spaces have the same type, shape, dtype and bounds."""
    return bool(type(a) is type(b) and a == b)


class _Part:
    """One leaf of an observation space: where it is found and how it is written."""

    dim: int

    def __init__(self, space: Any, path: tuple[str, ...]) -> None:
        self.space = space
        self.path = path
        self.name = "observation" + "".join(f"[{printable(key, 40)!r}]" for key in path)

    def find(self, obs: Any) -> Any:
        for depth, key in enumerate(self.path):
            if not isinstance(obs, Mapping) or key not in obs:
                keys = f"keys {printable(sorted(map(str, obs)))}" if isinstance(obs, Mapping) else _what(obs)
                raise ValueError(f"observation has no {'/'.join(self.path[: depth + 1])!r}, it has {keys}")
            obs = obs[key]
        return obs

    def array(self, value: Any) -> NDArray[Any]:
        """Return the value as an array of the space's shape, or say what is wrong."""
        if isinstance(value, Mapping):
            raise ValueError(f"{self.name} is {_what(value)}, must be an array of {describe(self.space)}")
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{self.name} is not an array: {error}") from error
        if array.dtype.kind not in "biuf" or not np.can_cast(array.dtype, self.space.dtype, "same_kind"):
            raise ValueError(f"{self.name} has dtype {array.dtype}, must be {self.space.dtype}")
        if array.shape != self.space.shape:
            raise ValueError(f"{self.name} has shape {array.shape}, must be {self.space.shape}")
        return array

    def check_bounds(self, value: Any) -> None:
        """Raise ValueError naming the first entry outside the space; parts that are checked at writing do nothing."""

    def write(self, value: Any, out: Float32) -> None:
        out[:] = self.array(value).reshape(-1)


class _BoxPart(_Part):
    def __init__(self, space: spaces.Box, path: tuple[str, ...]) -> None:
        super().__init__(space, path)
        if space.dtype == np.uint8 and len(space.shape) == 3:
            raise SpaceError(
                f"{self.name}: images are not supported, got {describe(space)}; supported are {SUPPORTED_OBS}"
            )
        self.dim = int(np.prod(space.shape, dtype=np.int64))

    def check_bounds(self, value: Any) -> None:
        cast = self.array(value).astype(self.space.dtype).reshape(-1)
        low, high = self.space.low.reshape(-1), self.space.high.reshape(-1)
        outside = np.flatnonzero(~((cast >= low) & (cast <= high)))
        if outside.size:
            i = int(outside[0])
            raise ValueError(f"{self.name} entry {i} is {cast[i]}, outside its space [{low[i]}, {high[i]}]")


class _BinaryPart(_Part):
    def __init__(self, space: spaces.MultiBinary, path: tuple[str, ...]) -> None:
        super().__init__(space, path)
        self.dim = int(np.prod(space.shape, dtype=np.int64))

    def check_bounds(self, value: Any) -> None:
        if not np.isin(self.array(value), (0, 1)).all():
            raise ValueError(f"{self.name} is {printable(value)}, must be 0 and 1 only")


class _OneHotPart(_Part):
    """Discrete, or the parts of MultiDiscrete side by side; always checked, since a wrong index has no code."""

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete, path: tuple[str, ...]) -> None:
        super().__init__(space, path)
        sizes = space.n if isinstance(space, spaces.Discrete) else space.nvec
        self.sizes = np.asarray(sizes, np.int64).reshape(-1)
        self.starts = np.broadcast_to(np.asarray(space.start, np.int64).reshape(-1), self.sizes.shape)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        self.dim = int(self.sizes.sum())

    def write(self, value: Any, out: Float32) -> None:
        index = self.array(value).reshape(-1).astype(np.int64) - self.starts
        wrong = np.flatnonzero((index < 0) | (index >= self.sizes))
        if wrong.size:
            i = int(wrong[0])
            low = int(self.starts[i])
            got = int(index[i]) + low
            raise ValueError(f"{self.name} entry {i} is {got}, must be in {low}…{low + int(self.sizes[i]) - 1}")
        out[:] = 0
        out[self.offsets + index] = 1


def _parts(space: Any, where: str, path: tuple[str, ...] = ()) -> list[_Part]:
    if isinstance(space, spaces.Box):
        return [_BoxPart(space, path)]
    if isinstance(space, spaces.MultiBinary):
        return [_BinaryPart(space, path)]
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return [_OneHotPart(space, path)]
    if isinstance(space, spaces.Dict):
        keys = sorted(space.spaces)
        return [part for key in keys for part in _parts(space.spaces[key], f"{where}{key}/", (*path, key))]
    at = f" at {printable(where.rstrip('/'), 80)!r}" if where else ""
    raise SpaceError(f"{describe(space)} observations{at} are not supported, supported are {SUPPORTED_OBS}")


def _cast(space: Any, obs: Any, name: str) -> Any:
    if isinstance(space, spaces.Dict):
        if isinstance(obs, Mapping):
            known = space.spaces
            return {k: _cast(known[k], v, f"{name}[{printable(k, 40)!r}]") if k in known else v for k, v in obs.items()}
        return [_cast(space, one, name) for one in obs] if isinstance(obs, list | tuple) else obs
    try:
        array = np.asarray(obs)
    except ValueError:  # a ragged list: whoever reads it next says so
        return obs
    if array.dtype.kind not in "biuf" or np.can_cast(array.dtype, space.dtype, "same_kind"):
        return obs
    with np.errstate(invalid="ignore"):
        cast = array.astype(space.dtype)
    wrong = np.argwhere(cast != array)
    if len(wrong):
        raise ValueError(f"{name} has the number {array[tuple(wrong[0])]}, which is none of {space.dtype}")
    return cast


def _check_action_box(space: spaces.Box) -> tuple[Float32, Float32]:
    if space.dtype is None or space.dtype.kind != "f":
        raise SpaceError(f"action Box has dtype {space.dtype}, must be a float type")
    with np.errstate(over="ignore"):
        low = space.low.astype(np.float32).reshape(-1)
        high = space.high.astype(np.float32).reshape(-1)
        half = high / 2 - low / 2
    if low.size == 0:
        raise SpaceError(f"action Box has shape {space.shape}, must have at least one dimension of actions")
    for name, bound in (("low", low), ("high", high)):
        for i in np.flatnonzero(~np.isfinite(bound))[:1]:
            kind = "NaN" if np.isnan(bound[i]) else f"unbounded ({bound[i]})"
            raise SpaceError(f"action Box {name}[{i}] is {kind}, must be finite")
    for i in np.flatnonzero(np.abs(half) >= UNBOUNDED)[:1]:
        raise SpaceError(f"action Box is unbounded at index {i}: low {low[i]}, high {high[i]}")
    for i in np.flatnonzero(~(half > 0))[:1]:  # also where the difference is too small for float32
        raise SpaceError(f"action Box has low[{i}] {low[i]} and high[{i}] {high[i]}, low must be below high")
    return low, high


def _pick(batch: Any, i: int) -> Any:
    return {key: _pick(value, i) for key, value in batch.items()} if isinstance(batch, Mapping) else batch[i]


def _what(value: object) -> str:
    return f"{type(value).__name__} {printable(value, 60)}"
