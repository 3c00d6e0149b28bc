"""The signals that end a command, and the exit code that each gives."""

from __future__ import annotations

import signal

_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
# SIGUSR1 is what SLURM sends before a limit; it ends a run as SIGTERM does.
_CODES["SIGUSR1"] = _CODES["SIGTERM"]

# Of those that this system has.
EXIT_CODES: dict[int, int] = {int(getattr(signal, name)): code for name, code in _CODES.items() if hasattr(signal, name)}
