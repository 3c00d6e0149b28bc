"""A commit that is killed at any of its steps leaves the old generation or the new one, and the next start can go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import killed_commit
import pytest

SCRIPT = Path(killed_commit.__file__)
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(SCRIPT.parents[2]), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0",
}  # fmt: skip


def killed(folder: Path, kind: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "everywhere", str(folder), kind]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(("kind", "at_least"), [("bytes", 25), ("checkpoints", 40)])
def test_a_kill_at_each_step_of_a_save_leaves_the_old_or_the_new_generation(tmp_path: Path, kind: str, at_least: int) -> None:
    found = killed(tmp_path, kind)
    steps, reports = found["steps"], found["reports"]
    assert len(reports) == len(steps) + 1 > at_least
    assert {"create", "write", "fsync", "replace", "unlink", "link"} <= set(steps)
    # The first rename is the commit, the second gives the model the name last.pt; each stands when it is done.
    commit, publish = (i + 1 for i, step in enumerate(steps[:-3]) if step == "replace")
    assert [report["state"] for report in reports] == [2] * commit + [3] * (len(reports) - commit)
    assert [report["model"] for report in reports] == [2] * publish + [3] * (len(reports) - publish)
    assert all(report["left"] == [] and report["next"] == report["state"] + 1 for report in reports)


def test_a_kill_at_each_step_of_the_first_save_leaves_nothing_or_all_of_it(tmp_path: Path) -> None:
    found = killed(tmp_path, "first")
    states = [report["state"] for report in found["reports"]]
    whole = states.index(1)
    assert whole > 15 and states == [None] * whole + [1] * (len(states) - whole)
    assert states[found["steps"].index("replace") + 1 :] == [1] * (len(states) - found["steps"].index("replace") - 1)
    assert all(report["left"] == [] and report["next"] == (report["state"] or 0) + 1 for report in found["reports"])


def saved_under_strace(run: Path, calls: str, injected: str) -> subprocess.CompletedProcess[str]:
    """Save once in a process of its own whose k-th system call of a kind ends in something else."""
    strace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={calls}:{injected}"]
    command = [*strace, sys.executable, str(SCRIPT), "once", str(run)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may not trace here: {done.stderr.strip()[:100]}")
    return done


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A run with two states."""
    for _ in range(2):
        killed_commit.save_next(tmp_path / "base")
    return tmp_path / "base"


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize("calls", ["write,pwrite64", "fsync", "rename,renameat,renameat2", "link,linkat", "unlink,unlinkat"])
def test_a_kill_at_each_system_call_of_a_save_leaves_the_old_or_the_new_generation(base: Path, calls: str) -> None:
    states = []
    for k in range(1, 200):
        run = base.with_name("run")
        shutil.copytree(base, run)
        done = saved_under_strace(run, calls, f"signal=KILL:when={k}")
        report = killed_commit.look(run)
        assert report["left"] == [] and report["next"] == report["state"] + 1 and report["model"] in (2, report["state"])
        states.append(report["state"])
        shutil.rmtree(run)
        if done.returncode == 0:
            break
        assert done.returncode in (-9, 137), done.stderr
    assert states == sorted(states) and set(states) <= {2, 3} and states[-1] == 3 and len(states) > 2


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EDQUOT"])
@pytest.mark.parametrize("calls", ["write,pwrite64", "fsync", "rename,renameat,renameat2"])
def test_an_error_of_each_system_call_of_a_save_is_reported_and_leaves_the_old_generation(base: Path, calls: str, error: str) -> None:
    for k in range(1, 200):
        run = base.with_name("run")
        shutil.copytree(base, run)
        done = saved_under_strace(run, calls, f"error={error}:when={k}")
        report = killed_commit.look(run)
        assert report["left"] == [] and report["next"] == report["state"] + 1
        shutil.rmtree(run)
        if done.returncode == 0:
            break
        assert done.returncode == 6 and "cannot write" in done.stdout
        assert (report["state"], report["model"]) in [(2, 2), (3, 2), (3, 3)]
    assert (report["state"], report["model"]) == (3, 3) and k > 2


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize("calls", ["write,pwrite64", "fsync"])
def test_an_interrupted_system_call_is_made_again(base: Path, calls: str) -> None:
    for k in range(1, 10):
        run = base.with_name("run")
        shutil.copytree(base, run)
        assert saved_under_strace(run, calls, f"error=EINTR:when={k}").returncode == 0
        report = killed_commit.look(run)
        assert (report["state"], report["model"], report["left"]) == (3, 3, [])
        shutil.rmtree(run)
