"""Tiny trainings through the command line, and what they leave."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cli_run import Ran, run

TINY = (
    "--steps", 160, "--learning-starts", 100, "--net-arch", "[16]", "--batch-size", 16, "--buffer-size", 1000,
    "--eval-freq", 0, "--eval-episodes", 1, "--save-freq", 0, "--log-interval", 50, "--no-tensorboard",
)  # fmt: skip
OFFLINE = (
    "--steps", 30, "--net-arch", "[16]", "--batch-size", 16, "--eval-freq", 0, "--eval-episodes", 1,
    "--save-freq", 0, "--log-interval", 10, "--no-tensorboard",
)  # fmt: skip


def train(capsys, *argv: object, env: str = "own_envs:Walk") -> Ran:
    """Train sac for 160 steps with a tiny network."""
    return run(capsys, "train", "sac", "--env", env, *TINY, *argv)


def the_run(root: Path | str = "runs") -> Path:
    """Return the newest run directory."""
    return max(Path(root).glob("*/*/*/status.json"), key=lambda p: p.stat().st_mtime_ns).parent


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def rows(path: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines of one kind in a run's metrics."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("kind") == kind]


def parameters(path: Path) -> str:
    """Return a digest of every trained number in a checkpoint."""
    from rlox.checkpoint import load

    state, _ = load(path)
    digest = hashlib.sha256()
    _feed(digest, state.get("learner") or state["parts"])
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(digest, item)
    elif hasattr(value, "numpy"):
        digest.update(str(tuple(value.shape)).encode() + value.contiguous().numpy().tobytes())
