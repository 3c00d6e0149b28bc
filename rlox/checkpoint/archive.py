"""The file of a checkpoint from outside in: regular file, digest, zip directory, members. Standard library alone.

A checkpoint is a zip of stored members below one folder, exactly tiled: the first begins at byte 0, each ends where the
next begins, then the directory, then the end record whose comment is the sha256 of every byte before it. So no byte
lies outside the digest, and there is one way only to read the file.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import CheckpointError, CheckpointMismatchError, CheckpointNotFoundError, closest, printable
from . import manifest as manifests
from . import opcodes
from .foreign import damaged_part, kind_of

MAX_BYTES = 2**38  # 256 GiB
MAX_DIRECTORY = 8 * 2**20
DIGEST_BYTES = 32
CHUNK = 2**20
MAGIC = b"PK\x03\x04"

_END = struct.Struct("<4s4H2LH")  # signature, disks, entries, bytes and offset of the directory, bytes of the comment
_END_64 = struct.Struct("<4sQ2H2L4Q4sLQL")  # the record and its locator that stand before it beyond 4 GB
_ZIP_ERRORS = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error)
_DAMAGED = "use another checkpoint of the run; this one cannot be trusted"
_NAME = re.compile(r"[A-Za-z0-9_-]+/(data\.pkl|data/[0-9]+|rlox\.json|version|byteorder|\.[a-z_]+(/[a-z_]+)?)")


@dataclass(frozen=True, slots=True)
class Member:
    """One part of a checkpoint: its name below the archive's folder, its bytes, its sha256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Contents:
    """A checkpoint that passed steps 1 to 5: what it says, and what its tensors look like."""

    size: int
    digest: str
    manifest: dict[str, Any]
    members: list[Member]
    state: Any


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a regular file for reading, once; every error raised inside names the path.

    Raises
    ------
    CheckpointNotFoundError
        When there is none of that name.
    CheckpointError
        For a folder, device, pipe or socket, an empty file, a file of more than 256 GiB, no permission.
    """
    try:
        if os.path.isdir(path):
            raise _is_folder(Path(path))
        # O_NONBLOCK: opening a pipe must not wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_found(Path(path)) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"cannot read {printable(path)}: {printable(reason)}", value=str(path)) from error
    with os.fdopen(fd, "rb") as file:
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError("is a device, pipe or socket, not a file")
            if status.st_size == 0:
                raise CheckpointError("is an empty file, not a checkpoint")
            if status.st_size > MAX_BYTES:
                raise CheckpointError(f"has {status.st_size} bytes, at most {MAX_BYTES} are allowed")
            yield file
        except CheckpointError as error:
            kind = CheckpointMismatchError if isinstance(error, CheckpointMismatchError) else CheckpointError
            raise kind(f"{printable(path)}: {error.message}", hint=error.hint, value=str(path)) from error
        except OSError as error:
            raise CheckpointError(f"cannot read {printable(path)}: {printable(error.strerror)}") from error


def inspect(file: IO[bytes]) -> Contents:
    """Run steps 1 to 5 of the load order on an open file, each refusing before the next begins."""
    size = os.fstat(file.fileno()).st_size
    digest = _check_digest(file, size)
    with _directory(file, size) as archive:
        folder, sizes = _check_directory(archive)
        try:
            members = list(digests(archive, folder))
        except _ZIP_ERRORS as error:
            raise CheckpointError(f"is damaged: {printable(error)}", hint=_DAMAGED) from error
        manifest = manifests.decode(_read(archive, f"{folder}/{manifests.MEMBER}", manifests.MAX_BYTES))
        _check_members(members, manifest["digests"])
        if _read(archive, f"{folder}/byteorder", 16) != b"little":
            raise CheckpointError("was written in another byte order than little-endian")
        pickled = _read(archive, f"{folder}/data.pkl", opcodes.MAX_BYTES)
    storages = {name[5:]: n for name, n in sizes.items() if name.startswith("data/")}
    return Contents(size, digest, manifest, members, opcodes.scan(pickled, storages))


def digests(archive: zipfile.ZipFile, folder: str) -> Iterator[Member]:
    """Yield every member with its sha256; its CRC is checked on the way (BadZipFile)."""
    for info in archive.infolist():
        total = hashlib.sha256()
        with archive.open(info) as part:
            while chunk := part.read(CHUNK):
                total.update(chunk)
        yield Member(info.filename[len(folder) + 1 :], info.file_size, total.hexdigest())


def hash_file(file: IO[bytes], n: int) -> bytes:
    """Return the sha256 of the first ``n`` bytes of a file."""
    total = hashlib.sha256()
    file.seek(0)
    while n > 0 and (chunk := file.read(min(n, CHUNK))):
        total.update(chunk)
        n -= len(chunk)
    return total.digest()


def stored_digest(file: IO[bytes]) -> bytes:
    """Return the digest at the end of an open checkpoint, after a look at its magic and end record."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise _foreign(file)
    file.seek(max(size - _END.size - DIGEST_BYTES, 0))
    tail = file.read()
    if len(tail) != _END.size + DIGEST_BYTES or tail[:4] != b"PK\x05\x06" or tail[20:22] != b"\x20\x00":
        raise _foreign(file)
    return tail[-DIGEST_BYTES:]


