"""Who holds a run directory: locks of the dead, copies, and many who want the same one at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from fault_runs import TINY, contents, digest_of, goes_on_exactly, start, status, step_of, train
from many_at_once import N
from run_server import HERE

from rlox.errors import WriteError
from rlox.runs.directory import Run


@pytest.fixture(scope="module")
def killed(runs, tmp_path_factory):
    """A run that was killed in step 93; its lock file is there."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    assert train(runs, folder, fault="kill", where="step", step=93).code < 0
    assert (folder / "run.lock").read_text() and status(folder)["status"] == "running"
    return folder


def test_the_lock_of_a_dead_process_holds_nobody_up(runs, undisturbed, killed, folder):
    shutil.copytree(killed, folder)
    goes_on_exactly(runs, folder, undisturbed())


def test_a_copy_goes_on_and_leaves_the_original_alone(runs, undisturbed, killed, tmp_path):
    before = contents(killed)
    copy = tmp_path / "elsewhere" / "another name"
    shutil.copytree(killed, copy)
    shutil.rmtree(copy / "resume" / "nothing", ignore_errors=True)
    goes_on_exactly(runs, copy, undisturbed())
    assert contents(killed) == before and status(killed)["status"] == "running"


@pytest.mark.parametrize("place", ["manifest of a save", "publish", "log of a save"])
def test_a_kill_at_each_point_of_a_commit_is_gone_on_from(runs, undisturbed, folder, place):
    assert train(runs, folder, fault="kill", where=place, step=80).code < 0
    assert train(runs, folder, fault="send", where="starting", signals=["SIGTERM"]).code == 143
    step = 40 if place == "manifest of a save" else 80
    assert step_of(folder / "checkpoints" / "last.pt") == step == status(folder)["step"]
    goes_on_exactly(runs, folder, undisturbed())


def test_a_run_whose_state_was_deleted_keeps_its_checkpoints(runs, killed, folder):
    shutil.copytree(killed, folder)
    shutil.rmtree(folder / "resume")
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    ended = train(runs, folder)
    assert ended.code == 3 and "the state to go on from is gone" in ended.err and "--init-from" in ended.err, ended.err
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before


def test_a_run_that_is_going_on_is_refused_to_others(runs, undisturbed, folder):
    run = start(runs, folder, fault="send", where="step", step=93, signals=["SIGSTOP"])
    assert run.stopped()
    for words in (("--resume", "auto"), ()):
        ended = runs.run(*TINY, "--run-dir", folder, *words, cwd=folder.parent)
        assert ended.code == 6 and f"is locked by pid {run.pid} since 2" in ended.err, ended.err
    os.kill(run.pid, signal.SIGCONT)
    assert run.wait().code == 0
    assert digest_of(folder) == undisturbed().digest


def at_once(mode, folder):
    """Return what became of eight processes that wanted a run directory in the same moment."""
    env = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / "many_at_once.py"), mode, str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def has_one_winner(found):
    """Assert that one process got the directory and all others were refused for a reason that they are told."""
    assert sorted(one["code"] for one in found) == [0] + [6] * (N - 1), found
    for one in found:
        assert one["code"] == 0 or "is locked by pid " in one["said"] or "exists already" in one["said"], one["said"]


def test_eight_processes_at_once_get_eight_directories(tmp_path):
    found = at_once("own", tmp_path)
    assert {one["code"] for one in found} == {0} and len({one["said"] for one in found}) == N


@pytest.mark.parametrize("mode", ["same", "resume"])
def test_of_eight_processes_that_want_the_same_directory_one_gets_it(tmp_path, mode):
    for i in range(5):
        folder = tmp_path / f"run{i}"
        if mode == "resume":
            Run.create(folder).close()
        has_one_winner(at_once(mode, folder))


def test_who_comes_between_the_making_and_the_holding_of_a_folder_gets_it(tmp_path, monkeypatch):
    old, quick = os.mkdir, []

    def mkdir(path, *args):
        old(path, *args)
        if not quick:
            quick.append(None)
            quick.append(Run.reopen(path))

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(WriteError, match=f"is locked by pid {os.getpid()}"):
        Run.create(tmp_path / "run")
    quick[1].close()


@pytest.mark.slow
def test_eight_whole_commands_at_once_train_in_eight_directories(runs, undisturbed, tmp_path):
    started = [runs.start(*TINY, "-q", cwd=tmp_path) for _ in range(N)]
    assert [run.wait().code for run in started] == [0] * N
    folders = list(tmp_path.glob("runs/sac/*/*"))
    assert len(folders) == N and {digest_of(folder) for folder in folders} == {undisturbed().digest}


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--resume", "auto")])
def test_of_eight_whole_commands_with_one_folder_one_trains(runs, undisturbed, folder, words):
    for i in range(5):
        same = folder.with_name(f"run{i}")
        started = [runs.start(*TINY, "--run-dir", same, *words, cwd=folder.parent) for _ in range(N)]
        ended = [run.wait() for run in started]
        has_one_winner([{"code": one.code, "said": one.err} for one in ended])
        assert digest_of(same) == undisturbed().digest and status(same)["status"] == "finished"
