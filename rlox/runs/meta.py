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
from typing import Any

from .. import __version__

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
