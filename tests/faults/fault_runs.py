"""A tiny run for the tests that disturb it, and what is looked at afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
from pathlib import Path
from typing import Any

import torch
from run_digest import digest
from run_server import HERE, Ended, RunServer, Started

from rlox import checkpoint

ENV = f"{HERE / 'fault_envs.py'}:Faulty"
# Steps 40, 80 and 120 are saved, 60 and 120 evaluated; the buffer is full at step 100, updates begin at step 50.
TINY = ("train", "sac", "--env", ENV, "--preset", "none", "--steps", 120, "--learning-starts", 50, "--net-arch", "[16]",
        "--batch-size", 16, "--buffer-size", 100, "--save-freq", 40, "--eval-freq", 60, "--eval-episodes", 1,
        "--log-interval", 20, "--threads", 1, "--no-link")  # fmt: skip

FOUR = ("--n-envs", 4)
ASYNC = (*FOUR, "--vec", "async")


class Undisturbed:
    """A finished run that nothing happened to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.digest = folder, digest_of(folder)


def start(runs: RunServer, folder: Path, *words: object, quiet: bool = True, **options: Any) -> Started:
    """Start the tiny run in a folder, or let it go on there."""
    words = (*words, *(["-q"] if quiet else []), "--run-dir", folder, "--resume", "auto")
    return runs.start(*TINY, *words, cwd=folder.parent, **options)


def train(runs: RunServer, folder: Path, *words: object, **options: Any) -> Ended:
    """Make the tiny run in a folder, or let it go on there, and wait for its end."""
    return start(runs, folder, *words, **options).wait()


def goes_on_exactly(runs: RunServer, folder: Path, whole: Undisturbed, *words: object) -> None:
    """Let a disturbed run go on, and assert that it ends as the undisturbed one did and that nothing is left over."""
    ended = train(runs, folder, *words, quiet=False)
    assert ended.code == 0 and "warning:" not in ended.err and "exact_resume: no" not in ended.err, ended.err
    assert digest_of(folder) == whole.digest
    assert status(folder)["status"] == "finished"
    assert checkpoints(folder) == checkpoints(whole.folder) and left_over(folder) == []


def digest_of(folder: Path) -> str:
    return digest(folder / "resume", folder / "metrics.jsonl")


def status(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "status.json").read_text())


def checkpoints(folder: Path) -> list[str]:
    """Return the names of the run's step files."""
    return sorted(path.name for path in (folder / "checkpoints").glob("step_*.pt"))


def step_of(path: Path) -> int:
    """Return the step that a checkpoint was saved at, after every check of a reader; it holds finite numbers only."""
    state, manifest = checkpoint.load(path)
    assert all(torch.isfinite(value).all() for value in _tensors(state) if value.is_floating_point())
    return int(manifest["step"])


def _tensors(state: Any) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    inside = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for value in inside for tensor in _tensors(value)]


def contents(folder: Path) -> dict[str, str]:
    """Return the sha256 of every checkpoint and part of a generation."""
    files = [*(folder / "checkpoints").iterdir(), *(folder / "resume").iterdir()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def last_saved(folder: Path) -> dict[str, str]:
    """Return the sha256 of every checkpoint and of all files of the newest generation."""
    listed = json.loads((folder / "resume" / "manifest.json").read_text())
    names = {f"generation-{listed['number']:09d}.json", *(part["file"] for part in listed["parts"].values())}
    kept = {f"resume/{name}" for name in names}
    return {name: sha for name, sha in contents(folder).items() if name in kept or name.startswith("checkpoints/")}


def left_over(folder: Path) -> list[str]:
    """Return temporary files."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*.tmp")]


def fault(tmp_path: Path, kind: str, at: int) -> dict[str, str]:
    """Return the environment variables of a run whose environment fails once, in its ``at``-th step."""
    path = tmp_path / "fault.json"
    path.write_text(json.dumps({"kind": kind, "at": at}))
    return {"FAULT": os.fspath(path)}


def members(session: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended by now
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(path.parent.name))
    return found


def all_end(session: int, within_s: float = 20.0) -> bool:
    """Wait until no process of a session lives; return whether that came to be."""
    while living := members(session):
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(living[0])
            try:
                if not select.select([fd], [], [], within_s)[0]:
                    return False
            finally:
                os.close(fd)
    return True
