"""Open every hostile file under an audit hook, in a process of its own, and print as JSON what was seen.

Usage: watched_load.py FOLDER GOOD. The folder holds the hostile files and is on the module path, as a working directory
often is. The process has TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD set.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from rlox import checkpoint
from rlox.errors import CheckpointError

seen: list[str] = []
current = ""


def watch(event: str, arguments: tuple[object, ...]) -> None:
    """Note what no load may do: run, connect, import something strange, open or write anything else."""
    if not current:
        return
    if event.startswith(("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.", "socket.", "ctypes.")):
        seen.append(f"{current}: {event} {arguments!r}")
    if event == "import":
        root = str(arguments[0]).split(".")[0]
        if root not in {"torch", "numpy", "rlox", *sys.stdlib_module_names}:
            seen.append(f"{current}: import of {arguments[0]}")
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        name, flags = Path(os.fsdecode(arguments[0])), int(str(arguments[2]))
        in_library = name.suffix in (".py", ".pyc", ".so")
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or (not in_library and str(name) != current):
            seen.append(f"{current}: open of {name} with {flags:o}")


def main(folder: Path, good: str) -> None:
    """Load each file and print exceptions, sights and the growth of memory."""
    global current
    checkpoint.load(good)  # what torch imports late is imported now
    errors: dict[str, str] = {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.addaudithook(watch)
    for path in sorted(folder.iterdir()):
        for function in (checkpoint.load, checkpoint.verify):
            current = str(path)
            try:
                function(path)
                errors[path.name] = "loaded"
            except CheckpointError as error:
                errors[path.name] = error.message
            except BaseException as error:
                errors[path.name] = f"raised {error!r}"
            current = ""
    current = "probe"
    os.system("true")
    current = ""
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    print(json.dumps({"errors": errors, "seen": seen, "grown_mib": grown}))


main(Path(sys.argv[1]), sys.argv[2])
