"""Mutated HDF5 files: blind damage, and edits of the structures that a reader follows, checksums made right again."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
from mutated_bytes import DAMAGES

ROWS = 48
SIGNATURES = (b"TREE", b"HEAP", b"SNOD", b"GCOL", b"FRHP", b"FHDB", b"FHIB", b"BTHD", b"BTLF", b"BTIN", b"OHDR", b"OCHK",
              b"FAHD", b"FADB", b"EAHD", b"EAIB", b"EADB", b"EASB", b"SMTB", b"SMLI")  # fmt: skip
UNCHECKED = (b"TREE", b"HEAP", b"SNOD", b"GCOL", b"FHDB")  # without a checksum
NBIT = 5


def columns() -> dict[str, Any]:
    """Return the columns that every sound file holds."""
    values = np.random.default_rng(0)
    return {
        "observations": values.normal(size=(ROWS, 3)).astype("f4"),
        "actions": values.uniform(-1, 1, (ROWS, 2)).astype("f4"),
        "rewards": values.normal(size=ROWS).astype("f4"),
        "terminals": np.arange(ROWS) % 8 == 7,
        "timeouts": np.arange(ROWS) % 16 == 3,
    }


def sound_files(folder: Path, canary: Path) -> list[Path]:
    """Write the files that are mutated, one for each way in which HDF5 lays out data; all but the last can be opened."""
    from rlox.data import write_d4rl

    flat = columns()
    ours = {"obs": flat["observations"], "actions": flat["actions"], "rewards": flat["rewards"],
            "terminated": flat["terminals"], "truncated": flat["timeouts"], "infos/qpos": flat["observations"]}  # fmt: skip
    box = {"type": "Box", "shape": [2], "dtype": "float32", "low": -1.0, "high": 1.0}
    meta = {"env_id": "Pendulum-v1", "action_space": box, "seed": 7, "gamma": 0.99}
    write_d4rl(folder / "contiguous.h5", ours, meta)
    write_d4rl(folder / "gzip.h5", ours, meta, compression="gzip")
    for name, write in {
        "checksums": lambda f: _write(f, flat, compression="gzip", fletcher32=True, shuffle=True),
        "latest": lambda f: _write(f, flat, chunks=True, libver="latest"),
        "growing": lambda f: _write(f, flat, chunks=True, maxshape=True, libver="latest"),
        "growing both ways": lambda f: _write(f, flat, chunks=True, maxshape=True, both=True, libver="latest"),
        "many chunks": lambda f: _write(f, flat, one_row=True),
        "scale-offset": lambda f: _write(f, _whole(flat), scaleoffset=0),
        "lzf": lambda f: _write(f, flat, compression="lzf"),
        "n-bit": lambda f: _low_level(f, flat, _nbit),
        "compact": lambda f: _low_level(f, flat, lambda plist, shape: plist.set_layout(h5py.h5d.COMPACT)),
        "attributes": lambda f: _write(f, flat, attributes=60, libver="latest"),
        "user block": lambda f: _write(f, flat, userblock_size=512),
        "links": lambda f: _outside(f, flat, canary),
    }.items():
        write(folder / f"{name.replace(' ', '-')}.h5")
    return sorted(folder.glob("*.h5"))


def _whole(flat: dict[str, Any]) -> dict[str, Any]:
    """Return columns of integers, which the scale-offset filter keeps as they are."""
    return {key: np.round(value * 50).astype("i4") if value.dtype == "f4" and key != "actions" else value for key, value in flat.items()}


def _write(path: Path, flat: dict[str, Any], *, attributes: int = 3, maxshape: bool = False, both: bool = False,
           one_row: bool = False, scaleoffset: int | None = None, libver: str | None = None,
           userblock_size: int | None = None, **options: Any) -> None:  # fmt: skip
    with h5py.File(path, "w", libver=libver, userblock_size=userblock_size) as file:
        for key, value in flat.items():
            more: dict[str, Any] = {}
            if maxshape:
                more["maxshape"] = tuple(None if axis == 0 or both else n for axis, n in enumerate(value.shape))
            if one_row:
                more["chunks"] = (1, *value.shape[1:])
            if scaleoffset is not None and value.dtype.kind == "i":
                more["scaleoffset"] = scaleoffset
            file.create_dataset(key, data=value, **options, **more)
        group = file.create_group("infos")
        for i in range(attributes):
            group.attrs[f"note {i}"] = np.arange(i + 1)
            file.attrs[f"text {i}"] = f"word {i}"
        file.attrs["env_id"] = "Pendulum-v1"


def _nbit(plist: Any, shape: tuple[int, ...]) -> None:
    plist.set_chunk((16, *shape[1:]))
    plist.set_filter(NBIT, h5py.h5z.FLAG_OPTIONAL)


def _low_level(path: Path, flat: dict[str, Any], prepare: Callable[[Any, tuple[int, ...]], object]) -> None:
    with h5py.File(path, "w") as file:
        for key, value in flat.items():
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            prepare(plist, value.shape)
            kind = h5py.h5t.py_create(value.dtype, logical=True).copy()
            space = h5py.h5s.create_simple(value.shape)
            made = h5py.h5d.create(file.id, key.encode(), kind, space, plist)
            h5py.Dataset(made)[...] = value


def _outside(path: Path, flat: dict[str, Any], canary: Path) -> None:
    """Write a file that reaches for the canary in every way that HDF5 knows."""
    _write(path, {key: value for key, value in flat.items() if key not in ("timeouts",)})
    with h5py.File(path, "a") as file:
        file["soft"] = h5py.SoftLink("/rewards")
        file["far"] = h5py.ExternalLink(str(canary), "/x")
        file.create_dataset("raw", (ROWS,), "f4", external=[(str(canary), 0, 4 * ROWS)])
        layout = h5py.VirtualLayout((ROWS,), "f4")
        layout[:] = h5py.VirtualSource(str(canary), "/x", (ROWS,))
        file.create_virtual_dataset("timeouts", layout)
        file.create_dataset("texts", (4,), h5py.string_dtype())[:] = "word"


@dataclass
class _Places:
    """Where the structures of one sound file are."""

    headers: list[int] = field(default_factory=list)
    chunks: list[tuple[int, int]] = field(default_factory=list)
    blocks: list[tuple[int, int]] = field(default_factory=list)  # with a checksum in their last four bytes
    tables: list[int] = field(default_factory=list)
    attributes: list[int] = field(default_factory=list)


@dataclass
class Mutant:
    """A spoiled file, what was done to it, and the number of the sound file that it was."""

    family: str
    data: bytes
    base: int


class Mutator:
    """Draws mutants of sound HDF5 files."""

    def __init__(self, paths: list[Path]) -> None:
        self.sound = [path.read_bytes() for path in paths]
        self.places = [_places(path, data) for path, data in zip(paths, self.sound, strict=True)]
        self.families: dict[str, Callable[[Random, bytes, _Places], bytes]] = {
            "superblock": lambda draw, data, places: _spoil(draw, data, range(8, 100)),
            "object headers": lambda draw, data, places: _near(draw, data, places.headers, 0, 300),
            "trees and heaps": lambda draw, data, places: _near(draw, data, places.tables, 0, 200),
            "attribute messages": lambda draw, data, places: _near(draw, data, places.attributes, -40, 80),
            "chunks": _in_chunks,
            "resealed blocks": _in_blocks,
            "numbers": _numbers,
            "names": _names,
        }

    def mutant(self, draw: Random) -> Mutant:
        """Return the next mutant of a stream of random numbers; a third of them are blind damage."""
        base = draw.randrange(len(self.sound))
        data, places = self.sound[base], self.places[base]
        if draw.random() < 1 / 3:
            family = draw.choice(list(DAMAGES))
            return Mutant(family, DAMAGES[family](draw, data, draw.choice(self.sound)), base)
        family = draw.choice(list(self.families))
        return Mutant(family, self.families[family](draw, data, places), base)


def _spoil(draw: Random, data: bytes, where: range) -> bytes:
    """Set a few bytes, or one number of 2, 4 or 8 bytes, to values that readers trip over."""
    spoiled = bytearray(data)
    where = range(max(where.start, 0), min(where.stop, len(data)))
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.choice(where)
        size = draw.choice((1, 1, 1, 2, 4, 8))
        number = draw.choice((0, 1, 2, 255, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), len(data), draw.choice(where), at,
                              draw.randrange(256), spoiled[at] ^ 1 << draw.randrange(8)))  # fmt: skip
        spoiled[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")[: len(spoiled) - at]
    return bytes(spoiled)


def _near(draw: Random, data: bytes, places: list[int], before: int, after: int) -> bytes:
    at = draw.choice(places) if places else 0
    return _spoil(draw, data, range(at + before, at + after))


def _in_chunks(draw: Random, data: bytes, places: _Places) -> bytes:
    """Spoil what decoders get: their own header at the start of a chunk, or any of its bytes."""
    start, size = draw.choice(places.chunks) if places.chunks else (0, len(data))
    return _spoil(draw, data, range(start, start + (min(size, 24) if draw.random() < 0.5 else size)))


def _in_blocks(draw: Random, data: bytes, places: _Places) -> bytes:
    """Spoil a block of metadata and make its checksum right, so that it is read."""
    if not places.blocks:
        return _near(draw, data, places.headers, 0, 300)
    start, end = draw.choice(places.blocks)
    spoiled = _spoil(draw, data, range(start + 4, end))[: len(data)]
    return spoiled[:end] + lookup3(spoiled[start:end]).to_bytes(4, "little") + spoiled[end + 4 :]


def _numbers(draw: Random, data: bytes, places: _Places) -> bytes:
    """Replace a size or an address, found by its value, by another one."""
    known = [ROWS, ROWS * 4, ROWS * 12, 3, 2, 16, len(data), *places.headers, *(start for start, _ in places.chunks)]
    spoiled, done = bytearray(data), 0
    for _ in range(50):
        number = draw.choice(known).to_bytes(8, "little")
        found = [m.start() for m in re.finditer(re.escape(number), data)]
        if found and done < draw.choice((1, 1, 2, 6)):
            new = draw.choice((0, 1, 2**40, 2**63, 2**64 - 1, 10**8, 10**12, ROWS + 1, *known))
            places_of = found if draw.random() < 0.3 else [draw.choice(found)]
            for at in places_of:
                spoiled[at : at + 8] = new.to_bytes(8, "little")
            done += 1
    return bytes(spoiled)


def _names(draw: Random, data: bytes, places: _Places) -> bytes:
    """Spoil the names of columns and attributes where they stand."""
    words = [word for word in (*columns(), "env_id", "action_space", "Pendulum-v1", "note 0", "infos") if word.encode() in data]
    old = draw.choice(words).encode()
    new = draw.choice((b"\xff" * len(old), b"\x1b[31m\n\r[/x]"[: len(old)], b"/" * len(old), b"." * len(old), bytes(len(old)),
                       draw.choice(words).encode()))  # fmt: skip
    new = new[: len(old)].ljust(len(old), b"\0")
    return data.replace(old, new, draw.choice((1, -1)))


def _places(path: Path, data: bytes) -> _Places:
    """Find the structures of a sound file, with h5py and by their signatures."""
    places = _Places()

    def visit(name: str, thing: Any) -> None:
        places.headers.append(h5py.h5o.get_info(thing.id).addr + offset)
        if isinstance(thing, h5py.Dataset) and thing.chunks is not None:
            for i in range(thing.id.get_num_chunks()):
                info = thing.id.get_chunk_info(i)
                places.chunks.append((info.byte_offset, info.size))
        elif isinstance(thing, h5py.Dataset) and thing.id.get_offset() is not None:
            places.chunks.append((thing.id.get_offset(), thing.id.get_storage_size()))

    with h5py.File(path, "r") as file:
        offset = file.userblock_size
        visit("/", file["/"])
        file.visititems(visit)
    for signature in SIGNATURES:
        places.tables += [m.start() for m in re.finditer(signature, data)]
    starts = [at for at in places.tables if data[at : at + 4] not in UNCHECKED]
    starts += [offset] if data[offset + 8] >= 2 else []  # superblocks have checksums since version 2
    places.blocks = [block for at in starts if (block := _checksummed(data, at)) is not None]
    for word in (b"env_id", b"action_space", b"text 0", b"note 1", b"gamma"):
        places.attributes += [m.start() for m in re.finditer(word, data)]
    return places


def _checksummed(data: bytes, start: int) -> tuple[int, int] | None:
    """Return (start, place of its checksum) of the block that starts there, if it has one."""
    for end in range(start + 12, min(start + 900, len(data) - 4)):
        if int.from_bytes(data[end : end + 4], "little") == lookup3(data[start:end]):
            return start, end
    return None


def lookup3(data: bytes) -> int:
    """Return the checksum of HDF5's metadata (Bob Jenkins, lookup3, hashlittle); ``data`` is not empty."""
    mask = 2**32 - 1

    def turned(x: int, n: int) -> int:
        return (x << n | x >> 32 - n) & mask

    a = b = c = (0xDEADBEEF + len(data)) & mask
    padded = data + bytes(-len(data) % 12)
    words = [int.from_bytes(padded[i : i + 4], "little") for i in range(0, len(padded), 4)]
    for i in range(0, len(words), 3):
        a, b, c = (a + words[i]) & mask, (b + words[i + 1]) & mask, (c + words[i + 2]) & mask
        if i + 3 < len(words):
            for n in (4, 6, 8, 16, 19, 4):  # each step has the roles of the three turned by one
                a, b, c = b, (c + b) & mask, ((a - c) & mask) ^ turned(c, n)
    for n in (14, 11, 25, 16, 4, 14, 24):
        a, b, c = b, ((c ^ b) - turned(b, n)) & mask, a
    return b
