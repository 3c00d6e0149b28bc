"""Thin out the checkpoints of a run."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import NotFoundError, WriteError, printable
from ..files import fsync_folder, write_error
from .left import check_own
from .lock import hold, lock_holder

_STEP = re.compile(r"step_([0-9]{1,18})\.pt")
_NEVER = ("best.pt", "last.pt")


@dataclass(frozen=True)
class StepFile:
    """A ``step_*.pt`` of a run. ``bytes`` is what deleting it frees: nothing where the file has other names."""

    path: Path
    step: int
    bytes: int
    kept: bool


@dataclass(frozen=True)
class Pruning:
    """What is deleted of a run and what is kept, by step."""

    run: Path
    files: list[StepFile]

    @property
    def deleted(self) -> list[StepFile]:
        """The files to delete."""
        return [file for file in self.files if not file.kept]

    @property
    def bytes(self) -> int:
        """Bytes that deleting them frees."""
        return sum(file.bytes for file in self.deleted)


def plan_pruning(folder: str | os.PathLike[str], keep_last: int = 3, keep_every: int | None = None) -> Pruning:
    """Decide which ``step_*.pt`` of a run are deleted; deletes nothing.

    Parameters
    ----------
    folder : path-like
        A run directory, or its ``checkpoints``.
    keep_last : int
        So many of the newest are kept.
    keep_every : int, optional
        Kept are also those whose step is a multiple of this.

    Returns
    -------
    Pruning
        ``best.pt``, ``last.pt``, what they link to, and the state to go on from are never part of it.

    Raises
    ------
    NotFoundError
        No such folder, or no checkpoints in it.
    """
    run, checkpoints = _folders(folder)
    targets = {os.path.realpath(checkpoints / name) for name in _NEVER}
    found = []
    for path in checkpoints.iterdir():
        match = _STEP.fullmatch(path.name)
        if match and path.is_file() and not path.is_symlink():
            found.append((int(match[1]), path))
    found.sort()
    newest = {path for _, path in found[max(len(found) - keep_last, 0) :]}
    files = []
    for step, path in found:
        periodic = keep_every is not None and step % keep_every == 0
        status = path.stat()
        kept = path in newest or periodic or os.path.realpath(path) in targets
        files.append(StepFile(path, step, status.st_size if status.st_nlink == 1 else 0, kept))
    return Pruning(run, files)


def prune(pruning: Pruning) -> None:
    """Delete what was planned while the run is held.

    Raises
    ------
    WriteError
        A living process holds the run, or a file cannot be deleted.
    """
    with held(pruning.run):
        for file in pruning.deleted:
            try:
                file.path.unlink(missing_ok=True)
            except OSError as error:
                reason = write_error(file.path, error)
                raise WriteError(reason.message.replace("cannot write", "cannot delete", 1), value=str(file.path)) from error
        if pruning.deleted:
            fsync_folder(pruning.deleted[0].path.parent)


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold the lock of a run directory; WriteError when a living process does. A folder without a lock is free."""
    try:
        fd = hold(run, create=False)
    except FileNotFoundError:
        yield
        return
    except BlockingIOError as error:
        holder = lock_holder(run) or "another process"
        raise WriteError(f"run directory {printable(run)} is locked by {holder}", value=str(run),
                         hint="wait until the run has ended") from error  # fmt: skip
    except OSError as error:
        raise write_error(run / "run.lock", error) from error
    try:
        yield
    finally:
        os.close(fd)


def _folders(folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return the run directory and its folder of checkpoints, links followed."""
    try:
        path = Path(os.path.realpath(folder))
        if not path.is_dir():
            what = "is a file, not a run directory" if path.exists() else "does not exist"
            raise NotFoundError(f"{printable(folder)} {what}", hint="name a folder such as `runs/sac/Pendulum-v1/NAME`",
                                value=str(folder))  # fmt: skip
        if (path / "checkpoints").is_dir():
            check_own(path)
            return path, path / "checkpoints"
        if any(_STEP.fullmatch(name) or name in _NEVER for name in os.listdir(path)):
            return (path.parent if (path.parent / "run.lock").exists() else path), path
    except (OSError, ValueError) as error:
        raise NotFoundError(f"no run at {printable(folder)}: {printable(error)}", value=str(folder)) from error
    raise NotFoundError(f"{printable(folder)} has no checkpoints", hint="name a run directory, or its `checkpoints`",
                        value=str(folder))  # fmt: skip
