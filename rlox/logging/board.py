"""Metrics for TensorBoard."""

from __future__ import annotations

import os
import re
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import Any

from ..errors import MissingDependencyError, printable
from ..files import write_error
from .append import AppendFile, Position, resolve
from .base import LoggerCallback, as_number, prefixed
from .period import check_period

DEFAULT_DIR = "runs"
# Seconds, a name for the files of one training, and their number: readers take files in the order of their names
_NAME = re.compile(r"events\.out\.tfevents\.([0-9]{10,12})\.([0-9a-f]{8})\.([0-9]{3,6})")


class TensorBoardLogger(LoggerCallback):
    """Write scalars to a TensorBoard event file.

    Every call is in the file when it returns, so an evaluation is visible at once and a crash loses nothing. A folder
    that is deleted in mid-run is created again, with a warning; a full disk drops scalars, with one warning a minute.
    A resumed training goes on where its event file was at the checkpoint: what was written after that, also to files
    of its own that came later, is taken away and written again.

    Parameters
    ----------
    log_dir : path-like
        Where event files go; inside a run directory the run's folder replaces the default.
    log_interval : int
        Steps between two calls of ``on_train_step``, ≥ 1.

    Raises
    ------
    MissingDependencyError
        From :meth:`open`, when the package ``tensorboard`` is missing.

    Notes
    -----
    TensorBoard's own writer hands records to a thread, where an error ends the thread and later records vanish; the
    few hundred bytes of a log are written at once here, in the same format.
    """

    wants_rollouts = False

    def __init__(self, log_dir: str | os.PathLike[str] = DEFAULT_DIR, log_interval: int = 1000) -> None:
        self.log_dir = log_dir
        self.log_interval = check_period(log_interval, "log_interval", minimum=1)
        self._folder: Path | None = None
        self._file: AppendFile | None = None
        self._series, self._second, self._n_files = secrets.token_hex(4), 0, 0
        self._step: int | None = None  # of the newest scalars
        self._left: dict[str, Any] = {}  # the state when the file was closed, or to go on from
        self._goes_back = False

    def open(self, run: Any = None) -> None:
        """Start an event file, in the run's folder unless another one was given."""
        inside = run is not None and os.fspath(self.log_dir) == DEFAULT_DIR
        folder = resolve(run.path if inside else self.log_dir)
        if folder != self._folder:
            self.close()
            self._folder = folder
        self._opened()

    def on_train_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._write(step, metrics, None)

    def on_rollout_end(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._write(step, metrics, None)

    def on_eval(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._write(step, metrics, "eval")

    def close(self) -> None:
        file = self._file
        if file is not None:
            try:
                self.state_dict()
            finally:
                self._file = None
                file.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the event file and how far it is written, {} before there is one; it is on the disk by then."""
        if self._file is not None:
            self._left = {"file": self._file.path.name, "step": self._step, **self._file.position().state_dict()}
        return dict(self._left)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the event file of then; opening takes away what came after."""
        self.close()
        self._left, self._goes_back = dict(state), bool(state)
        if not state:
            return
        name = _NAME.fullmatch(state["file"])
        if name is None:
            raise ValueError(f"{printable(state['file'])} is not the name of an event file")
        Position.from_state(state)
        self._second, self._series, self._n_files = int(name[1]), name[2], int(name[3]) + 1
        self._step = None if state["step"] is None else int(state["step"])

    def _opened(self) -> AppendFile:
        if self._file is not None and not self._file.path.exists():
            self._warn(f"TensorBoard's folder {printable(self._file.path.parent)} is gone, a new one is made")
            self._file.close()
            self._file = None
        if self._file is not None and self._file.size:
            return self._file
        _import_protos()
        if self._file is None:
            self._folder = self._folder or resolve(self.log_dir)
            self._file = self._reopened(self._folder) if self._goes_back else self._new_file(self._folder)
            self._goes_back = False
        if self._file.size == 0:  # new, or the disk was full so far
            self._add(self._file, file_version="brain.Event:2")
        return self._file

    def _new_file(self, folder: Path) -> AppendFile:
        self._second = max(int(time()), self._second)  # a clock that was set back must not change the order
        name = f"events.out.tfevents.{self._second:010d}.{self._series}.{self._n_files:03d}"
        self._n_files += 1
        return AppendFile(folder / name, follow=False)

    def _reopened(self, folder: Path) -> AppendFile:
        """Return the event file of the loaded state, cut back; where it is gone, a new one that says what is void."""
        path, position = folder / self._left["file"], Position.from_state(self._left)
        for later in _later(path):
            try:
                later.unlink()
            except OSError as error:
                raise write_error(later, error) from error
        if path.is_file() and not path.is_symlink():
            file = AppendFile(path, follow=False)
            if file.holds(position):
                file.cut(position.size)
                return file
            file.close()
        self._warn(f"{printable(path)} is not there as it was logged before: a new event file goes on")
        file = self._new_file(folder)
        self._add(file, file_version="brain.Event:2")
        if self._step is not None:  # readers drop what older files say from this step on
            status = _import_protos().event_pb2.SessionLog.START
            self._add(file, step=self._step + 1, session_log={"status": status})
        return file

    @staticmethod
    def _warn(text: str) -> None:
        warnings.warn(text, RuntimeWarning, stacklevel=5)

    def _write(self, step: int, metrics: Mapping[str, Any], category: str | None) -> None:
        numbers = {prefixed(name, category): as_number(value) for name, value in metrics.items()}
        scalars = {name: number for name, number in numbers.items() if number is not None}
        if not scalars:
            return
        file = self._opened()
        summary = _import_protos().summary_pb2.Summary
        # One event for all scalars; simple_value is what every reader of event files knows
        values = [summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._add(file, step=int(step), summary=summary(value=values))
        self._step = int(step)

    @staticmethod
    def _add(file: AppendFile, **fields: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        event = _import_protos().event_pb2.Event(wall_time=time(), **fields)
        RecordWriter(file).write(event.SerializeToString())


def _later(path: Path) -> list[Path]:
    """Return the event files of the same training that were begun after this one."""
    this, found = _NAME.fullmatch(path.name), []
    for other in path.parent.glob("events.out.tfevents.*"):
        name = _NAME.fullmatch(other.name)
        if this and name and name[2] == this[2] and int(name[3]) > int(this[3]) and not other.is_dir():
            found.append(other)
    return found


def _import_protos() -> Any:
    try:
        from tensorboard.compat import proto
        from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: F401  # makes them attributes of proto
    except ImportError as error:
        raise MissingDependencyError(
            "TensorBoardLogger needs the package tensorboard", hint="`pip install tensorboard`"
        ) from error
    return proto
