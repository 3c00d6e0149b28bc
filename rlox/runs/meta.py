"""What a run records about where it came from: versions, machine, code, command."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from .commands import group_of
from .directory import Run
from .lock import now
from .past import Past, values_digest, weights_digest

if TYPE_CHECKING:
    from .plan import Plan
    from .train import Launch

PACKAGES = ("torch", "numpy", "gymnasium", "h5py", "tensorboard", "wandb")
MAX_DIFF = 1_000_000


def machine() -> dict[str, Any]:
    """Return versions and processor."""
    versions = {"rlox": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {"versions": versions, "cpu": _cpu(), "cores": os.cpu_count(), "system": f"{sys.platform} {platform.machine()}",
            "extension": _extension_id()}  # fmt: skip


def code() -> tuple[dict[str, Any], str]:
    """Return commit and dirty flag of the git repository around the working directory, and its uncommitted diff."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {}, ""
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    diff = (_git("diff", "HEAD") or "") if dirty else ""
    return {"commit": commit.strip(), "dirty": dirty}, diff if len(diff) <= MAX_DIFF else ""


def _git(*words: str) -> str | None:
    """Return what git says, None where there is no git, no repository or no working directory."""
    try:
        done = subprocess.run(["git", "-c", "core.fsmonitor=false", *words], capture_output=True, timeout=10,
                              stdin=subprocess.DEVNULL)  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _extension_id() -> str | None:
    """Return the first digits of the digest of the compiled kernels."""
    folder = Path(__file__).parents[1] / "_ext"
    built = sorted([*folder.glob("*.so"), *folder.glob("*.pyd")])
    if not built:
        return None
    return hashlib.sha256(b"".join(p.read_bytes() for p in built)).hexdigest()[:16]


def write_config(run: Run, plan: Plan) -> None:
    """Write ``config.toml``: every value of the run, as ``--config`` accepts it."""
    target, resolved = plan.target, plan.resolved
    command = f"rlox {group_of(target.kind)} {target.name} --config config.toml"
    run.write_text("config.toml", resolved.to_toml((command, f"preset: {resolved.preset or 'none'}")))


def describe(run: Run, plan: Plan, launch: Launch) -> None:
    """Write what describes a new run: its values, where it came from, and how the code differs from its commit."""
    target, resolved = plan.target, plan.resolved
    write_config(run, plan)
    commit, diff = code()
    if diff:
        run.write_text("code.diff", diff)
    source, dataset = plan.source, plan.dataset
    run.write_json("meta.json", {
        "schema": "rlox.run/1",
        "algorithm": target.name,
        "kind": target.kind,
        "argv": list(launch.argv),
        "started": now(),
        "name": launch.name,
        "tags": list(launch.tags),
        "forked_from": None if launch.fork is None else str(launch.fork.path.absolute()),
        "init_from": launch.init_from,
        "init_weights": weights_digest(launch.init_from),
        "seed": resolved["run.seed"],
        "values": values_digest(resolved, target.name, launch.init_from),
        "preset": resolved.preset,
        "origins": {key: value.origin for key, value in resolved.values.items()},
        "env": None if source is None else {"id": source.id, "text": source.text, "kwargs": source.kwargs},
        "dataset": None if dataset is None else {"path": dataset.source, "sha256": dataset.fingerprint()},
        "best_by": "evaluation" if plan.eval_source is not None else "none",
        "device": plan.device,
        "threads": plan.threads,
        "git": commit,
        **machine(),
    })  # fmt: skip


def describe_again(run: Run, plan: Plan, launch: Launch, past: Past, step: int) -> None:
    """Add to ``meta.json`` that a run goes on from ``step``, and write the values that it goes on with."""
    write_config(run, plan)
    again = {"time": now(), "argv": list(launch.argv), "step": step, "git": code()[0], **machine()}
    earlier = past.meta.get("resumed")
    resumed = [*(earlier if isinstance(earlier, list) else []), again]
    run.write_json("meta.json", {**past.meta, "resumed": resumed})
