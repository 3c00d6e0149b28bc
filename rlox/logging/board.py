"""Metrics for TensorBoard."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from time import time
from typing import Any

from ..errors import MissingDependencyError, printable
from .append import AppendFile, resolve
from .base import LoggerCallback, as_number, prefixed
from .period import check_period

DEFAULT_DIR = "runs"
_number = count()


class TensorBoardLogger(LoggerCallback):
    """Write scalars to a TensorBoard event file.

    Every call is in the file when it returns, so an evaluation is visible at once and a crash loses nothing. A folder
    that is deleted in mid-run is created again, with a warning; a full disk drops scalars, with one warning a minute.

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
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> AppendFile:
        if self._file is not None and not self._file.path.exists():
            warnings.warn(
                f"TensorBoard's folder {printable(self._file.path.parent)} is gone, a new one is made",
                RuntimeWarning,
                stacklevel=5,
            )
            self.close()
        if self._file is None:
            _import_protos()
            self._folder = self._folder or resolve(self.log_dir)
            # Readers take the files of a folder in the order of their names
            name = f"events.out.tfevents.{int(time()):010d}.{os.getpid()}.{next(_number)}"
            self._file = AppendFile(self._folder / name)
        if self._file.size == 0:  # new, or the disk was full so far
            self._add(self._file, file_version="brain.Event:2")
        return self._file

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

    @staticmethod
    def _add(file: AppendFile, **fields: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        event = _import_protos().event_pb2.Event(wall_time=time(), **fields)
        RecordWriter(file).write(event.SerializeToString())


def _import_protos() -> Any:
    try:
        from tensorboard.compat import proto
        from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: F401  # makes them attributes of proto
    except ImportError as error:
        raise MissingDependencyError(
            "TensorBoardLogger needs the package tensorboard", hint="`pip install tensorboard`"
        ) from error
    return proto
