"""Checkpoints, sound and hostile, built for the tests of this folder."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import pickletools
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MANIFEST = {"algorithm": "sac", "step": 10, "config": {"gamma": 0.99}}


class Evil:
    """Pickles into a call of ``os.system`` that creates the canary."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary}"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def fragment(value: object) -> bytes:
    """Return the opcodes that push a plain value, without memo, protocol and stop."""
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]


def tensor_opcodes(
    n: int = 4,
    shape: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    offset: int = 0,
    *,
    kind: bytes = b"torch\nFloatStorage\n",
    location: str = "cpu",
    key: str = "0",
) -> bytes:
    """Return the opcodes that torch writes for one tensor, with anything declared."""
    storage = b"(" + fragment("storage") + b"c" + kind + fragment(key) + fragment(location) + fragment(n) + b"tQ"
    layout = fragment(offset) + fragment(shape) + fragment(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + layout + b"tR"


def pickled_dict(item: bytes) -> bytes:
    """Return a pickle of a dict whose ``w`` is made by the given opcodes."""
    return b"\x80\x02}" + fragment("w") + item + b"s."


def seal(path: Path) -> Path:
    """Write the right digest into the comment of a zip that has room for it."""
    data = path.read_bytes()
    path.write_bytes(data[:-32] + hashlib.sha256(data[:-32]).digest())
    return path


def forge(
    path: Path,
    pickled: bytes,
    storages: Iterable[bytes] = (bytes(16),),
    *,
    manifest: bytes | dict[str, Any] | None = None,
    members: Iterable[tuple[str, bytes]] = (),
    deflated: str | None = None,
    byteorder: bytes = b"little",
) -> Path:
    """Write a checkpoint with digests that are right and contents that are not."""
    parts = [("archive/data.pkl", pickled), ("archive/byteorder", byteorder)]
    parts += [(f"archive/data/{i}", data) for i, data in enumerate(storages)]
    parts += [("archive/version", b"3\n"), *members]
    if not isinstance(manifest, bytes):
        digests = {name.split("/", 1)[-1]: hashlib.sha256(data).hexdigest() for name, data in parts}
        fields = {"schema": "rlox.checkpoint", "format": 1, "digests": digests, **(manifest or {})}
        manifest = json.dumps(fields).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in [*parts, ("archive/rlox.json", manifest)]:
            method = zipfile.ZIP_DEFLATED if name == deflated else zipfile.ZIP_STORED
            info = zipfile.ZipInfo(name)
            archive.writestr(info, data, method)
        archive.comment = bytes(32)
    return seal(path)


def replace_member(path: Path, out: Path, name: str, data: bytes) -> Path:
    """Copy a checkpoint with another content of one member, its CRC and the file's digest made right."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = data if info.filename == f"archive/{name}" else old.read(info)
            new.writestr(zipfile.ZipInfo(info.filename), content)
        new.comment = bytes(32)
    return seal(out)