def _check_digest(file: IO[bytes], size: int) -> str:
    """Step 1: the magic of a zip, an end record with our comment, and the digest of all that stands before it."""
    stored = stored_digest(file)
    if hash_file(file, size - DIGEST_BYTES) != stored:
        raise CheckpointError(f"is damaged: digest mismatch in {damaged_part(file)}", hint=_DAMAGED)
    return stored.hex()


def _foreign(file: IO[bytes]) -> CheckpointError:
    return CheckpointError(kind_of(file).refusal())


def _directory(file: IO[bytes], size: int) -> zipfile.ZipFile:
    """Open the zip directory after a look at its records, so that it is where every reader finds it, and small."""
    end = size - _END.size - DIGEST_BYTES
    file.seek(max(end - _END_64.size, 0))
    tail = file.read(_END_64.size)
    file.seek(end)
    n, length, offset = _END.unpack(file.read(_END.size))[4:7]
    if tail[-20:-16] == b"PK\x06\x07":  # torch takes the 64-bit record from where the locator points, zipfile does not
        end -= _END_64.size
        record, _, _, _, _, _, _, n, length, offset, _, _, at, _ = _END_64.unpack(tail)
        if record != b"PK\x06\x06" or at != end:
            raise CheckpointError("unsafe content: two zip directories")
    if length > MAX_DIRECTORY:
        raise CheckpointError(f"has a zip directory of {length} bytes, at most {MAX_DIRECTORY} are allowed")
    if offset + length != end:
        raise CheckpointError("unsafe content: bytes after the zip directory")
    try:
        archive = zipfile.ZipFile(file)
    except _ZIP_ERRORS as error:
        raise CheckpointError(f"has no valid zip directory: {printable(error)}") from error
    if archive.start_dir != offset or len(archive.infolist()) != n:
        raise CheckpointError("unsafe content: two zip directories")
    return archive


