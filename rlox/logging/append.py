"""A file that only grows, by whole records, stays readable after a crash, and outlives a full disk."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path
from time import monotonic

from ..errors import WriteError, printable
from ..files import make_parents, write_error

WARN_EVERY_S = 60.0
_BLOCK = 65536


class AppendFile:
    """Append records to a file, one system call each.

    A crash leaves at most a torn last record. When the system refuses a record (full disk, quota), what was written of
    it is taken back, the record is dropped, and a RuntimeWarning says so at most once a minute; later records are
    tried again.

    Parameters
    ----------
    path : path-like
        Created when it is not there, with its parents.

    Raises
    ------
    WriteError
        When the file cannot be opened for writing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = make_parents(path)
        self.dropped = 0
        self._warned_at = -WARN_EVERY_S
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self.size = os.lseek(self._fd, 0, os.SEEK_END)
        except (OSError, ValueError) as error:
            raise write_error(path, error) from error

    def write(self, data: bytes) -> bool:
        """Append one record; return False when it was dropped."""
        try:
            if os.write(self._fd, data) != len(data):
                raise OSError(28, "No space left on device")  # a short write to a file means just that
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.size)
            self.drop(error)
            return False
        self.size += len(data)
        return True

    def drop(self, error: OSError | WriteError) -> None:
        """Count a dropped record and warn, at most once a minute."""
        self.dropped += 1
        now = monotonic()
        if now - self._warned_at >= WARN_EVERY_S:
            self._warned_at = now
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            text = f"metrics dropped, {self.dropped} so far: {printable(self.path)}: {printable(reason)}"
            warnings.warn(text, RuntimeWarning, stacklevel=4)

    def close(self) -> None:
        """Close the file; harmless when closed already."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def begins_with(self, start: bytes) -> bool:
        """Return whether the file holds ``start``, or as much of it as it is long."""
        return start.startswith(os.pread(self._fd, len(start), 0))

    def cut_torn_line(self) -> None:
        """Cut off what follows the last newline."""
        end, whole = self.size, 0
        while end > 0 and whole == 0:
            begin = max(end - _BLOCK, 0)
            whole = begin + os.pread(self._fd, end - begin, begin).rfind(b"\n") + 1
            if whole == begin:  # no newline in this block
                end, whole = begin, 0
        if whole < self.size:
            os.ftruncate(self._fd, whole)
            self.size = whole


def open_lines(path: str | os.PathLike[str], start: bytes) -> AppendFile:
    """Open a text file to append lines, a torn last line cut off.

    Parameters
    ----------
    path : path-like
        Parents are created.
    start : bytes
        What an existing file must begin with; any other file is left untouched.

    Raises
    ------
    WriteError
        When the file cannot be opened for writing, or holds something else.
    """
    file = AppendFile(path)
    try:
        if not file.begins_with(start):
            raise WriteError(
                f"{printable(file.path)} exists and was not written by this logger",
                hint="give the logger another path",
                value=str(path),
            )
        file.cut_torn_line()
    except OSError as error:
        file.close()
        raise write_error(path, error) from error
    except WriteError:
        file.close()
        raise
    return file


def resolve(path: str | os.PathLike[str]) -> Path:
    """Return a path that stays the same when the working directory changes."""
    return Path(os.path.abspath(path))
