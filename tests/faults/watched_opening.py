"""Open files as the commands do, under an audit hook, and say of each what came of it.

Usage: watched_opening.py FOLDER CANARY. Each line on standard input is a request: ``{"kind", "path", "sound", "sealed"}``;
each line on standard output an answer: ``{"outcome", "message", "seen", "peaks_kib", "seconds"}``. The folder is on the module path, as a working
directory often is, and holds a module whose import creates the canary.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from plain_reading import read_checkpoint, same
from watched_child import CHILD, RUNS

from rlox import checkpoint
from rlox.cli import _policy
from rlox.cli.main import main as rlox_main
from rlox.data import open_dataset
from rlox.errors import RloxError

FAULTS = Path(__file__).parent
MODULES = {"torch", "numpy", "rlox", "gymnasium", *sys.stdlib_module_names}
seen: list[str] = []
current = ""


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what no opening may do: run, connect, import something strange, open or write anything else."""
    if not current:
        return
    if event.startswith((*RUNS, "ctypes.")) and not _of_the_commands(event, arguments):
        seen.append(f"{event} {arguments!r}")
    if event == "import" and str(arguments[0]).split(".")[0] not in MODULES:
        seen.append(f"import of {arguments[0]}")
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        name, flags = os.fsdecode(arguments[0]), int(arguments[2])
        system = name.startswith(("/proc/", "/sys/")) or name.endswith((".py", ".pyc", ".so"))
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or not (system or Path(name) == Path(current)):
            seen.append(f"open of {name} with {flags:o}")


def _of_the_commands(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether this is the start of the process that checks datasets, or the flush of C's own streams."""
    if event == "subprocess.Popen":
        return arguments[0] == sys.executable and arguments[1][5:7] == ["-m", CHILD]
    return (event, arguments[-1]) in (("ctypes.dlopen", None), ("ctypes.dlsym", "fflush"))


def open_checkpoint(request: dict[str, Any]) -> tuple[str, str]:
    """Open a checkpoint as ``rlox eval`` does, up to its policy."""
    path, options = request["path"], _policy.PolicyOptions()
    opened = _policy.open_checkpoint(path)
    source = _policy.environment(opened, options, "rlox eval")
    algo = _policy.load(opened, source, options)
    state, manifest = checkpoint.load(path)
    if not same(algo.state_dict()["learner"], state["learner"]):
        return "wrong content", "the algorithm holds other weights than the file"
    if same([state, manifest], list(_sound_checkpoint(request["sound"]))):
        return "equal", ""
    if not request["sealed"]:
        return "wrong content", "damage that was not seen"
    plain = read_checkpoint(path)
    return ("other, read right", "") if same([state, manifest], list(plain)) else ("wrong content", "")


@cache
def _sound_checkpoint(path: str) -> tuple[Any, dict[str, Any]]:
    return checkpoint.load(path)


def open_data(request: dict[str, Any]) -> tuple[str, str]:
    """Open a dataset as ``rlox offline`` does."""
    global current
    data = open_dataset(request["path"], storage=request["storage"])
    found = data.fingerprint()
    if found == _sound_dataset(request["sound"]):
        return "equal", ""
    current = ""
    command = [sys.executable, str(FAULTS / "plain_reading.py"), request["path"]]
    # What a decoder leaves unwritten is zero, as for rlox.
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.perturb=255:glibc.malloc.tcache_count=0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    if done.stdout.strip() == found:
        return "other, read right", ""
    return "wrong content", f"{found}, h5py: {done.stdout} {done.stderr[-500:]}"


@cache
def _sound_dataset(path: str) -> str:
    try:
        return open_dataset(path).fingerprint()
    except RloxError:  # the file that reaches outside itself
        return ""


def info(path: str, kind: str) -> str:
    """Run ``rlox checkpoint info`` or ``rlox dataset info`` in this process; return what is wrong with its behaviour."""
    argv = ["checkpoint", "info", path, "--tensors"] if kind == "checkpoint" else ["dataset", "info", path]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = rlox_main(argv)
    text = err.getvalue()
    if code not in (0, 4, 5, 8) or "Traceback" in text or "\x1b" in text + out.getvalue():
        return f"info ended with {code}: {text[-500:]}"
    told = [line for line in text.splitlines() if not line.startswith("warning: ")]
    return "" if len(told) <= 6 else f"info said {text!r}"


def verdict(open_file: Callable[[dict[str, Any]], tuple[str, str]], request: dict[str, Any]) -> tuple[str, str]:
    """Open one file and return the outcome and a message."""
    try:
        outcome, message = open_file(request)
    except RloxError as error:
        if not error.message.isprintable() or len(error.message) > 700:
            return "bad message", repr(error.message)
        return f"exit {error.exit_code}", error.message
    except Exception as error:
        return "raised", repr(error)[:500]
    return outcome, message


def main(folder: str, canary: str) -> None:
    """Serve requests until standard input ends."""
    global current
    answers = os.fdopen(os.dup(1), "w")
    warnings.simplefilter("ignore")
    sys.addaudithook(watch)
    sys.path.append(folder)
    for line in sys.stdin:
        request = json.loads(line)
        open_file = open_checkpoint if request["kind"] == "checkpoint" else open_data
        if request["kind"] == "checkpoint":
            _sound_checkpoint(request["sound"])
        else:
            _sound_dataset(request["sound"])
        seen.clear()
        started, current = time.monotonic(), request["path"]
        outcome, message = verdict(open_file, request)
        opened, current = time.monotonic(), request["path"]
        complaint = info(request["path"], request["kind"]) if request["info"] else ""
        shown, current = time.monotonic(), ""
        if "(signal 31)" in message:
            seen.append(message)
        if complaint:
            outcome, message = "bad words", complaint
        if Path(canary).exists():
            seen.append("the canary was created")
        peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        answer = {"outcome": outcome, "message": message, "seen": seen, "peaks_kib": peaks}
        answers.write(json.dumps({**answer, "seconds": max(opened - started, shown - opened)}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
