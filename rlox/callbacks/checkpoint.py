"""Saving the model in the course of training."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import printable
from ..files import link_atomically, make_parents, shortest
from ..logging.period import Period, check_period
from .base import Callback
from .context import StepCount, at_boundary, check_finite, during, flush, log_event, own_folder, require, tell

STEP_FILE = re.compile(r"step_[0-9]{9,15}\.pt")

PLANNED = ("scheduled", "finished", "stopped")  # reasons of a save that an undisturbed training makes too


class CheckpointCallback(Callback):
    """Save the model every ``save_freq`` steps and at the end.

    Writes ``step_<9 digits>.pt``, and beside it ``last.pt``, always the newest one. The end of a training is saved
    too, unless it diverged or failed. Inside a run directory, and where ``resume`` asks for it, also writes what is
    needed to go on exactly, as ``save(path, resume=True)`` does. Saving happens between two steps: in a training, when
    the hooks and updates of the step are done.

    Parameters
    ----------
    save_freq : int
        Steps between checkpoints, fired when crossed; 0: only at the end.
    save_path : path-like
        The folder; inside a run directory the run's own replaces the default, and a link into another run.
    verbose : bool
        Say each file in one line on stderr, where no ConsoleLogger does.
    keep_last : int, optional
        How many of the files written here stay, ≥ 1; all of them when None. One that an interruption asked for is there
        to go on from: it takes nobody's place, and goes with the next save.
    resume : bool, optional
        Whether training can go on exactly from ``last.pt``; None: in the checkpoints of a run directory only.

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
        resume: bool | None = None,
    ) -> None:
        self.save_freq = check_period(save_freq, "save_freq")
        self.save_path = save_path
        self.verbose = verbose
        self.keep_last = None if keep_last is None else check_period(keep_last, "keep_last", minimum=1)
        self.resume = resume
        self.saved: list[Path] = []
        self._saved_at: tuple[int, Any] | None = None  # step and n_updates
        self._saved_as = ""  # the reason of the last save
        self._owes_event = False  # of the checkpoint that was gone on from: the log was cut before it
        self._count = StepCount()
        self._period = Period(self.save_freq)
        self._algo: Any = None

    def on_attach(self, algo: Any) -> None:
        require(algo, "save", type(self).__name__)
        self._algo = algo

    def on_training_start(self, **kwargs: Any) -> None:
        self._bind(kwargs)
        step = self._period.last = self._count.stay(kwargs)
        if self._algo is None:
            return
        path = self._file(step)
        if self._owes_event:
            log_event(self._algo, step, "checkpoint", path=str(path), best=False)
        self._owes_event = False

    def on_step(self, **kwargs: Any) -> None:
        step = self._count.advance(kwargs)
        if self._period.crossed(step):
            self._bind(kwargs)
            at_boundary(self._algo, lambda: self._save(step, "scheduled"))

    def on_training_end(self, **kwargs: Any) -> None:
        self._bind(kwargs)
        step, reason = self._count.stay(kwargs), kwargs.get("reason", "finished")
        if reason == "diverged" or self._algo is None:
            return
        if getattr(self._algo, "torn", reason == "failed"):
            return  # what ended training may have left the model between two steps
        over = reason in ("finished", "stopped")
        if self._saved_at != self._now(step) or (over and self._saved_as not in PLANNED):
            self._save(step, reason)
        elif self._resumes and over and self._saved_as == "scheduled":
            self._saved_as = reason
            self._algo.save(self._folder() / "last.pt", resume=True)  # the same once more, now with its end

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self._count.step,
            "period": self._period.last,
            "saved": [path.name for path in self.saved],
            "saved_at": None if self._saved_at is None else list(self._saved_at),
            "saved_as": self._saved_as,
            "owes_event": self._owes_event,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._count.step = state["step"]
        self._period.last = state["period"]
        self._saved_at = None if state["saved_at"] is None else (state["saved_at"][0], state["saved_at"][1])
        # Whoever made the file may have put any names there, and what is on the list is deleted one day.
        names = state["saved"]
        if not all(isinstance(name, str) and STEP_FILE.fullmatch(name) for name in names):
            raise ValueError(f"saved lists {printable(names)}, must be names of checkpoints")
        self._saved_as, self._owes_event = state["saved_as"], state["owes_event"]
        self.saved = [self._folder() / name for name in names]

    def _bind(self, kwargs: Mapping[str, Any]) -> None:
        algo = kwargs.get("algo")
        if algo is not None and algo is not self._algo:
            self.on_attach(algo)

    @property
    def _resumes(self) -> bool:
        if self.resume is not None:
            return self.resume
        own = getattr(getattr(self._algo, "run", None), "checkpoints", None)
        return own is not None and hasattr(self._algo, "boundary") and self._folder() == Path(own)

    def _now(self, step: int) -> tuple[int, Any]:
        return step, getattr(self._algo, "n_updates", None)

    def _folder(self) -> Path:
        return own_folder(Path(self.save_path), "checkpoints", self._algo, "checkpoints")

    def _file(self, step: int) -> Path:
        return make_parents(self._folder() / f"step_{step:09d}.pt")

    def _save(self, step: int, reason: str) -> None:
        """Save; a checkpoint that an interruption asked for leaves no trace in the log of what goes on from it."""
        algo = self._algo
        if algo is None:
            return  # called outside any training: there is nothing to save
        path = self._file(step)
        check_finite(algo)
        with during(algo, "save"):
            flush(algo)
            old = self._add(path, reason)
            self._saved_at, self._saved_as, self._owes_event = self._now(step), reason, reason in PLANNED
            if self._resumes:
                algo.save(path.parent / "last.pt", resume=True)
                link_atomically(path.parent / "last.pt", path)
            else:
                algo.save(path)
                link_atomically(path, path.parent / "last.pt")
            self._owes_event = False
            for file in old:
                with contextlib.suppress(OSError):  # gone already, or not ours any more: nothing that stops a training
                    file.unlink()
        log_event(algo, step, "checkpoint", path=str(path), best=False)
        if self.verbose:
            tell(algo, f"step={step} saved={shortest(path)}")

    def _add(self, path: Path, reason: str) -> list[Path]:
        """Put a file on the list; take those that are too many from it and return them."""
        passing = [] if self._saved_as in PLANNED else [one for one in self.saved[-1:] if one != path]
        self.saved = [*(one for one in self.saved if one != path), path]
        if self.keep_last is None:
            return []
        n = len(self.saved) - len(passing) - self.keep_last - (reason not in PLANNED)
        old = passing + [one for one in self.saved if one not in passing][: max(n, 0)]
        self.saved = [one for one in self.saved if one not in old]
        return old
