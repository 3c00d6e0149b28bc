"""The files of a generation: how they are called, read and written. Standard library alone."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

from ..errors import CheckpointError
from ..files import write_new
from .archive import hash_file

MAX_NUMBER = 10**9 - 1

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}(\.[0-9]{1,9})?")
_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a generation: what it is, how it is called in the folder, its bytes, its sha256 in hex."""

    name: str
    file: str
    size: int
    sha256: str


def part_file(name: str, number: int) -> str:
    """Return how a part is called that is written for generation ``number``; ValueError for a name of no part."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"part {name!r} must be like 'model' or 'rows.0012'")
    if number > MAX_NUMBER:
        raise CheckpointError(f"generation {number}: at most {MAX_NUMBER} are possible in one folder")
    return f"{name}-{number:09d}"


def is_part_file(file: str) -> int | None:
    """Return the number of the generation that a file was written for; None for a file that is no part."""
    name, _, digits = file.rpartition("-")
    return int(digits) if _NAME.fullmatch(name) and re.fullmatch(r"[0-9]{9}", digits) else None


@contextmanager
def regular_file(path: Path) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file that is no link, and yield it with its size; CheckpointError names the file alone."""
    try:
        # O_NONBLOCK: opening a pipe must not wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        reason = {errno.ENOENT: "is missing", errno.ELOOP: "is a link, not a file"}.get(error.errno or 0)
        raise CheckpointError(f"{path.name} {reason or f'cannot be read: {error.strerror}'}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path.name} is not a regular file")
        with os.fdopen(fd, "rb", closefd=False) as file:
            yield file, status.st_size
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}") from error
    finally:
        os.close(fd)


def read_part(folder: Path, part: Part, out: memoryview | None = None) -> None:
    """Read a part, into ``out`` where given, and compare its size and digest; CheckpointError names its file."""
    with regular_file(folder / part.file) as (file, size):
        if size != part.size:
            raise CheckpointError(f"{part.file} has {size} bytes, must have {part.size}")
        scratch = memoryview(bytearray(min(_CHUNK, size) if out is None else 0))
        digest, at = hashlib.sha256(), 0
        while at < size:
            chunk = scratch[: size - at] if out is None else out[at : at + _CHUNK]
            n = file.readinto(chunk)
            if n == 0:
                raise CheckpointError(f"{part.file} became shorter while it was read")
            digest.update(chunk[:n])
            at += n
    if digest.hexdigest() != part.sha256:
        raise CheckpointError(f"{part.file} is damaged: digest mismatch")


def write_part(path: Path, name: str, write: Callable[[IO[bytes]], object]) -> Part:
    """Write a part into a new file, durably, and return what is to be said of it.

    Raises
    ------
    WriteError
        When the system refuses, or when the file holds something else than what was written one after the other.
    """
    size, digest = 0, b""

    def fill(file: IO[bytes]) -> None:
        nonlocal size, digest
        noted = _Noted(file)
        write(cast(IO[bytes], noted))
        file.flush()
        size = file.seek(0, os.SEEK_END)
        digest = hash_file(file, size)
        if noted.in_order and (noted.size, noted.digest.digest()) != (size, digest):
            raise OSError(errno.EIO, f"what was written does not verify: {noted.size} bytes, {size} are there")

    write_new(path, fill)
    return Part(name, path.name, size, digest.hex())


class _Noted:
    """A file that keeps the digest of what is written to it, as long as that is one piece after the other."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.in_order = True
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        if self.in_order:
            self.digest.update(data)
            self.size += memoryview(data).nbytes
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        self.in_order = self.in_order and name == "flush"  # whoever seeks or cuts checks the file himself
        return getattr(self._file, name)
