"""Save where there is not enough of something, and print as JSON what was said and what was left.

    python full_disk.py limits FOLDER
    python full_disk.py fill FOLDER

``limits`` lowers the limits of the process: the size of a file, the number of open files. ``fill`` saves larger and larger
states until the file system that is mounted at FOLDER is full, tries some more, and again with space.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import committed
from committed import commit, commit_all, names, newest

from rlox.checkpoint.generation import Generations
from rlox.errors import WriteError


def strangers(folder: Path) -> list[str]:
    """Return the files in a folder that no generation names."""
    kept = list(Generations(folder)._candidates([]))
    known = {f"generation-{generation.number:09d}.json" for generation in kept}
    known |= {part.file for generation in kept for part in generation.parts.values()}
    return sorted(set(names(folder)) - known - {"manifest.json"})


def under_limits(folder: Path) -> dict[str, Any]:
    """Return what saves say that hit a limit of the process, and the newest state after each."""
    store = commit_all(folder / "resume", 1)
    report: dict[str, Any] = {}
    open_files = len(os.listdir("/proc/self/fd")) - 1
    for name, kind, values in [
        ("size", resource.RLIMIT_FSIZE, [0, 1, 100, 239, 240, 479, 480, 700]),
        ("descriptors", resource.RLIMIT_NOFILE, [0, 3, open_files]),
    ]:
        before, found = resource.getrlimit(kind), []
        for value in values:
            message = "saved"
            resource.setrlimit(kind, (value, before[1]))
            try:
                commit(store, 2, after=1)
            except WriteError as error:
                message = error.message
            finally:
                resource.setrlimit(kind, before)
            found.append((message, newest(folder / "resume")))
        report[name] = found
    commit(store, 2, after=1)
    return report | {"after": newest(folder / "resume"), "left": strangers(folder / "resume")}


def fill(folder: Path) -> dict[str, Any]:
    """Return the states that were saved, what the others said, and whether the last of them is saved with space."""
    plain = committed.contents

    def growing(n: int) -> dict[str, bytes]:
        rows = {f"rows.{i:04d}": bytes([n % 251]) * 50_000 for i in range(2, 2 + n)}
        return plain(n) | {"model": plain(n)["model"] * (1 + n)} | rows

    committed.contents = growing
    store, saved, refused = Generations(folder / "resume"), [], []
    for n in range(1, 1000):
        try:
            commit(store, n, after=saved[-1] if saved else None)
            saved.append(n)
        except WriteError as error:
            refused.append((error.message, error.exit_code, newest(folder / "resume")))
        if len(refused) == 3:
            break
    subprocess.run(["mount", "-o", "remount,size=512m,nr_inodes=10000", str(folder)], check=True)
    commit(store, n, after=saved[-1] if saved else None)
    after = newest(folder / "resume")
    return {"saved": saved, "refused": refused, "attempted": n, "after": after, "left": strangers(folder / "resume")}


if __name__ == "__main__":
    print(json.dumps({"limits": under_limits, "fill": fill}[sys.argv[1]](Path(sys.argv[2]))))
