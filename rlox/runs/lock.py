"""The lock of a run directory: one process at a time writes there, and others may ask which."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep

from ..errors import printable

FILE = "run.lock"
PATIENCE_S = 1.0  # for those who only ask, each of whom is in the way for an instant
_PAUSE_S = 0.01


def hold(path: Path, *, create: bool = True) -> int:
    """Take the lock of a run directory and write into it who has it; closing the descriptor frees it.

    Raises
    ------
    BlockingIOError
        A living process holds it.
    OSError
        It cannot be opened, or is no plain file of the folder's own.
    """
    fd = _open(path, os.O_RDWR | (os.O_CREAT if create else 0))
    try:
        _lock(fd)
        line = f"{os.getpid()} {now()}\n".encode()
        os.pwrite(fd, line, 0)  # in this order there is no moment without a name in it
        os.ftruncate(fd, len(line))
    except BaseException:
        os.close(fd)
        raise
    return fd


def lock_holder(path: Path) -> str | None:
    """Return ``pid N since T`` when a living process holds a run directory.

    Asking takes a shared lock on a file opened for reading, which only an exclusive one refuses: two who ask at the
    same time see no holder in each other, and a run of somebody else's can be asked about.
    """
    try:
        fd = _open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        if not _is_held(fd):
            return None
        pid, _, since = os.read(fd, 100).decode("ascii", "replace").partition("\n")[0].strip().partition(" ")
        return f"pid {printable(pid)} since {printable(since)}" if since else "another process"
    except OSError:
        return None
    finally:
        os.close(fd)


def now() -> str:
    """Return the time in UTC as text."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _open(path: Path, flags: int) -> int:
    """Open the lock file; what a link leads to is somebody else's file, and a pipe would wait for its other end."""
    fd = os.open(path / FILE, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "Is not a file")
    return fd


def _lock(fd: int) -> None:
    give_up = monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if monotonic() >= give_up or _is_held(fd):
                raise
        sleep(_PAUSE_S)


def _is_held(fd: int) -> bool:
    """Whether somebody has the exclusive lock; one who asks in the same instant has a shared one."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
