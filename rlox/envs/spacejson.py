"""Spaces as JSON, for checkpoints and dataset files: a fixed list of types, limited sizes, nothing evaluated."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import CheckpointError, RloxError, SpaceError, printable
from .spaces import describe

MAX_ELEMENTS = 10_000_000
MAX_DEPTH = 4
DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """Return a Box, Discrete, MultiBinary, MultiDiscrete or Dict as JSON-able values; infinities become text."""
    if isinstance(space, spaces.Box):
        shape, dtype = list(space.shape), str(space.dtype)
        return {"type": "Box", "shape": shape, "dtype": dtype, "low": _bound(space.low), "high": _bound(space.high)}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiBinary):
        n = int(space.n) if isinstance(space.n, int | np.integer) else [int(k) for k in space.n]
        return {"type": "MultiBinary", "n": n}
    if isinstance(space, spaces.MultiDiscrete):
        nvec, start = space.nvec.tolist(), space.start.tolist()
        return {"type": "MultiDiscrete", "nvec": nvec, "start": start, "dtype": str(space.dtype)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: space_to_json(part) for key, part in space.spaces.items()}}
    raise SpaceError(f"{describe(space)} cannot be written to a file")


def space_from_json(value: object, *, error: type[RloxError] = CheckpointError) -> gym.Space[Any]:
    """Rebuild a space from what :func:`space_to_json` returned.

    Parameters
    ----------
    value : object
        Untrusted: every type, size and nesting depth is checked before anything is allocated.
    error : type
        What is raised for anything else than a description of a space.
    """
    try:
        return _build(value, 0)
    except (KeyError, TypeError, ValueError, OverflowError, AssertionError) as problem:
        reason = f"{problem!r} is missing" if isinstance(problem, KeyError) else str(problem)
        raise error(f"not the description of a space: {printable(reason)}") from problem


def _build(value: Any, depth: int) -> gym.Space[Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} instead of an object")
    kind = value.get("type")
    if kind == "Box":
        shape, dtype = _shape(value["shape"]), _dtype(value["dtype"])
        low, high = (_limits(value[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(_integer(value["n"]), start=_integer(value["start"]))
    if kind == "MultiBinary":
        n = value["n"]
        return spaces.MultiBinary(_shape(n) if isinstance(n, list) else _shape([n])[0])
    if kind == "MultiDiscrete":
        nvec, start = (_integers(value[name]) for name in ("nvec", "start"))
        return spaces.MultiDiscrete(nvec, dtype=_dtype(value["dtype"]).type, start=start)
    if kind == "Dict":
        parts = value["spaces"]
        if depth >= MAX_DEPTH or not isinstance(parts, dict) or len(parts) > 1000:
            raise ValueError("a Dict that is nested too deeply, too large or no object")
        return spaces.Dict({str(key): _build(part, depth + 1) for key, part in parts.items()})
    raise ValueError(f"unknown type {kind!r}")


def _bound(bound: np.ndarray[Any, Any]) -> Any:
    """Return one number when all are equal, else a flat list."""
    flat = [_number_to_json(x) for x in bound.reshape(-1).tolist()]
    return flat[0] if flat and all(x == flat[0] for x in flat) else flat


def _number_to_json(x: float) -> float | str:
    return x if math.isfinite(x) else str(x)


def _limits(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    numbers = value if isinstance(value, list) else [value] * math.prod(shape)
    if len(numbers) != math.prod(shape):
        raise ValueError(f"{len(numbers)} bounds for shape {shape}")
    for x in numbers:
        if isinstance(x, bool) or not (isinstance(x, int | float) or x in ("inf", "-inf", "nan")):
            raise ValueError(f"bound {x!r}")
    plain = [float(x) if isinstance(x, str) else x for x in numbers]
    return np.array(plain, dtype).reshape(shape)


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 32:
        raise ValueError(f"shape {value!r}")
    shape = tuple(_integer(n) for n in value)
    if any(n < 0 for n in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"shape {list(shape)} is negative or has more than {MAX_ELEMENTS} elements")
    return shape


def _integers(value: Any) -> np.ndarray[Any, Any]:
    array = np.array(value)
    if array.dtype.kind != "i" or array.size > MAX_ELEMENTS:
        raise ValueError(f"integers expected, got {printable(value, 60)}")
    return array


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise ValueError(f"integer expected, got {printable(value, 60)}")
    return value


def _dtype(name: Any) -> np.dtype[Any]:
    if name not in DTYPES:
        raise ValueError(f"dtype {printable(name, 60)}")
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype
