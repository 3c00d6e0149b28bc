"""Writing files so that there is always a whole one: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from .errors import WriteError, printable

_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")


def write_error(path: str | os.PathLike[str], error: BaseException) -> WriteError:
    """Return a WriteError that names the path and says what the system said."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return WriteError(f"cannot write {printable(path)}: {printable(reason)}", value=str(path))


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Create a folder and those above it, so that they survive a power loss, and return it; WriteError when that fails."""
    folder = Path(folder)
    try:
        missing, at = [], folder
        while not at.exists() and at != at.parent:
            missing.append(at)
            at = at.parent
        if missing:
            fsync_entry(at)  # a process may have been killed after it made this one
        elif not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "Is a file, not a folder")
        for made in reversed(missing):
            made.mkdir(exist_ok=True)
            fsync_entry(made)  # before anything is made inside: so all above a folder are durable
    except (OSError, ValueError) as error:
        raise write_error(folder, error) from error
    return folder


def make_parents(path: str | os.PathLike[str]) -> Path:
    """Create the folders above ``path`` as :func:`make_folder` does and return it as a Path."""
    path = Path(path)
    try:
        make_folder(path.parent)
    except WriteError as error:
        raise write_error(path, error.__cause__ or error) from error.__cause__
    return path


def fsync_folder(folder: str | os.PathLike[str]) -> None:
    """Make the entries of a folder durable, where its file system can do that."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync files only
            raise
    finally:
        os.close(fd)


def fsync_entry(path: str | os.PathLike[str]) -> None:
    """Make the name of a file or folder durable in the folder that holds it, where that may be read."""
    with contextlib.suppress(PermissionError):  # such as the parent of a user's home
        fsync_folder(os.path.dirname(os.path.abspath(path)))


def write_new(
    path: str | os.PathLike[str], write: Callable[[IO[bytes]], object], *, shown: str | os.PathLike[str] | None = None
) -> None:
    """Create a file, call ``write`` with it, and make its content durable; any exception removes the file.

    The entry in its folder is not durable before :func:`fsync_folder`.

    Parameters
    ----------
    path : path-like
        There must be nothing of that name.
    write : callable
        Receives a binary file opened for reading and writing.
    shown : path-like, optional
        What an error names instead of ``path``.

    Raises
    ------
    WriteError
        When the system refuses, with the bytes written and free.
    """
    path = Path(path)
    shown = path if shown is None else shown
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except (OSError, ValueError) as error:
        raise write_error(shown, error) from error
    try:
        with os.fdopen(fd, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        refused = _refused(shown, path, error) if isinstance(error, OSError) else None
        # After a failed fsync the pages may be gone: the file is given up, never synced a second time.
        with contextlib.suppress(OSError):
            path.unlink()
        if refused is not None:
            raise refused from error
        raise


def atomic_write(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> Path:
    """Call ``write`` with a new file and give it the name ``path`` once it is complete and on disk.

    At every instant, also after a crash or power loss, ``path`` is the old file or the new one, whole. Any exception
    removes the temporary file and leaves the old one as it was, unless all that failed was to sync the folder: then the
    new one is there, but may be gone after a power loss.

    Parameters
    ----------
    path : path-like
        Parents are created. An existing file is replaced; a folder of that name is an error.
    write : callable
        Receives a binary file opened for reading and writing.

    Raises
    ------
    WriteError
        When the system refuses: permission, full disk, a folder in the way, a name too long.
    """
    path = make_parents(path)
    temporary = _temporary(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "Is a device, pipe or socket, not a file")
    except (OSError, ValueError) as error:
        raise write_error(path, error) from error
    write_new(temporary, write, shown=path)
    _rename(temporary, path)
    return path


def link_atomically(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Make ``path`` a second name of a file, or a copy where links are not possible, as :func:`atomic_write` does.

    Raises
    ------
    WriteError
        When the system refuses: an older file of that name is then as it was.
    """
    path = make_parents(path)
    temporary = _temporary(path)
    try:
        os.link(source, temporary)
    except OSError:

        def copy(file: IO[bytes]) -> None:
            with open(source, "rb") as original:
                shutil.copyfileobj(original, file)

        return atomic_write(path, copy)
    _rename(temporary, path)
    with contextlib.suppress(OSError):
        temporary.unlink()  # a rename onto another name of the same file does nothing
    return path


def _temporary(path: Path) -> Path:
    """Return a name in the same folder that :func:`remove_temporaries` knows."""
    name = path.name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
    return path.parent / f".{name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"


def _rename(temporary: Path, path: Path) -> None:
    """Give a file that is on disk its name, durably; any exception removes what still has the temporary one."""
    try:
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except BaseException as error:
        refused = _refused(path, temporary, error) if isinstance(error, OSError) else None
        with contextlib.suppress(OSError):
            temporary.unlink()
        if refused is not None:
            raise refused from error
        raise


def _refused(shown: str | os.PathLike[str], path: Path, error: OSError) -> WriteError:
    """Return the WriteError for a file that was begun, with the sizes that matter on a full disk."""
    refused = write_error(shown, error)
    with contextlib.suppress(OSError):
        written, disk = path.stat().st_size, os.statvfs(path.parent)
        free = disk.f_bavail * disk.f_frsize
        refused = WriteError(
            f"{refused.message} ({human_bytes(written)} written, {human_bytes(free)} free)", value=str(shown)
        )
    return refused


def remove_temporaries(folder: str | os.PathLike[str]) -> list[Path]:
    """Delete what :func:`atomic_write` left in a folder when its process was killed; return what was deleted.

    Only for a folder that no other process writes to, i.e. while its lock is held.
    """
    removed = []
    for path in sorted(Path(folder).glob(".*.tmp")):
        if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed


def atomic_write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 text as :func:`atomic_write` does."""
    return atomic_write(path, lambda file: file.write(text.encode()))


def available_memory() -> int:
    """Return the bytes of memory that a process can still take, the limit of its control group respected."""
    available = 2**62
    with contextlib.suppress(OSError, ValueError, StopIteration, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):
        available = min(available, _group_memory(Path("/sys/fs/cgroup")))
    return available


def _group_memory(group: Path) -> int:
    """Return what a control group has left; file pages that it can drop at any time count as free."""
    limit = int((group / "memory.max").read_text())
    used = int((group / "memory.current").read_text())
    with contextlib.suppress(OSError):
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used -= int(fields.get("inactive_file", 0))
    return max(limit - used, 0)


def human_bytes(n: float) -> str:
    """Return a size as text, e.g. ``166.0 MB`` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n) < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def shortest(path: str | os.PathLike[str]) -> str:
    """Return a path as a user would type it: relative where it lies inside the working directory."""
    try:
        relative = os.path.relpath(path)
    except OSError:  # the working directory was deleted
        return str(path)
    return str(path) if relative.startswith("..") else relative


def slug(text: str, limit: int = 64) -> str:
    """Return ``text`` as one part of a path: characters outside ``[A-Za-z0-9._-]`` become ``-``."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text)[:limit]
    return safe if safe.strip(".-") else "x"
