"""Mutated checkpoints: blind damage, and edits with right checksums and digests, so that every later check is met."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from mutated_bytes import DAMAGES

sys.path.append(str(Path(__file__).resolve().parents[1] / "checkpoint"))

from checkpoint_files import Evil, fragment, tensor_opcodes

PREFIX = "archive/"


@dataclass
class Mutant:
    """A spoiled file: what was done to it, its bytes, the number of the sound file that it was, whether its checksums
    and digests were made right again."""

    family: str
    data: bytes
    base: int
    sealed: bool


def sound_files(folder: Path) -> list[Path]:
    """Write the checkpoints that are mutated: two of sac that never trained, of other sizes and seeds."""
    from rlox.algorithms.sac import SAC

    paths = [folder / "sound-0.pt", folder / "sound-1.pt"]
    for seed, path in enumerate(paths):
        SAC("Pendulum-v1", seed=seed, net_arch=[8 + 4 * seed], batch_size=8, buffer_size=16).save(path)
    return paths


class Mutator:
    """Draws mutants of two sound checkpoints; ``canary`` is a file that the code in them would create."""

    def __init__(self, sound: list[bytes], canary: Path) -> None:
        self.sound = sound
        self.evil = _evil_fragments(canary)
        self.families: dict[str, tuple[Callable[[Random, bytes, bytes], bytes], bool]] = {
            **{name: (damage, False) for name, damage in DAMAGES.items()},
            "resealed: any byte": (_resealed, True),
            "resealed: zip records": (_zip_records, True),
            "members": (_members, True),
            "pickle bytes": (_pickle_bytes, True),
            "pickle opcodes": (self._opcodes, True),
            "tensor bytes": (_tensor_bytes, True),
            "manifest bytes": (_manifest_bytes, True),
            "manifest values": (_manifest_values, True),
        }

    def mutant(self, draw: Random) -> Mutant:
        """Return the next mutant of a stream of random numbers; two of five are blind damage."""
        wanted = draw.random() < 0.6
        family = draw.choice([name for name, (_, whole) in self.families.items() if whole == wanted])
        function, whole = self.families[family]
        base, other = draw.sample(range(len(self.sound)), 2)
        data = function(draw, self.sound[base], self.sound[other])
        return Mutant(family, data, base, whole or data in self.sound)  # a splice may give the other file

    def _opcodes(self, draw: Random, data: bytes, other: bytes) -> bytes:
        """Delete, double, swap, exchange or plant opcodes, hostile ones among them."""
        members = read_members(data)
        pieces = _pieces(members["data.pkl"])
        foreign = _pieces(read_members(other)["data.pkl"])
        for _ in range(draw.choice((1, 1, 2, 4))):
            at = draw.randrange(1, len(pieces))
            match draw.randrange(6):
                case 0:
                    del pieces[at]
                case 1:
                    pieces.insert(at, pieces[draw.randrange(len(pieces))])
                case 2:
                    to = draw.randrange(1, len(pieces))
                    pieces[at], pieces[to] = pieces[to], pieces[at]
                case 3:
                    pieces.insert(at, draw.choice(self.evil))
                case 4:
                    pieces[at] = draw.choice((draw.choice(self.evil), draw.choice(foreign)))
                case _:
                    numbers = [i for i, piece in enumerate(pieces) if piece[:1] in (b"K", b"M", b"J", b"\x8a")]
                    pieces[draw.choice(numbers)] = fragment(draw.choice(_NUMBERS))
        return packed({**members, "data.pkl": b"".join(pieces)}, redo=("data.pkl",))


_NUMBERS = (0, 1, 2, -1, 3, 255, 256, 65535, 2**31 - 1, -(2**31), 2**31, 2**63, 2**64 + 1, 10**12, 2**600)
_ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1.5, 1e308, -0.0, 2**63, 10**300, "", "x", "x" * 20_000, "sac", "bc", "auto", "nan",
    "os:system", "evil_module:X-v0", "evil_module", "Pendulum-v1", "CartPole-v1", "../../etc/passwd", "/etc/passwd",
    "\x1b[31m[/red]\n", "\ud800", "\u202e", [], {}, [[]], {"": {}}, {"id": "evil_module:X-v0"},
    {"entry_point": "os:system"}, [1e9, 1e9], [10**6, 10**6], ["cpu"], {"type": "Box", "shape": [10**9]},
    {"type": "Box", "shape": [3], "low": "nan", "high": "inf", "dtype": "float32"}, {"type": "Discrete", "n": 0, "start": 0},
)  # fmt: skip


def read_members(data: bytes) -> dict[str, bytes]:
    """Return the members of a sound checkpoint by their names below the archive's folder."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.removeprefix(PREFIX): archive.read(name) for name in archive.namelist()}


