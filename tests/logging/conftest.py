"""What several tests of loggers need."""

from __future__ import annotations

import errno
import os

import pytest


@pytest.fixture
def full_disk(monkeypatch):
    """A switch: while it is on, only half of each write arrives."""
    switch = {"on": False}
    write = os.write

    def half(fd, data):
        if not switch["on"]:
            return write(fd, data)
        write(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    return switch
