"""Metrics as text files: JSON lines and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import WriteError, printable
from ..files import atomic_write
from .append import AppendFile, Position, open_lines, resolve
from .base import LoggerCallback, as_json, as_number, prefixed
from .period import check_period

SCHEMA = "rlox.metrics/1"


class _LineLogger(LoggerCallback, ABC):
    """What the loggers that append lines to a file share."""

    wants_rollouts = False

    def __init__(self, path: str | os.PathLike[str], *, log_interval: int = 1000) -> None:
        self.path = path
        self.log_interval = check_period(log_interval, "log_interval", minimum=1)
        self._file: AppendFile | None = None
        self._position: Position | None = None  # where the file was when it was closed, or where to go on
        self._goes_back = False
        self._follow = True  # outside of run directories a log may be a link

    def open(self, run: Any = None) -> None:
        """Open the file, or create it."""
        self._follow = run is None or not resolve(self.path).is_relative_to(resolve(run.path))
        self._opened()

    def on_train_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._write("train", step, metrics, None)

    def on_rollout_end(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._write("train", step, metrics, None)

    def on_eval(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._write("eval", step, metrics, "eval")

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                self._position = file.position()
            finally:
                file.close()

    def state_dict(self) -> dict[str, Any]:
        """Return how far the file is written, {} before anything was; what it holds is on the disk by then."""
        if self._file is not None:
            self._position = self._file.position()
        return {} if self._position is None else self._position.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the file was then; opening cuts off what follows."""
        self.close()
        self._position, self._goes_back = (Position.from_state(state), True) if state else (None, False)

    def _open_lines(self, path: Path, start: bytes) -> AppendFile:
        """Open the file where it has to go on: once at the loaded position, later at its end."""
        since = self._position if self._goes_back else None
        self._file = open_lines(path, start, since, follow=self._follow)
        self._goes_back = False
        return self._file

    @abstractmethod
    def _opened(self) -> AppendFile:
        """Return the file, ready for a row."""

    @abstractmethod
    def _write(self, kind: str, step: int, metrics: Mapping[str, Any], category: str | None) -> None:
        """Append a row."""


class JSONLLogger(_LineLogger):
    """Append one JSON object per line: training metrics, evaluations, checkpoints and warnings.

    The first line is ``{"schema": "rlox.metrics/1", "rlox": version}``; each later one has ``kind`` (``train``,
    ``eval``, ``checkpoint``, ``warning``), ``step``, and ``metrics`` by outside name or the event's own fields. An
    existing file is continued; a crash leaves at most a torn last line, which opening cuts off with a warning. NaN and
    infinities are written as null, and their JSON pointers are listed in ``nonfinite``. A full disk drops lines, with
    one warning a minute. A resumed training goes on where the file was at the checkpoint: what was written after that
    is cut off, and written again. :func:`rlox.logging.read.read_metrics` reads the rows back.

    Parameters
    ----------
    path : path-like
        The file; parents are created.
    log_interval : int
        Steps between two training rows, ≥ 1.
    """

    def on_event(self, step: int, kind: str, fields: Mapping[str, Any]) -> None:
        self._append({"kind": kind, "step": int(step), **{name: as_json(value) for name, value in fields.items()}})

    def _opened(self) -> AppendFile:
        file = self._file or self._open_lines(resolve(self.path), b'{"schema":"rlox.metrics/')
        if file.size == 0:  # new, or the disk was full so far
            from .. import __version__

            file.write(_dump({"schema": SCHEMA, "rlox": __version__}))
        return file

    def _write(self, kind: str, step: int, metrics: Mapping[str, Any], category: str | None) -> None:
        self._append({"kind": kind, "step": int(step), **_metrics_fields(metrics, category)})

    def _append(self, row: Mapping[str, Any]) -> None:
        file = self._opened()
        line = _dump(row)
        if file.size:  # else the first line was just dropped, and no row stands without it
            file.write(line)


