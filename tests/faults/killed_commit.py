"""Kill a process at each step of a commit, and print as JSON what was left each time.

    python killed_commit.py everywhere FOLDER bytes|checkpoints|first
    python killed_commit.py once FOLDER

For k = 1, 2, …: a forked child saves the third state over two others (``first``: the first one into nothing) and gives
its model the public names; it is killed by SIGKILL at its k-th step (a file made, written, cut, synced, renamed, linked
or removed; a folder made), until a child gets to the end. ``once`` saves once, with the exit code of the command line.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import committed
from committed import commit, names, newest, publish
from watched_disk import Step, watched

from rlox.checkpoint.generation import Generations
from rlox.errors import RloxError


def kill_at(k: int, steps: list[str]) -> Any:
    """Make the k-th step of this process its last; of a write the first half happens."""

    def before(step: Step) -> None:
        steps.append(step[0])
        if len(steps) == k:
            if step[0] == "write":
                with open(step[1], "r+b", buffering=0) as file:
                    file.seek(step[2])
                    file.write(step[3][: len(step[3]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    return watched(before)


def save_next(run: Path) -> None:
    """Go on from the newest state of a run and save the next."""
    store = Generations(run / "resume")
    found = store.newest()
    after = None if found is None else int(found.info["n"])
    publish(commit(store, (after or 0) + 1, after=after), run)


def look(run: Path) -> dict[str, Any]:
    """Return what a killed process left, what is left after the next start, and whether that can save."""
    found = newest(run / "resume")
    last = run / "checkpoints" / "last.pt"
    report: dict[str, Any] = {"state": found, "model": of_model(last) if last.exists() else None}
    Generations(run / "resume").tidy()
    assert newest(run / "resume") == found
    save_next(run)
    kept = list(Generations(run / "resume")._candidates([]))
    parts = {part.file for generation in kept for part in generation.parts.values()}
    lists = {f"generation-{generation.number:09d}.json" for generation in kept}
    report["left"] = sorted(set(names(run / "resume")) - parts - lists - {"manifest.json"})
    report["next"] = newest(run / "resume")
    return report


def of_model(path: Path) -> int:
    data = path.read_bytes()
    return next(n for n in range(10) if data == committed.contents(n)["model"])


def kill_everywhere(folder: Path, n_before: int) -> dict[str, Any]:
    """Return the steps of a whole save and what each kill left."""
    base = folder / "base"
    base.mkdir()
    for _ in range(n_before):
        save_next(base)
    reports = []
    for k in range(1, 1000):
        run = folder / "run"
        shutil.copytree(base, run)
        if os.fork() == 0:
            steps: list[str] = []
            with kill_at(k, steps):
                save_next(run)
            (folder / "steps.json").write_text(json.dumps(steps))
            os._exit(0)
        status = os.wait()[1]
        reports.append(look(run))
        shutil.rmtree(run)
        if status == 0:
            return {"steps": json.loads((folder / "steps.json").read_text()), "reports": reports}
        assert os.WTERMSIG(status) == signal.SIGKILL
    raise AssertionError("no child got to the end")


def use_checkpoints() -> None:
    """Let the model and the state be real checkpoints, written in many pieces."""
    import torch

    from rlox import checkpoint

    plain_contents, plain_put = committed.contents, committed.put
    writers: dict[bytes, Any] = {}

    @cache
    def contents(n: int) -> dict[str, bytes]:
        whole = plain_contents(n)
        for name in ("model", "state"):
            state = {"w": torch.full((3000,), float(n)), "b": [torch.ones(3), name]}
            write = checkpoint.writer(state, {"step": n})
            with tempfile.TemporaryFile() as file:
                write(file)
                file.seek(0)
                whole[name] = file.read()
            writers[whole[name]] = write
        return whole

    committed.contents = contents
    committed.put = lambda data: writers.get(data) or plain_put(data)


if __name__ == "__main__":
    what, root, *kind = sys.argv[1:]
    if what == "once":
        try:
            save_next(Path(root))
        except RloxError as error:
            print(error.message)
            sys.exit(error.exit_code)
    else:
        if kind == ["checkpoints"]:
            use_checkpoints()
        print(json.dumps(kill_everywhere(Path(root), 0 if kind == ["first"] else 2)))
