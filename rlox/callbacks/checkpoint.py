"""Saving the model in the course of training."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ..files import atomic_write, fsync_folder, make_parents, shortest
from ..logging.period import Period, check_period
from .base import Callback
from .context import StepCount, check_finite, during, log_event, own_folder, require, tell


class CheckpointCallback(Callback):
    """Save the model every ``save_freq`` steps and at the end.

    Writes ``step_<9 digits>.pt``, and beside it ``last.pt``, always the newest one. The end of a training is saved
    too, unless it diverged or failed.

    Parameters
    ----------
    save_freq : int
        Steps between checkpoints, fired when crossed; 0: only at the end.
    save_path : path-like
        The folder; inside a run directory the run's own replaces the default, and a link into another run.
    verbose : bool
        Say each file in one line on stderr, where no ConsoleLogger does.
    keep_last : int, optional
        How many of the files written here stay, ≥ 1; all of them when None.

    Attributes
    ----------
    saved : list of Path
        The files written and not removed again, oldest first.

    Raises
    ------
    ConfigError
        For a value out of range; when attached, for an algorithm without ``save``.
    WriteError
        When the folder cannot be written, before the first step where that can be known.
    """

    def __init__(
        self,
        save_freq: int = 10000,
        save_path: str | os.PathLike[str] = "checkpoints",
        verbose: bool = True,
        *,
        keep_last: int | None = None,
    ) -> None:
        self.save_freq = check_period(save_freq, "save_freq")
        self.save_path = save_path
        self.verbose = verbose
        self.keep_last = None if keep_last is None else check_period(keep_last, "keep_last", minimum=1)
        self.saved: list[Path] = []
        self._count = StepCount()
        self._period = Period(self.save_freq)
        self._algo: Any = None

    def on_attach(self, algo: Any) -> None:
        require(algo, "save", type(self).__name__)
        self._algo = algo

    def on_training_start(self, **kwargs: Any) -> None:
        self._bind(kwargs)
        step = self._count.stay(kwargs)
        if step < self._period.last:  # another training that counts from its own beginning
            self._period.last = step
        if self._algo is not None:
            self._file(step)

    def on_step(self, **kwargs: Any) -> None:
        step = self._count.advance(kwargs)
        if self._period.crossed(step):
            self._bind(kwargs)
            self._save(step)

    def on_training_end(self, **kwargs: Any) -> None:
        self._bind(kwargs)
        step = self._count.stay(kwargs)
        if kwargs.get("reason", "finished") == "diverged" or self._algo is None:
            return
        if getattr(self._algo, "torn", kwargs.get("reason") == "failed"):
            return  # what ended training may have left the model between two steps
        if not self.saved or self.saved[-1] != self._file(step):
            self._save(step)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._count.step, "period": self._period.last, "saved": [str(path) for path in self.saved]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._count.step = state["step"]
        self._period.last = state["period"]
        self.saved = [Path(path) for path in state["saved"]]

    def _bind(self, kwargs: Mapping[str, Any]) -> None:
        algo = kwargs.get("algo")
        if algo is not None and algo is not self._algo:
            self.on_attach(algo)

    def _file(self, step: int) -> Path:
        folder = own_folder(Path(self.save_path), "checkpoints", self._algo, "checkpoints")
        return make_parents(folder / f"step_{step:09d}.pt")

    def _save(self, step: int) -> None:
        algo = self._algo
        if algo is None:
            return  # called outside any training: there is nothing to save
        path = self._file(step)
        check_finite(algo)
        with during(algo, "save"):
            algo.save(path)
            point_last_to(path)
            if path in self.saved:
                self.saved.remove(path)
            self.saved.append(path)
            self._remove_old()
        log_event(algo, step, "checkpoint", path=str(path), best=False)
        if self.verbose:
            tell(algo, f"step={step} saved={shortest(path)}")

    def _remove_old(self) -> None:
        while self.keep_last is not None and len(self.saved) > self.keep_last:
            old = self.saved.pop(0)
            with contextlib.suppress(OSError):  # gone already, or not ours any more: nothing that stops a training
                old.unlink()


def point_last_to(path: Path) -> Path:
    """Make ``last.pt`` beside a file a second name of it, or a copy where links are not possible, atomically."""
    last = path.parent / "last.pt"
    temporary = path.parent / f".last.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        os.link(path, temporary)
    except OSError:

        def copy(file: IO[bytes]) -> None:
            with open(path, "rb") as source:
                shutil.copyfileobj(source, file)

        return atomic_write(last, copy)
    os.replace(temporary, last)
    temporary.unlink(missing_ok=True)  # a rename onto another name of the same file does nothing
    fsync_folder(path.parent)
    return last