class CSVLogger(_LineLogger):
    """Append one CSV row per log, with columns ``kind``, ``step`` and one per metric by its outside name.

    An existing file is continued. A metric that appears for the first time adds a column at the end: the file is
    then rewritten, atomically, with its earlier rows empty there. A full disk drops rows, with one warning a minute.
    A resumed training goes on where the file was at the checkpoint, without the rows and columns that came after.

    Parameters
    ----------
    path : path-like
        The file; parents are created.
    log_interval : int
        Steps between two training rows, ≥ 1.
    """

    def __init__(self, path: str | os.PathLike[str], *, log_interval: int = 1000) -> None:
        super().__init__(path, log_interval=log_interval)
        self._columns: list[str] = []
        self._n_rows = 0

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return {**state, "columns": list(self._columns), "n_rows": self._n_rows} if state else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._columns = [str(name) for name in state["columns"]] if state else []
        self._n_rows = int(state["n_rows"]) if state else 0

    def _opened(self) -> AppendFile:
        if self._file is not None:
            return self._file
        path = resolve(self.path)
        if self._goes_back and self._position is not None:
            _narrow(path, self._position, self._columns, self._n_rows)
        file = self._open_lines(path, b"kind,step")
        rows = _read_rows(file.path) if file.size else [[]]
        self._columns, self._n_rows = rows[0], len(rows) - 1
        return file

    def _write(self, kind: str, step: int, metrics: Mapping[str, Any], category: str | None) -> None:
        file = self._opened()
        row: dict[str, object] = {"kind": kind, "step": int(step)}
        row.update((prefixed(name, category), _cell(value)) for name, value in metrics.items())
        new = [name for name in row if name not in self._columns]
        if new:
            try:
                file = self._widen(file, new)
            except WriteError as error:
                file.drop(error)
                return
        self._n_rows += file.write(_encoded([[row.get(name, "") for name in self._columns]]))

    def _widen(self, file: AppendFile, new: list[str]) -> AppendFile:
        """Rewrite the file with more columns and go on with the new one."""
        columns = [*self._columns, *new]
        rows = _read_rows(file.path)[1:] if file.size else []
        _rewrite(file.path, _encoded([columns, *(row + [""] * (len(columns) - len(row)) for row in rows)]))
        wider = open_lines(file.path, b"kind,step", follow=self._follow)
        file.close()
        self._file, self._columns = wider, columns
        return wider


def _narrow(path: Path, since: Position, columns: list[str], n_rows: int) -> None:
    """Take back the columns that a CSV file was given since, where its first rows are those of then."""
    try:
        rows = _read_rows(path)[: n_rows + 1]
    except (OSError, ValueError, csv.Error):  # ValueError: no UTF-8
        return  # opening says what is wrong with the file
    if rows and len(rows[0]) > len(columns) and rows[0][: len(columns)] == columns:
        then = _encoded([row[: len(columns)] for row in rows])
        if Position.of(then) == since:
            _rewrite(path, then)


def _metrics_fields(metrics: Mapping[str, Any], category: str | None) -> dict[str, Any]:
    """Return the fields of a row; ``phase`` (of offline training that went online) stands beside the metrics."""
    values = dict(metrics.items())
    phase = values.pop("phase", None)
    out = {prefixed(name, category): as_json(value) for name, value in values.items()}
    fields: dict[str, Any] = {} if phase is None else {"phase": as_json(phase)}
    fields["metrics"] = out
    lost = [prefixed(name, category) for name, value in values.items() if _nonfinite(value)]
    if lost:
        fields["nonfinite"] = ["/metrics/" + name.replace("~", "~0").replace("/", "~1") for name in lost]
    return fields


def _nonfinite(value: object) -> bool:
    number = as_number(value)
    return number is not None and not math.isfinite(number)


def _dump(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _cell(value: object) -> object:
    """Return a number as Python writes it, anything else as one line of text."""
    if value is None or isinstance(value, bool | int):
        return value
    number = as_number(value)
    return printable(value) if number is None else number


def _encoded(rows: Iterable[list[Any]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode("utf-8", "backslashreplace")


def _rewrite(path: Path, content: bytes) -> None:
    atomic_write(path, lambda file: file.write(content))


def _read_rows(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as text:
        return list(csv.reader(text))
