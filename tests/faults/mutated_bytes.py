"""Damage to a file that knows nothing of its format."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Damage = Callable[[Random, bytes, bytes], bytes]


def _flips(draw: Random, data: bytes, other: bytes) -> bytes:
    spoiled = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        spoiled[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(spoiled)


def _run(draw: Random, data: bytes, other: bytes) -> bytes:
    at, n = draw.randrange(len(data)), draw.choice((1, 4, 8, 16, 100, 1000))
    run = draw.choice((bytes(n), b"\xff" * n, draw.randbytes(n)))[: len(data) - at]
    return data[:at] + run + data[at + len(run) :]


def _cut(draw: Random, data: bytes, other: bytes) -> bytes:
    return data[: draw.choice((draw.randrange(len(data)), len(data) - draw.randrange(1, 64), draw.randrange(64)))]


def _splice(draw: Random, data: bytes, other: bytes) -> bytes:
    at = draw.randrange(1, len(data))
    return data[:at] + other[draw.choice((at, draw.randrange(len(other)))) :]


def _transplant(draw: Random, data: bytes, other: bytes) -> bytes:
    at, n = draw.randrange(len(data)), draw.choice((8, 64, 512))
    return data[:at] + other[at : at + n] + data[at + n :]


def _block(draw: Random, data: bytes) -> tuple[int, int]:
    start, n = draw.randrange(len(data)), draw.choice((1, 8, 64, 512, 4096))
    return start, min(start + n, len(data))


def _doubled(draw: Random, data: bytes, other: bytes) -> bytes:
    start, end = _block(draw, data)
    return data[:end] + data[start:end] + data[end:]


def _deleted(draw: Random, data: bytes, other: bytes) -> bytes:
    start, end = _block(draw, data)
    return data[:start] + data[end:]


def _moved(draw: Random, data: bytes, other: bytes) -> bytes:
    start, end = _block(draw, data)
    rest, at = data[:start] + data[end:], draw.randrange(len(data) - (end - start) + 1)
    return rest[:at] + data[start:end] + rest[at:]


def _longer(draw: Random, data: bytes, other: bytes) -> bytes:
    junk = draw.choice((b"\0", bytes(512), draw.randbytes(100), data[-200:], data))
    return draw.choice((data + junk, junk + data))


DAMAGES: dict[str, Damage] = {
    "bits flipped": _flips,
    "run of bytes": _run,
    "cut off": _cut,
    "spliced": _splice,
    "part of another": _transplant,
    "block doubled": _doubled,
    "block deleted": _deleted,
    "block moved": _moved,
    "made longer": _longer,
}
