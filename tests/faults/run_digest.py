"""The digest of a run: everything that two equal runs have in common, down to the last bit.

Networks, optimizers, random streams, rows of the replay buffer, counters, unfinished episodes, states of callbacks, and
every figure of ``metrics.jsonl``. Left out is what a clock or the place of the folder decides.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlox import checkpoint
from rlox.checkpoint.generation import Generation, Generations


def digest(resume: Path, metrics: Path, *models: Path) -> str:
    """Return the digest of the newest generation in ``resume``, of the rows in ``metrics``, and of model files."""
    generation = Generations(resume).newest()
    assert generation is not None, f"no generation in {resume}"
    total = hashlib.sha256()
    for name, value in sorted(generation_state(generation).items()):
        feed(total, name, value)
    for path in models:
        feed(total, path.name, checkpoint.load(path)[0])
    for row in rows(metrics):
        total.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return total.hexdigest()


def generation_state(generation: Generation) -> dict[str, Any]:
    """Return all that a generation holds, positions in log files aside."""
    model, _ = checkpoint.load(generation.path("model"), allow_nonfinite=True)
    state, _ = checkpoint.load(generation.path("state"), allow_nonfinite=True)
    del state["loggers"], state["elapsed_s"]
    blocks = {
        name: np.fromfile(generation.path(name), np.uint8)
        for name in generation.parts
        if name not in ("model", "state")
    }
    return {"model": model, "state": state, **blocks}


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file without what a clock or a folder decides."""
    found = []
    for line in path.read_bytes().splitlines():
        row = json.loads(line)
        if "path" in row:
            row["path"] = Path(row["path"]).name
        figures = row.get("metrics", {})
        row["metrics"] = {k: v for k, v in figures.items() if not k.startswith("time/")}
        row["nonfinite"] = [name for name in row.get("nonfinite", ()) if not name.startswith("/metrics/time~1")]
        found.append(row)
    return found


def feed(total: Any, where: str, value: Any) -> None:
    """Add a nested value to a digest: names, types, shapes, bytes."""
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            feed(total, f"{where}/{key}", value[key])
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            feed(total, f"{where}/{i}", item)
    elif isinstance(value, torch.Tensor):
        total.update(f"{where} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        total.update(f"{where} {value.dtype} {value.shape}\n".encode() + value.tobytes())
    else:
        total.update(f"{where} {value!r}\n".encode())


def differing(a: Any, b: Any, where: str = "") -> list[str]:
    """Return the places where two nested values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        names = sorted({*a, *b}, key=str)
        return [d for k in names for d in differing(a.get(k, "missing"), b.get(k, "missing"), f"{where}/{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differing(x, y, f"{where}/{i}")]
    one, other = hashlib.sha256(), hashlib.sha256()
    feed(one, "", a)
    feed(other, "", b)
    return [] if one.digest() == other.digest() else [where]
