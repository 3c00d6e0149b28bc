"""Kill a process at each step of a save, and print as JSON what was left each time.

Usage: killed_save.py FOLDER. For k = 1, 2, …: a forked child replaces a checkpoint and is killed by SIGKILL at its k-th
write, fsync or rename, until a child gets to the end.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from rlox import checkpoint
from rlox.errors import WriteError
from rlox.files import remove_temporaries

OLD, NEW = {"w": torch.zeros(3000)}, {"w": torch.ones(6000)}


def die_at(k: int) -> list[str]:
    """Make the k-th write, fsync or rename of this process its last; return the steps so far as they come."""
    steps: list[str] = []

    def step(name: str) -> None:
        steps.append(name)
        if len(steps) == k:
            os.kill(os.getpid(), signal.SIGKILL)

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            step("write")
            half = memoryview(data)[: max(len(data) // 2, 1)]  # a killed process may have written a part
            return super().write(half) or 0

    fdopen, fsync, replace = os.fdopen, os.fsync, os.replace

    def counted_fdopen(fd: int, mode: str) -> Any:
        return io.BufferedRandom(Raw(fd, "r+")) if mode == "w+b" else fdopen(fd, mode)

    os.fdopen = counted_fdopen  # type: ignore[assignment]
    os.fsync = lambda fd: (step("fsync"), fsync(fd))[1]
    os.replace = lambda a, b: (step("replace"), replace(a, b))[1]  # type: ignore[assignment]
    return steps


def outcome(path: Path) -> str:
    """Return which generation is whole."""
    state, manifest = checkpoint.load(path)
    if state["w"].equal(OLD["w"]) and manifest["step"] == 1:
        return "old"
    return "new" if state["w"].equal(NEW["w"]) and manifest["step"] == 2 else "mixed"


def kill_everywhere(folder: Path) -> dict[str, Any]:
    """Return the outcome of each kill, the steps of a whole save, and what temporary files a restart leaves."""
    path, outcomes, left = folder / "a.pt", [], []
    for k in range(1, 500):
        checkpoint.save(path, OLD, {"step": 1})
        if os.fork() == 0:
            steps = die_at(k)
            checkpoint.save(path, NEW, {"step": 2})
            (folder / "steps.json").write_text(json.dumps(steps))
            os._exit(0)
        _, status = os.wait()
        outcomes.append(outcome(path))
        left.append(len(remove_temporaries(folder)))
        if status == 0:
            break
    steps = json.loads((folder / "steps.json").read_text())
    names = sorted(entry.name for entry in folder.iterdir())
    return {"outcomes": outcomes, "temporaries": left, "steps": steps, "names": names}


def fill_the_disk(folder: Path) -> dict[str, Any]:
    """Return what a save says that hits the limit of a file's size, and what it leaves."""
    path = folder / "b.pt"
    checkpoint.save(path, OLD, {"step": 1})
    before, messages = path.read_bytes(), []
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 1, 4000, 4096, 20_000, 24_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
        try:
            checkpoint.save(path, NEW, {"step": 2})
            messages.append("saved")
        except WriteError as error:
            messages.append(error.message)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    names = sorted(entry.name for entry in folder.glob("*b.pt*"))
    return {"messages": messages, "intact": path.read_bytes() == before, "names": names}


root = Path(sys.argv[1])
print(json.dumps({"kill": kill_everywhere(root), "full": fill_the_disk(root)}))
