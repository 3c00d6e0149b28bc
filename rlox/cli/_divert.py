"""Keep stdout for results: what environments, their libraries and the user's own modules print goes to stderr.

Both ``sys.stdout`` and file descriptor 1 are diverted, so that prints of compiled code and of worker processes, which
inherit the descriptor, do not get into results either.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

STDOUT = 1


class _Diversion:
    """The real stdout while it is diverted."""

    def __init__(self) -> None:
        self.stream: TextIO = sys.stdout
        self.fd: int | None = None
        with contextlib.suppress(OSError, ValueError):  # one that has no descriptor is diverted in Python only
            if sys.stdout.fileno() == STDOUT:
                self.fd = os.dup(STDOUT)

    def divert(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self.fd is not None:
                os.dup2(sys.stderr.fileno(), STDOUT)
        sys.stdout = sys.stderr

    def restore(self) -> None:
        if self.fd is not None:
            os.dup2(self.fd, STDOUT)
        sys.stdout = self.stream


_active: _Diversion | None = None


@contextlib.contextmanager
def diverted() -> Iterator[None]:
    """Send to stderr what is printed inside; :func:`results` is the way out."""
    global _active
    if _active is not None:
        yield
        return
    with contextlib.suppress(OSError, ValueError):  # whoever writes next is told
        sys.stdout.flush()
    _active = _Diversion()
    _active.divert()
    try:
        yield
    finally:
        _flush_compiled()
        _active.restore()
        if _active.fd is not None:
            os.close(_active.fd)
        _active = None


@contextlib.contextmanager
def results() -> Iterator[None]:
    """Have the real stdout inside; what is written must be flushed there."""
    global _active
    if _active is None:
        yield
        return
    active, printed = _active, sys.stdout
    active.restore()
    _active = None
    try:
        yield
    finally:
        _active = active
        active.divert()
        sys.stdout = printed  # a live panel may have put its own there


def _flush_compiled() -> None:
    """Write out what C's printf has kept back, before its descriptor is the real stdout again."""
    ctypes = sys.modules.get("ctypes")  # loaded by what brings compiled code along
    if ctypes is not None:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).fflush(None)
