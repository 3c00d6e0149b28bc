"""A file that only grows, by whole records, stays readable after a crash, and outlives a full disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Self

from ..errors import WriteError, printable
from ..files import fsync_folder, make_parents, write_error

WARN_EVERY_S = 60.0
_BLOCK = 65536
_TAIL = 4096


@dataclass(frozen=True)
class Position:
    """How far a file was written: its size, and the sha256 of its last 4096 bytes.

    The digest tells the file that was written from another one of the same name.
    """

    size: int
    tail: str

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return the position at the end of a file of this content, or of one that is longer and ends so."""
        return cls(len(content), hashlib.sha256(content[-_TAIL:]).hexdigest())

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return a saved position; KeyError, TypeError or ValueError when that is none."""
        size, tail = state["size"], state["tail"]
        if not isinstance(size, int) or size < 0 or not isinstance(tail, str):
            raise ValueError(f"size is {size!r}, must be an integer of at least 0; tail is {tail!r}, must be a text")
        return cls(size, tail)


@dataclass
class _Losses:
    """What was dropped from the files of one folder, and when that was said."""

    n: int = 0
    said_at: float = -WARN_EVERY_S


# One disk that is full concerns all files of a run at once, and is said once
_LOSSES: dict[Path, _Losses] = {}


class AppendFile:
    """Append records to a file, one system call each.

    A crash leaves at most a torn last record. When the system refuses a record (full disk, quota), what was written of
    it is taken back, the record is dropped, and a RuntimeWarning says so, at most once a minute for all files of a
    folder; later records are tried again.

    Parameters
    ----------
    path : path-like
        Created when it is not there, with its parents.
    follow : bool
        Whether ``path`` may be a link; inside a run directory it would lead to a file that is not the run's.

    Raises
    ------
    WriteError
        When the file cannot be opened for writing.
    """

    def __init__(self, path: str | os.PathLike[str], *, follow: bool = True) -> None:
        self.path = make_parents(path)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | (0 if follow else os.O_NOFOLLOW)
            self._fd = os.open(self.path, flags, 0o644)
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
        losses = _LOSSES.setdefault(self.path.parent, _Losses())
        losses.n += 1
        self._warn(f"metrics dropped, {losses.n} so far", error)

    def _warn(self, what: str, error: OSError | WriteError) -> None:
        losses, now = _LOSSES.setdefault(self.path.parent, _Losses()), monotonic()
        if now - losses.said_at >= WARN_EVERY_S:
            losses.said_at = now
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            warnings.warn(f"{what}: {printable(self.path)}: {printable(reason)}", RuntimeWarning, stacklevel=5)

    def position(self) -> Position:
        """Bring everything to the disk and return how far the file is written."""
        try:
            os.fsync(self._fd)
            fsync_folder(self.path.parent)  # a new file has to keep its name too
        except OSError as error:
            self._warn("metrics may be lost", error)
        return self._position(self.size)

    def _position(self, size: int) -> Position:
        length = min(size, _TAIL)
        return Position(size, hashlib.sha256(os.pread(self._fd, length, size - length)).hexdigest())

    def holds(self, position: Position) -> bool:
        """Return whether everything up to a position is in the file."""
        return self.size >= position.size and self._position(position.size) == position

    def cut(self, size: int) -> None:
        """Cut off what follows the first ``size`` bytes."""
        if size < self.size:
            os.ftruncate(self._fd, size)
            self.size = size

    def close(self) -> None:
        """Close the file; harmless when closed already."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def begins_with(self, start: bytes) -> bool:
        """Return whether the file holds ``start``, or as much of it as it is long."""
        return start.startswith(os.pread(self._fd, len(start), 0))

    def whole_lines(self) -> int:
        """Return the number of bytes up to the last newline."""
        end = self.size
        while end > 0:
            begin = max(end - _BLOCK, 0)
            newline = os.pread(self._fd, end - begin, begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            end = begin
        return 0


def open_lines(
    path: str | os.PathLike[str], start: bytes, since: Position | None = None, *, follow: bool = True
) -> AppendFile:
    """Open a text file to append lines, a torn last line cut off with a warning.

    Parameters
    ----------
    path : path-like
        Parents are created.
    start : bytes
        What an existing file must begin with; any other file is left untouched.
    since : Position, optional
        Where to go on: what follows is cut off. When the file does not hold what was written up to there, a
        RuntimeWarning says so and lines are added to what is there.
    follow : bool
        Whether ``path`` may be a link.

    Raises
    ------
    WriteError
        When the file cannot be opened for writing, or holds something else.
    """
    file = AppendFile(path, follow=follow)
    try:
        if not file.begins_with(start):
            raise WriteError(
                f"{printable(file.path)} exists and was not written by this logger",
                hint="give the logger another path",
                value=str(path),
            )
        _cut_back(file, since)
    except OSError as error:
        file.close()
        raise write_error(path, error) from error
    except BaseException:
        file.close()
        raise
    return file


def _cut_back(file: AppendFile, since: Position | None) -> None:
    size, whole = file.size, file.whole_lines()
    if since is None or file.holds(since):
        file.cut(whole if since is None else since.size)
        if whole < size:
            what = f"ended in the middle of a line, the last {size - whole} bytes were cut off"
            warnings.warn(f"{printable(file.path)} {what}", RuntimeWarning, stacklevel=5)
        return
    file.cut(whole)
    short = size < since.size
    what = f"has {size} of the {since.size} bytes" if short else "does not hold the lines"
    text = f"{printable(file.path)} {what} that were logged before: what follows is added to it"
    warnings.warn(text, RuntimeWarning, stacklevel=5)


def resolve(path: str | os.PathLike[str]) -> Path:
    """Return a path that stays the same when the working directory changes."""
    return Path(os.path.abspath(path))
