"""The folder of one run: what is in it, who holds it, and the ``checkpoints`` link that points into it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import RloxError, WriteError, printable
from ..files import atomic_write, atomic_write_text, fsync_folder, make_parents, shortest, slug, write_error
from .left import check_not_lost, check_own, has_generation, tidy
from .lock import hold, lock_holder, now

LINK = "checkpoints"
LEAVE_WITHIN_S = 0.3  # then the system ends what a second signal has not ended


class Run:
    """A run directory that this process holds.

    It has ``config.toml`` (resolved, accepted by ``--config``), ``meta.json``, ``status.json``, ``run.lock`` and
    ``checkpoints/``; the loggers add ``metrics.jsonl`` and TensorBoard events, a crash ``crash.log``. The lock belongs
    to the process: the kernel frees it, whatever kills the process.

    Attributes
    ----------
    path, checkpoints : Path
        Absolute.
    linked : bool
        Whether ``./checkpoints`` points at this run.
    on_leave : list of callables
        What :meth:`leave` calls with the exit code before it ends the process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.linked = False
        self.on_leave: list[Callable[[int], object]] = []
        self._made: list[Path] = []
        self._lock = hold(path)
        try:
            self.checkpoints.mkdir(exist_ok=True)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path) -> Run:
        """Make the folder, which must be new, and hold it.

        Raises
        ------
        WriteError
            It exists (in use by another process, or left by an earlier run), or cannot be made.
        """
        try:
            whole = Path(os.path.abspath(path))
            made = [folder for folder in whole.parents if not folder.exists()]
            make_parents(path)
            os.mkdir(path)
            fsync_folder(whole.parent)  # what is saved in a folder that a power loss takes back was not saved
            run = cls(whole)
            run._made = made
            return run
        except (FileExistsError, BlockingIOError):  # the latter: somebody went on with it before it was held
            raise cls._taken(path) from None
        except (OSError, ValueError) as error:
            raise write_error(path, error) from error

    @classmethod
    def reopen(cls, path: Path) -> Run:
        """Hold a folder that an earlier process left, and clear away what that was writing when it was killed.

        Raises
        ------
        WriteError
            A living process holds it, or it cannot be written.
        RunError
            Something in it leads elsewhere: nothing was written.
        NotFoundError
            It has checkpoints and no state to go on from: nothing but the lock was written.
        """
        whole = Path(os.path.abspath(path))
        check_own(whole)
        try:
            run = cls(whole)
        except BlockingIOError:
            raise cls._taken(path) from None
        except (OSError, ValueError) as error:
            raise write_error(path, error) from error
        try:
            check_own(whole)  # once more, now that nobody else goes on with it
            if not has_generation(whole):
                check_not_lost(whole)
            tidy(whole)
        except BaseException:
            run.close()
            raise
        return run

    def start_over(self) -> None:
        """Remove what a process left that was killed before its first whole generation; nothing else is removed.

        Raises
        ------
        NotFoundError
            There was one: nothing was removed.
        """
        check_not_lost(self.path)
        left = ["metrics.jsonl", "crash.log", "checkpoints/best.pt"]
        left += [p.name for p in self.path.glob("events.out.tfevents.*")]
        for name in left:
            (self.path / name).unlink(missing_ok=True)

    @staticmethod
    def _taken(path: Path) -> WriteError:
        holder = lock_holder(path)
        if holder is not None:
            return WriteError(f"run directory {printable(path)} is locked by {holder}", value=str(path),
                              hint="wait for it, or choose another `--run-dir`")  # fmt: skip
        what = "run directory" if path.is_dir() else "a file"
        hint = "choose another `--run-dir`, or leave it out"
        if (path / "meta.json").is_file():
            hint = "`--resume auto` goes on with it; or choose another `--run-dir`"
        return WriteError(f"{what} {printable(path)} exists already", hint=hint,
                          param="--run-dir", value=str(path))  # fmt: skip

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run so that there is always a whole one."""
        atomic_write_text(self.path / name, text)

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file of the run so that there is always a whole one."""
        self.write_text(name, _as_json(values))

    def status(self, status: str, exit_code: int | None = None, *, at_once: bool = False, **more: Any) -> None:
        """Write ``status.json``: running, finished, interrupted, diverged or failed; ``at_once``: whole, but not synced."""
        values = {"status": status, "exit_code": exit_code, "time": now(), **more}
        if not at_once:
            self.write_json("status.json", values)
            return
        temporary = self.path / f".status.json.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        temporary.write_text(_as_json(values), encoding="utf-8")
        os.replace(temporary, self.path / "status.json")

    def leave(self, exit_code: int) -> None:
        """End the process at once, from the handler of a second signal: nothing is saved, nothing is cleared up.

        What is on disk is whole at every instant, worker processes leave with their parent, and a resume removes what
        was being written.
        """
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, LEAVE_WITHIN_S)  # nobody may read what is said, and a disk may hang
        for last in self.on_leave:
            with contextlib.suppress(Exception):
                last(exit_code)
        os._exit(exit_code)

    def crash(self, error: BaseException) -> Path | None:
        """Write the traceback to ``crash.log``; None where the disk is full."""
        return write_crash_log(self.path, error)

    def link(self) -> None:
        """Point ``./checkpoints`` at this run's, unless something that is no such link has that name.

        The link is made under another name and renamed, so that there is no moment without one.
        """
        temporary = f".{LINK}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            if os.path.lexists(LINK) and not _points_into_a_run(Path(LINK)):
                return
            os.symlink(os.path.relpath(self.checkpoints), temporary, target_is_directory=True)
            os.replace(temporary, LINK)
            self.linked = True
        except OSError:  # no symlinks here, a read-only or deleted folder: the full path is shown instead
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def shown(self, name: str) -> str:
        """Return the shortest path to a checkpoint, as the user would type it."""
        return os.path.join(LINK, name) if self.linked else shortest(self.checkpoints / name)

    def discard(self) -> None:
        """Remove the folder of a run that never began, and the folders made for it that hold nothing else."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in self._made:  # the innermost first
            with contextlib.suppress(OSError):
                folder.rmdir()

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def create_run(root: Path, algorithm: str, target: str, seed: int, name: str | None = None) -> Run:
    """Make ``<root>/<algorithm>/<target>/<UTC time>-s<seed>-<4 hex>[-<name>]``."""
    parent = root / slug(algorithm) / slug(target)
    for _ in range(100):
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        end = f"-{slug(name)}" if name else ""
        path = parent / f"{stamp}-s{seed}-{secrets.token_hex(2)}{end}"
        if not os.path.lexists(path):
            with contextlib.suppress(_Collision):
                return _create_or_collide(path)
    raise WriteError(f"no free name for a run in {printable(parent)}")


class _Collision(RloxError):
    """Another process took the name in the same instant."""


def _create_or_collide(path: Path) -> Run:
    try:
        return Run.create(path)
    except WriteError:
        if os.path.isdir(path):  # False, where Path.is_dir raises, for a name that is too long
            raise _Collision("taken") from None
        raise


def write_crash_log(folder: Path, error: BaseException) -> Path | None:
    """Write a traceback to ``crash.log`` of a run directory; None where it is gone, or the disk full."""
    text = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")
    try:
        return atomic_write(folder / "crash.log", lambda file: file.write(text)) if folder.is_dir() else None
    except (OSError, WriteError):
        return None


def kept_checkpoint(run: Path) -> Path | None:
    """Return the newest model file of a run: the last one, else the best."""
    return next((p for p in (run / "checkpoints" / name for name in ("last.pt", "best.pt")) if p.is_file()), None)


def _as_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, allow_nan=False, default=str) + "\n"


def _points_into_a_run(link: Path) -> bool:
    """Whether a name is a symlink to the checkpoints of a run, one that was deleted included."""
    if not link.is_symlink():
        return False
    target = link.parent / os.readlink(link)
    return target.name == "checkpoints" and (not target.exists() or (target.parent / "run.lock").exists())
