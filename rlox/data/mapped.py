"""Columns of a file read in place: mapped read-only, and watched for changes while they are in use."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlox.errors import DatasetError, printable


class MappedFile:
    """A file mapped read-only.

    Parameters
    ----------
    path : path-like
    identity : sequence of four ints
        Device, inode, size and modification time in ns of the file that was checked; anything else is refused.

    Notes
    -----
    A page beyond the end of a file that shrank kills the process that touches it (SIGBUS). :meth:`check` before each
    pass turns that into an error, but a truncation between check and access cannot be excluded: read files that
    others may write into RAM.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Sequence[int]) -> None:
        self.path = os.path.abspath(path)
        self.name = printable(path)
        self._identity = tuple(identity)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DatasetError(f"cannot read {self.name}: {error.strerror}", value=str(path)) from error
        self.check()
        self._map = mmap.mmap(self._fd, 0, prot=mmap.PROT_READ)
        if hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)

    def column(self, dtype: str, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
        """Return a read-only array over the file's bytes from ``offset``."""
        return np.frombuffer(self._map, dtype, math.prod(shape), offset).reshape(shape)

    def check(self) -> None:
        """Raise DatasetError unless name and open file are still the file that was checked, unchanged."""
        try:
            named, held = os.stat(self.path), os.fstat(self._fd)
        except OSError as error:
            raise self._changed(f"is gone ({error.strerror})") from error
        for status in (held, named):
            if (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) != self._identity:
                raise self._changed("changed while it was in use")

    def _changed(self, what: str) -> DatasetError:
        return DatasetError(
            f"{self.name} {what}", hint="use `--storage ram` for files that others may write", value=self.path
        )

    def __del__(self) -> None:
        fd = getattr(self, "_fd", None)
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)
