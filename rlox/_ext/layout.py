"""How one transition lies in memory, and how a caller's values become such bytes.

Everything here runs once per buffer or on the slow path of a push; the kernels are in ``rows.pyx``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError, CheckpointMismatchError, ConfigError, printable
from ..files import available_memory, human_bytes

Array = npt.NDArray[Any]
Batch = dict[str, Array]

ALIGNMENT = 64  # bytes: one cache line, and what makes a matrix product repeatable bit for bit
_NARROW_LIMIT = 2**29 - 1  # rows that the 32-bit tail word can number: 3 bits are flags, all ones means "not yet known"


@dataclass(frozen=True)
class Layout:
    """The bytes of one row: ``[obs | action | reward f4 | tail word]``, each part on 4 bytes.

    The tail word holds terminated (bit 0), truncated (bit 1), whether the next observation is in the side table
    (bit 2), and above them its row or slot number. It has 32 bits, or 64 in a store of half a billion rows and more.
    """

    obs_shape: tuple[int, ...]
    obs_dtype: np.dtype[Any]
    act_shape: tuple[int, ...]
    act_dtype: np.dtype[Any]
    capacity: int

    @property
    def obs_bytes(self) -> int:
        return math.prod(self.obs_shape) * self.obs_dtype.itemsize

    @property
    def act_bytes(self) -> int:
        return math.prod(self.act_shape) * self.act_dtype.itemsize

    @property
    def act_at(self) -> int:
        return _round_up(self.obs_bytes, 4)

    @property
    def reward_at(self) -> int:
        return _round_up(self.act_at + self.act_bytes, 4)

    @property
    def word_at(self) -> int:
        return self.reward_at + 4

    @property
    def word_bytes(self) -> int:
        return 4 if self.capacity < _NARROW_LIMIT else 8

    @property
    def row_bytes(self) -> int:
        return self.word_at + self.word_bytes

    @property
    def slot_bytes(self) -> int:
        """Bytes of one observation in the side table; a free slot holds the 8-byte number of the next free one."""
        return max(8, _round_up(self.obs_bytes, 4))

    @property
    def chunk_slots(self) -> int:
        """Slots by which the side table grows: about a sixteenth of the capacity, a power of two."""
        return 1 << max(0, (self.capacity - 1) // 16).bit_length()

    def first_chunks(self, n_envs: int) -> int:
        """Return how many chunks there are at first: a sixteenth of the capacity and a slot per environment."""
        slots = min(self.capacity, -(-self.capacity // 16) + n_envs)
        return -(-slots // self.chunk_slots)

    @property
    def most_chunks(self) -> int:
        return -(-self.capacity // self.chunk_slots)

    def chunk_bytes(self, i: int) -> int:
        """Return the bytes of chunk ``i``; the last one is cut where the slots reach the capacity."""
        return min(self.chunk_slots, self.capacity - i * self.chunk_slots) * self.slot_bytes

    def nbytes(self, n_envs: int) -> int:
        """Return every byte that a store of this layout allocates at its start."""
        rows = self.capacity * self.row_bytes + ALIGNMENT
        chunks = sum(self.chunk_bytes(i) + ALIGNMENT for i in range(self.first_chunks(n_envs)))
        # Chunk addresses; number and newest row of each environment.
        return rows + chunks + 8 * self.most_chunks + 16 * n_envs

    def check(self) -> Layout:
        """Return self, or raise ConfigError when a part is empty or the bytes do not fit 63 bits."""
        if self.obs_bytes < 1 or self.act_bytes < 1:
            raise ConfigError(f"observations of shape {self.obs_shape} or actions of shape {self.act_shape} are empty")
        if self.capacity * (self.row_bytes + self.slot_bytes) >= 2**62:
            raise ConfigError(
                f"capacity is {self.capacity}, with {self.row_bytes} bytes a row that is more than can be addressed",
                param="capacity",
                value=self.capacity,
            )
        return self

    def views(self, rows: Array, n: int) -> tuple[Array, Array, Array]:
        """Return obs, actions and rewards of the first ``n`` rows as strided views of the row bytes."""
        parts = (
            (self.obs_shape, self.obs_dtype, 0),
            (self.act_shape, self.act_dtype, self.act_at),
            ((), np.dtype(np.float32), self.reward_at),
        )
        return tuple(_column(rows, n, self.row_bytes, *part) for part in parts)  # type: ignore[return-value]


def _column(rows: Array, n: int, step: int, shape: tuple[int, ...], dtype: np.dtype[Any], at: int) -> Array:
    inner = [dtype.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape))]
    view: Array = np.ndarray((n, *shape), dtype, buffer=rows.data, offset=at, strides=(step, *inner))
    view.flags.writeable = False
    return view


def _round_up(n: int, to: int) -> int:
    return -(-n // to) * to


def aligned_empty(nbytes: int) -> Array:
    """Return ``nbytes`` untouched bytes that start on a cache line (the array below holds ``ALIGNMENT`` more)."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes]


def check_memory(needed: int, what: str, hint: str) -> None:
    """Raise ConfigError when ``needed`` bytes are more than this process can still get."""
    free = available_memory()
    if needed > free:
        raise ConfigError(f"{what} needs {human_bytes(needed)}, {human_bytes(free)} are free", hint=hint, value=needed)


