"""Reading back what JSONLLogger wrote, row by row, whatever became of the file since."""

from __future__ import annotations

import json
import os
import stat
import warnings
from collections.abc import Iterator
from typing import IO, Any, NoReturn

from ..errors import NotFoundError, printable
from .text import SCHEMA

_MAX_STEP = 2**53  # of what a float holds exactly
_MAX_LINE = 1 << 20  # bytes; a row of a thousand metrics has 50,000


def read_metrics(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a ``metrics.jsonl``, oldest first, one at a time.

    A row is a dict with ``kind`` (text), ``step`` (integer, 0 to 2**53) and, for the kinds ``train`` and ``eval``, ``metrics``
    (a dict by outside name; NaN and infinities are None, listed in ``nonfinite``); other fields are as they were
    written. The first line, which names the schema, is no row. A torn last line and lines that are no rows are left
    out; one RuntimeWarning at the end says how many there were.

    Parameters
    ----------
    path : path-like
        May be of a run that is being written: what is complete is read.

    Raises
    ------
    NotFoundError
        With the first row, when there is no such file or it cannot be read.

    Notes
    -----
    Memory is that of one row, whatever the file holds; nothing is written.
    """
    foreign = torn = 0
    try:
        with _open(path) as file:
            for line in _lines(file):
                if not line.endswith(b"\n"):  # the newline is what says that a row is whole
                    torn = 1
                    continue
                fields = _parse(line)
                if _is_row(fields):
                    yield fields
                elif fields.get("schema") != SCHEMA:
                    foreign += 1
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotFoundError(f"cannot read {printable(path)}: {printable(reason)}", value=str(path)) from error
    if foreign or torn:
        lines = f"{foreign} line{'s' * (foreign != 1)} that {'is' if foreign == 1 else 'are'} no metrics"
        parts = [lines] * (foreign > 0) + ["a torn last line"] * torn
        warnings.warn(f"{printable(path)}: left out {' and '.join(parts)}", RuntimeWarning, stacklevel=2)


def _open(path: str | os.PathLike[str]) -> IO[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for its writer
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError("Is not a file")
    return open(fd, "rb")


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield lines; of one that is too long for a row, a newline alone."""
    while line := file.readline(_MAX_LINE):
        if len(line) < _MAX_LINE or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_MAX_LINE)
        yield line[-1:] or b"?"


def _parse(line: bytes) -> dict[str, Any]:
    """Return the object of a line; an empty one when it holds none."""
    try:
        found = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):  # ValueError: no JSON, no UTF-8, an integer of thousands of digits
        return {}
    return found if isinstance(found, dict) else {}


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_row(fields: dict[str, Any]) -> bool:
    kind, step, metrics = fields.get("kind"), fields.get("step"), fields.get("metrics")
    if not isinstance(kind, str) or not isinstance(step, int) or isinstance(step, bool):
        return False
    if not 0 <= step <= _MAX_STEP:
        return False
    return isinstance(metrics, dict) if kind in ("train", "eval") else True
