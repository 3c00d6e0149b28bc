"""What processes of a pool run in tests, in place of a training."""

from __future__ import annotations

import json
import os
import signal
import sys


def end_as_told(argv: list[str]) -> int:
    """End in the way that the first word says."""
    if argv[0] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if argv[0] == "hung up":
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGHUP)
    sys.stdout.write(json.dumps({"ok": True, "warnings": ["the disk is small"]}))
    return 0
