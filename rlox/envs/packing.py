"""Plain data as bytes and back: one line of JSON for the structure, then the memory of its arrays.

What an environment says about itself crosses pipes and lies in checkpoints in this form. Reading runs nothing, imports
nothing and allocates no more than it was given. What was packed comes back as it was: types of scalars, dtypes and shapes
of arrays, order of keys, NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Literal, NoReturn

import numpy as np

from ..errors import printable

MAX_BYTES = 2**28  # per environment
MAX_OUTLINE = 2**22  # JSON takes many times its length when it is read
MAX_DEPTH = 32
MAX_INT_BITS = 2039  # as in a checkpoint
DTYPES = {
    np.dtype(name).newbyteorder("<").str: name
    for name in (
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "float32", "float64", "complex64", "complex128",
    )
}  # fmt: skip
_MAX_NDIM = 32


def pack(value: Any, limit: int = MAX_BYTES) -> bytes:
    """Return plain data as bytes.

    Parameters
    ----------
    value : None, bool, int, float, str, NumPy scalar, array, or dict, list or tuple of these
        Keys are str or int; arrays hold numbers or booleans.
    limit : int
        In bytes.

    Raises
    ------
    ValueError
        Naming the place of anything else, and for more than ``limit``, 4 MiB of structure or 32 levels.
    """
    chunks: list[bytes] = []
    head = json.dumps(_outline(value, chunks.append, "state", 0), separators=(",", ":")).encode()
    _check_sizes(len(head), len(head) + 1 + sum(map(len, chunks)), limit)
    return b"\n".join((head, b"".join(chunks)))


def unpack(data: bytes, limit: int = MAX_BYTES) -> Any:
    """Return what :func:`pack` was given, its arrays in fresh memory; ValueError unless ``data`` is exactly such bytes."""
    end = data.find(b"\n", 0, MAX_OUTLINE + 1)
    if end < 0:
        raise ValueError("state has no end of its outline")
    _check_sizes(end, len(data), limit)
    head, tail = data[:end], memoryview(data)[end + 1 :]
    try:
        outline = json.loads(head)
    except RecursionError:
        raise ValueError("state is nested too deeply") from None
    reader = _Reader(tail)
    value = reader.build(outline, 0)
    if reader.at != len(tail):
        raise ValueError(f"state has {len(tail)} bytes of arrays, its outline names {reader.at}")
    return value


def _check_sizes(outline: int, whole: int, limit: int) -> None:
    for size, most, what in ((outline, MAX_OUTLINE, "bytes of structure"), (whole, limit, "bytes")):
        if size > most:
            raise ValueError(f"state has {size} {what}, at most {most} are allowed")


def _outline(value: Any, put: Callable[[bytes], None], where: str, depth: int) -> Any:
    """Return the JSON of a value, and hand out the memory of its arrays in the order in which they are named."""
    if depth > MAX_DEPTH:
        raise ValueError(f"{where[:80]}… is nested more than {MAX_DEPTH} levels deep")
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        if value.bit_length() > MAX_INT_BITS:
            raise ValueError(f"{where} is an integer of {value.bit_length()} bits, at most {MAX_INT_BITS} fit")
        return value
    if kind in (list, tuple):
        items = (_outline(item, put, f"{where}[{i}]", depth + 1) for i, item in enumerate(value))
        return [kind.__name__, *items]
    if kind is dict:
        pairs: list[Any] = []
        for key, item in value.items():
            if type(key) not in (str, int):
                raise ValueError(f"{where} has the key {printable(repr(key), 80)}, keys must be str or int")
            name = f"{where}[{printable(repr(key), 80)}]"
            pairs += [_outline(key, put, name, depth + 1), _outline(item, put, name, depth + 1)]
        return ["dict", *pairs]
    return _array_outline(value, put, where)


def _array_outline(value: Any, put: Callable[[bytes], None], where: str) -> Any:
    scalar = isinstance(value, np.generic)
    if not scalar and type(value) is not np.ndarray:
        need = "arrays, numbers, str, None, and dict, list or tuple of these"
        raise ValueError(f"{where} is a {type(value).__name__}, a state holds {need}")
    little = value.dtype.newbyteorder("<").str
    if little not in DTYPES:
        raise ValueError(f"{where} has dtype {value.dtype}, must be one of {', '.join(DTYPES.values())}")
    array = np.asarray(value).astype(little, copy=False)
    by_columns = array.flags.f_contiguous and not array.flags.c_contiguous
    order: Literal["C", "F"] = "F" if by_columns else "C"  # the order decides how a sum is rounded
    put(array.tobytes(order))
    return ["scalar", little] if scalar else ["array", little, order, *array.shape]


class _Reader:
    """Build values from an outline that nobody vouches for."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def build(self, node: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError(f"state is nested more than {MAX_DEPTH} levels deep")
        if not isinstance(node, list):
            return node if not isinstance(node, dict) else _refuse(node)
        kind, rest = (node[0], node[1:]) if node else ("", [])
        if kind in ("list", "tuple"):
            items = [self.build(item, depth + 1) for item in rest]
            return items if kind == "list" else tuple(items)
        if kind == "dict" and len(rest) % 2 == 0:
            keys = rest[::2]
            if any(type(key) not in (str, int) for key in keys) or len(set(keys)) != len(keys):
                return _refuse(node)
            return {key: self.build(item, depth + 1) for key, item in zip(keys, rest[1::2], strict=True)}
        if kind == "array" and len(rest) >= 2 and rest[1] in ("C", "F"):
            return self._array(rest[0], rest[1], rest[2:])
        if kind == "scalar" and len(rest) == 1:
            return self._array(rest[0], "C", [])[()]
        return _refuse(node)

    def _array(self, name: Any, order: Any, shape: list[Any]) -> Any:
        if not isinstance(name, str) or name not in DTYPES or len(shape) > _MAX_NDIM:
            return _refuse([name, *shape[:4]])
        if any(type(n) is not int or not 0 <= n < 2**62 for n in shape):
            return _refuse(shape)
        dtype = np.dtype(name)
        size = math.prod(shape) * dtype.itemsize
        if size > len(self.data) - self.at:
            raise ValueError(f"state names an array of {size} bytes, {len(self.data) - self.at} are left")
        flat = np.frombuffer(self.data, dtype, math.prod(shape), self.at) if size else np.empty(0, dtype)
        self.at += size
        return flat.astype(dtype.newbyteorder("="), copy=True).reshape(shape, order=order)


def _refuse(node: Any) -> NoReturn:
    raise ValueError(f"state has an outline that nobody wrote: {printable(node, 80)}")