def _check_directory(archive: zipfile.ZipFile) -> tuple[str, dict[str, int]]:
    """Step 2: return the folder and the bytes of each member below it."""
    infos = archive.infolist()
    names = [info.orig_filename for info in infos]
    folder = names[0].split("/", 1)[0] if names else ""
    folded: set[str] = set()
    for info in infos:
        shown = printable(info.orig_filename, 80)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise CheckpointError(f"unsafe content: member {shown} is compressed")
        limit = zipfile.ZIP64_LIMIT  # from here on zipfile writes sizes and places of 64 bits beside the record
        if info.extra and info.file_size <= limit and info.header_offset <= limit:
            raise CheckpointError(f"unsafe content: member {shown} has sizes or places of its own")
        if info.flag_bits & ~0x0808:
            raise CheckpointError(f"unsafe content: member {shown} is encrypted or patched")
        if not _NAME.fullmatch(info.orig_filename) or not info.orig_filename.startswith(f"{folder}/"):
            raise CheckpointError(f"unsafe content: a member is called {shown}")
        if info.orig_filename.casefold() in folded:  # torch finds members without regard to case
            raise CheckpointError(f"unsafe content: two members are called {shown}")
        folded.add(info.orig_filename.casefold())
    sizes = {info.filename[len(folder) + 1 :]: info.file_size for info in infos}
    for needed in ("data.pkl", "byteorder", "version"):
        if needed not in sizes:
            raise CheckpointError(f"has no member {needed}")
    if manifests.MEMBER not in sizes:
        raise CheckpointError(f"has no {manifests.MEMBER}, rlox did not write it")
    _check_tiling(archive)
    return folder, sizes


def _check_tiling(archive: zipfile.ZipFile) -> None:
    """Check that the members follow one another without gap or overlap from byte 0 to the directory."""
    file = archive.fp
    assert file is not None
    at = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        file.seek(at)
        header = file.read(30)
        if info.header_offset != at or len(header) != 30 or header[:4] != MAGIC:
            raise CheckpointError(f"unsafe content: member {info.filename} is not where it should be")
        flags, name, extra = header[6:8], header[26:28], header[28:30]
        at += 30 + int.from_bytes(name, "little") + int.from_bytes(extra, "little") + info.file_size
        if flags[0] & 8:  # a descriptor follows, with sizes of 4 or of 8 bytes each
            file.seek(at + 16)
            next_at = file.read(4)
            at += 16 if next_at in (MAGIC, b"PK\x01\x02") else 24
    if at != archive.start_dir:
        raise CheckpointError("unsafe content: bytes between the members and the zip directory")


def _check_members(members: list[Member], stored: dict[str, str]) -> None:
    """Step 3: the digest of every member but the manifest itself."""
    found = {member.name: member.sha256 for member in members if member.name != manifests.MEMBER}
    for name in sorted(found.keys() | stored.keys()):
        if name not in found:
            raise CheckpointError(f"is damaged: part {printable(name, 80)} is missing", hint=_DAMAGED)
        if name not in stored:
            raise CheckpointError(f"is damaged: part {name} is not in its list of digests", hint=_DAMAGED)
        if found[name] != stored[name]:
            raise CheckpointError(f"is damaged: digest mismatch in {name}", hint=_DAMAGED)


def _read(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > limit:
        raise CheckpointError(f"member {name} has {info.file_size} bytes, at most {limit} are allowed")
    return archive.read(info)


def _is_folder(path: Path) -> CheckpointError:
    inside = sorted(entry.name for entry in path.glob("*.pt"))
    best = next((name for name in ("best.pt", "last.pt", *reversed(inside)) if name in inside), None)
    hint = f"give the file inside: `{printable(path / best)}`" if best else None
    return CheckpointError(f"{printable(path)} is a folder, not a checkpoint", hint=hint, value=str(path))


def _not_found(path: Path) -> CheckpointNotFoundError:
    try:
        beside = sorted(entry.name for entry in path.parent.glob("*.pt"))
    except OSError:
        beside = []
    by_stem = {name.removesuffix(".pt"): name for name in beside}  # a common ending makes no name near
    near = [by_stem[stem] for stem in closest(path.name.removesuffix(".pt"), by_stem)]
    other = {"best.pt": "last.pt", "last.pt": "best.pt"}.get(path.name)
    near = [*([other] if other in beside else []), *(name for name in near if name != other)]
    hint = f"there is `{printable(path.parent / near[0])}`" if near else None
    if not near and path.parent.name == "checkpoints":
        hint = "train first, e.g. `rlox train sac --env Pendulum-v1`"
    return CheckpointNotFoundError(
        f"no checkpoint at {printable(path)}",
        hint=hint,
        value=str(path),
        suggestions=[str(path.parent / name) for name in near],
    )
