"""Metrics as text files: JSON lines and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from ..errors import WriteError, printable
from ..files import atomic_write_text
from .append import AppendFile, open_lines, resolve
from .base import LoggerCallback, as_json, as_number, prefixed
from .period import check_period

SCHEMA = "rlox.metrics/1"


class JSONLLogger(LoggerCallback):
    """Append one JSON object per line: training metrics, evaluations, checkpoints and warnings.

    The first line is ``{"schema": "rlox.metrics/1", "rlox": version}``; each later one has ``kind`` (``train``,
    ``eval``, ``checkpoint``, ``warning``), ``step``, and ``metrics`` by outside name or the event's own fields. An
    existing file is continued; a crash leaves at most a torn last line, which opening cuts off. NaN and infinities
    are written as null, and their JSON pointers are listed in ``nonfinite``. A full disk drops lines, with one
    warning a minute.

    Parameters
    ----------
    path : path-like
        The file; parents are created.
    log_interval : int
        Steps between two training rows, ≥ 1.
    """

    wants_rollouts = False

    def __init__(self, path: str | os.PathLike[str], *, log_interval: int = 1000) -> None:
        self.path = path
        self.log_interval = check_period(log_interval, "log_interval", minimum=1)
        self._file: AppendFile | None = None

    def open(self, run: Any = None) -> None:
        """Open the file, and write the first line when it is new."""
        self._opened()

    def on_train_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._write("train", step, _metrics_fields(metrics, None))

    def on_rollout_end(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._write("train", step, _metrics_fields(metrics, None))

    def on_eval(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._write("eval", step, _metrics_fields(metrics, "eval"))

    def on_event(self, step: int, kind: str, fields: Mapping[str, Any]) -> None:
        self._write(kind, step, {name: as_json(value) for name, value in fields.items()})

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> AppendFile:
        if self._file is None:
            self._file = open_lines(resolve(self.path), b'{"schema":"rlox.metrics/')
        if self._file.size == 0:  # new, or the disk was full so far
            from .. import __version__

            self._file.write(_dump({"schema": SCHEMA, "rlox": __version__}))
        return self._file

    def _write(self, kind: str, step: int, fields: Mapping[str, Any]) -> None:
        file = self._opened()
        row = _dump({"kind": kind, "step": int(step), **fields})
        if file.size:  # else the first line was just dropped, and no row stands without it
            file.write(row)


class CSVLogger(LoggerCallback):
    """Append one CSV row per log, with columns ``kind``, ``step`` and one per metric by its outside name.

    An existing file is continued. A metric that appears for the first time adds a column at the end: the file is
    then rewritten, atomically, with its earlier rows empty there. A full disk drops rows, with one warning a minute.

    Parameters
    ----------
    path : path-like
        The file; parents are created.
    log_interval : int
        Steps between two training rows, ≥ 1.
    """

    wants_rollouts = False

    def __init__(self, path: str | os.PathLike[str], *, log_interval: int = 1000) -> None:
        self.path = path
        self.log_interval = check_period(log_interval, "log_interval", minimum=1)
        self._file: AppendFile | None = None
        self._columns: list[str] = []

    def open(self, run: Any = None) -> None:
        """Open the file and read the columns that it has."""
        self._opened()

    def on_train_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._write("train", step, metrics, None)

    def on_rollout_end(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._write("train", step, metrics, None)

    def on_eval(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._write("eval", step, metrics, "eval")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> AppendFile:
        if self._file is None:
            self._file = open_lines(resolve(self.path), b"kind,step")
            self._columns = _read_rows(self._file)[0] if self._file.size else []
        return self._file

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
        file.write(_csv_row([row.get(name, "") for name in self._columns]).encode("utf-8", "backslashreplace"))

    def _widen(self, file: AppendFile, new: list[str]) -> AppendFile:
        """Rewrite the file with more columns and go on with the new one."""
        columns = [*self._columns, *new]
        rows = _read_rows(file)[1:] if file.size else []
        lines = [columns, *(row + [""] * (len(columns) - len(row)) for row in rows)]
        atomic_write_text(file.path, "".join(map(_csv_row, lines)))
        wider = open_lines(file.path, b"kind,step")
        file.close()
        self._file, self._columns = wider, columns
        return wider


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


def _csv_row(cells: list[Any]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _read_rows(file: AppendFile) -> list[list[str]]:
    with open(file.path, encoding="utf-8", newline="") as text:
        return list(csv.reader(text))