def packed(members: dict[str, bytes], *, redo: tuple[str, ...] = ()) -> bytes:
    """Return a checkpoint of these members, its checksums right; digests in its manifest are made right for ``redo``."""
    if redo:
        manifest = json.loads(members["rlox.json"])
        manifest["digests"] |= {name: hashlib.sha256(members[name]).hexdigest() for name in redo}
        members = {**members, "rlox.json": json.dumps(manifest).encode()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name if name.startswith("/") else PREFIX + name), content)
        archive.comment = bytes(32)
    return sealed(buffer.getvalue())


def sealed(data: bytes) -> bytes:
    """Return a file whose last 32 bytes are the digest of what stands before them."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def _evil_fragments(canary: Path) -> list[bytes]:
    command = f"touch {canary}"
    text = fragment(command)
    return [
        b"cos\nsystem\n" + text + b"\x85R",
        b"cposix\nsystem\n",
        pickle.dumps(Evil(canary), 0)[:-1],
        fragment("posix") + fragment("system") + b"\x93" + text + b"\x85R",
        b"\x8c\x05posix\x8c\x06system\x93",
        b"(" + text + b"ios\nsystem\n",
        b"(ccollections\nOrderedDict\no",
        b")\x81",
        b"}b",
        b"\x82\x01",
        b"cevil_module\nX\n)R",
        b"cbuiltins\neval\n" + fragment(f"__import__('os').system({command!r})") + b"\x85R",
        b"ctorch\nload\n" + text + b"\x85R",
        b"R", b"Q", b"t", b"s", b"u", b"a", b"e", b"0", b"1", b"2", b"N", b"(", b"}", b"]", b")", b".",
        b"q\x00", b"h\x00", b"h\x01", b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f",
        tensor_opcodes(shape=(10**12,), stride=(0,)),
        tensor_opcodes(n=10**12),
        tensor_opcodes(shape=(2,), offset=2**62),
        tensor_opcodes(key="../../etc/passwd"),
        tensor_opcodes(kind=b"torch\nDoubleStorage\n"),
    ]  # fmt: skip


def _pieces(pickled: bytes) -> list[bytes]:
    """Cut a pickle into its opcodes."""
    places = [at for _, _, at in pickletools.genops(pickled) if at is not None]
    return [pickled[a:b] for a, b in zip(places, [*places[1:], len(pickled)], strict=True)]


def _any_damage(draw: Random, data: bytes, other: bytes) -> bytes:
    return draw.choice(list(DAMAGES.values()))(draw, data, other)


def _resealed(draw: Random, data: bytes, other: bytes) -> bytes:
    body = _any_damage(draw, data[:-32], other[:-32])
    return sealed(body + bytes(32))


def _zip_records(draw: Random, data: bytes, other: bytes) -> bytes:
    """Spoil bytes of the records of the zip alone: local headers, the directory, the end."""
    places: list[int] = []
    for signature, size in ((b"PK\x03\x04", 46), (b"PK\x01\x02", 60), (b"PK\x05\x06", 22), (b"PK\x06\x06", 76)):
        at = data.find(signature)
        while at >= 0:
            places.extend(range(at, min(at + size, len(data) - 32)))
            at = data.find(signature, at + 1)
    spoiled = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        spoiled[draw.choice(places)] = draw.choice((0, 1, 8, 255, draw.randrange(256)))
    return sealed(bytes(spoiled))


def _members(draw: Random, data: bytes, other: bytes) -> bytes:
    """Drop, add, rename or exchange whole members."""
    members, foreign = read_members(data), read_members(other)
    name = draw.choice(list(members))
    match draw.randrange(5):
        case 0:
            del members[name]
        case 1:
            odd = ("data/0", "data/999", "../x", "/etc/x", "constants.pkl", "code/x.py", ".data/x", "DATA.PKL", "é")
            added = draw.choice(odd)
            members[added + ("2" if added in members else "")] = draw.randbytes(8)
        case 2:
            members = {("data/77" if key == name else key): value for key, value in members.items()}
        case 3:
            members[name] = foreign.get(name, b"")
        case _:
            to = draw.choice(list(members))
            members[name], members[to] = members[to], members[name]
    known = tuple(key for key in members if key != "rlox.json" and draw.random() < 0.9)
    return packed(members, redo=known if "rlox.json" in members and members["rlox.json"][:1] == b"{" else ())


def _pickle_bytes(draw: Random, data: bytes, other: bytes) -> bytes:
    members = read_members(data)
    spoiled = _any_damage(draw, members["data.pkl"], read_members(other)["data.pkl"])
    return packed({**members, "data.pkl": spoiled}, redo=("data.pkl",))


def _tensor_bytes(draw: Random, data: bytes, other: bytes) -> bytes:
    members = read_members(data)
    name = draw.choice([key for key, value in members.items() if key.startswith("data/") and value])
    spoiled = bytearray(members[name])
    for _ in range(draw.choice((1, 4))):
        at = draw.randrange(len(spoiled) // 4 + 1) * 4
        number = draw.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", draw.randbytes(4)))  # NaN, inf, -inf
        spoiled[at : at + 4] = number[: len(spoiled) - at]
    if draw.random() < 0.2:
        spoiled = spoiled[: draw.randrange(len(spoiled))]
    return packed({**members, name: bytes(spoiled)}, redo=(name,))


def _manifest_bytes(draw: Random, data: bytes, other: bytes) -> bytes:
    members = read_members(data)
    return packed({**members, "rlox.json": _any_damage(draw, members["rlox.json"], read_members(other)["rlox.json"])})


def _manifest_values(draw: Random, data: bytes, other: bytes) -> bytes:
    """Replace, drop, add or exchange values anywhere in the manifest."""
    members = read_members(data)
    manifest = json.loads(members["rlox.json"])
    for _ in range(draw.choice((1, 1, 1, 3))):
        holder, key = draw.choice(list(_places(manifest)))
        match draw.randrange(4):
            case 0 if isinstance(holder, dict):
                holder[draw.choice(("gama", "kwargs", "entry_point", "\x1b[0m"))] = draw.choice(_ODD_VALUES)
            case 1:
                del holder[key]
            case 2:
                there, name = draw.choice(list(_places(manifest)))
                holder[key] = json.loads(json.dumps(there[name]))
            case _:
                holder[key] = draw.choice(_ODD_VALUES)
    text = json.dumps(manifest)
    if draw.random() < 0.05:
        text = draw.choice(('{"a":' * 5000 + "1" + "}" * 5000, text[:-1] + ', "step": NaN}', text[:-1] + ', "step": 1}'))
    return packed({**members, "rlox.json": text.encode()})


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) in JSON values but the digests, which other families spoil."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [(value, key) for key in keys]
    return found + [place for key in keys if key != "digests" for place in _places(value[key])]