def cast(name: str, value: object, dtype: np.dtype[Any]) -> Array:
    """Return ``value`` as a native C-contiguous array of ``dtype`` that holds the same numbers.

    Rounding to a narrower float is the one change allowed.

    Raises
    ------
    TypeError
        Not an array of real numbers.
    ValueError
        A number that ``dtype`` cannot hold: too large, a fraction or NaN for integers, other than 0 and 1 for bool.
    """
    array = np.asarray(value)
    if array.dtype == dtype:
        return np.require(array, dtype, ["C", "A"])
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {array.dtype}, must be real numbers that fit {dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(dtype, order="C")
    bad = np.isfinite(array) & ~np.isfinite(result) if dtype.kind == "f" else result != array
    if np.any(bad):
        raise ValueError(f"{name} holds {array[bad].flat[0].item()!r}, which {dtype} cannot hold")
    return result


def one_row(name: str, value: object, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return one observation or action as ``dtype`` in ``shape``; flat and with a leading 1 are the same bytes."""
    array = cast(name, value, dtype)
    size = math.prod(shape)
    if array.shape not in (shape, (1, *shape), (size,)) and not array.size == size == 1:
        raise ValueError(f"{name} has shape {array.shape}, must be {shape}")
    return array


def many_rows(name: str, value: object, dtype: np.dtype[Any], shape: tuple[int, ...], n: int = -1) -> Array:
    """Return ``n`` (−1: any number of) rows as ``dtype``, the first axis counting them; each may be flat."""
    array = cast(name, value, dtype)
    size = math.prod(shape)
    if array.ndim == 0 or (array.shape[1:] not in (shape, (size,)) and (size > 1 or array.size != len(array))):
        raise ValueError(f"{name} has shape {array.shape}, must be (n, {', '.join(map(str, shape))})")
    if n >= 0 and len(array) != n:
        raise ValueError(f"{name} has {len(array)} rows, obs has {n}")
    return array


def index_array(name: str, value: object, limit: int) -> npt.NDArray[np.int64]:
    """Return ``value`` as a 1-D int64 array with every number in 0…limit−1."""
    array = cast(name, value, np.dtype(np.int64))
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}, must be one-dimensional")
    if array.size and not (0 <= array.min() and array.max() < limit):
        worst = array[(array < 0) | (array >= limit)][0]
        raise ValueError(f"{name} holds {worst}, must be in 0…{limit - 1}")
    return array


def count(name: str, value: Any, least: int = 1) -> int:
    """Return ``value`` as an int of at least ``least``, or raise ConfigError."""
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__") or value.__index__() < least:
        raise ConfigError(f"{name} is {value!r}, must be an integer of at least {least}", param=name, value=value)
    return int(value.__index__())


def obs_spec(obs_dim: Any, obs_dtype: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of an observation from a size, a shape or a space.

    A space of whole numbers or bools keeps its dtype unless another than float32 is asked for; one of float64 does not.
    """
    try:
        dtype = np.dtype(obs_dtype).newbyteorder("=")
    except TypeError as error:
        raise ConfigError(f"obs_dtype is {obs_dtype!r}, must name a NumPy dtype", param="obs_dtype") from error
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise ConfigError(f"obs_dtype is {dtype}, must be bool, an integer or float16, 32 or 64", param="obs_dtype")
    if hasattr(obs_dim, "contains"):
        shape, own = space_shape(obs_dim, "observation")
        return shape, own if dtype == np.float32 and own.kind in "biu" else dtype
    if isinstance(obs_dim, Sequence) and not isinstance(obs_dim, str):
        return tuple(count("obs_dim", d) for d in obs_dim), dtype
    return (count("obs_dim", obs_dim),), dtype


def act_spec(act_dim: Any, discrete: bool) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of an action from a size or a space: (act_dim,) float32, or () int64 when discrete."""
    if hasattr(act_dim, "contains"):
        shape, own = space_shape(act_dim, "action")
        if hasattr(act_dim, "n") and shape == ():
            return (), np.dtype(np.int64)
        if own.kind != "f" and not hasattr(act_dim, "low"):
            raise ConfigError(f"an action space {type(act_dim).__name__} is not supported, must be Box or Discrete")
        return (math.prod(shape),), np.dtype(np.float32)
    size = count("act_dim", act_dim)
    return ((), np.dtype(np.int64)) if discrete else ((size,), np.dtype(np.float32))


def space_shape(space: Any, what: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of a space of one array, or raise ConfigError."""
    if getattr(space, "shape", None) is None or getattr(space, "dtype", None) is None:
        raise ConfigError(
            f"the {what} space is {type(space).__name__}, must be of one array (Box, Discrete, MultiBinary …)",
            hint="flatten it to one vector first, as the environments of rlox do",
        )
    dtype = np.dtype(space.dtype)
    if dtype.kind not in "biuf":
        raise ConfigError(f"the {what} space {type(space).__name__} has dtype {dtype}, must be real numbers")
    return tuple(int(d) for d in space.shape), dtype


def saved_number(state: Mapping[str, Any], key: str, least: int) -> int:
    """Return a number of a saved store, or raise CheckpointError."""
    value = state.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**62:
        raise CheckpointError(f"the saved buffer is damaged: {key!r} is {printable(value)}, must be at least {least}")
    return value


def saved_array(state: Mapping[str, Any], key: str, dtype: npt.DTypeLike, shape: tuple[int | None, ...]) -> Array:
    """Return an array (or tensor) of a saved store as a contiguous array; None in ``shape`` is any length."""
    try:
        array = np.asarray(state[key])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the saved buffer is damaged: {key!r} is not there or no array") from error
    wanted = tuple(got if want is None else want for want, got in zip(shape, array.shape, strict=False))
    if array.dtype != dtype or array.ndim != len(shape) or array.shape != wanted:
        raise CheckpointMismatchError(
            f"the saved buffer's {key!r} is {array.dtype} {array.shape}, must be {np.dtype(dtype)} {shape}"
        )
    return np.ascontiguousarray(array)
