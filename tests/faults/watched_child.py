"""Watch the process that checks datasets: copied as ``sitecustomize.py`` to where that process finds it.

What it may not do ends it with a signal that its parent's message shows.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

CHILD = "rlox.data.child"
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.", "socket.", "webbrowser.")
MODULES = {"numpy", "h5py", "rlox", *sys.stdlib_module_names}


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """End the process when it runs, connects, imports something strange or opens a file for writing."""
    if not hasattr(sys.modules.get("rlox.data.walk"), "walk"):  # importing h5py asks the system for its processor
        return
    bad = event.startswith(RUNS)
    if event == "import":
        bad = str(arguments[0]).split(".")[0] not in MODULES
    if event == "open" and isinstance(arguments[0], str | bytes):
        bad = bool(int(arguments[2]) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if bad:
        os.kill(os.getpid(), signal.SIGSYS)


if CHILD in sys.orig_argv:
    sys.addaudithook(watch)
