"""A second signal: the process is gone at once, and what was saved before is as it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from fault_runs import TINY, all_end, contents, fault, goes_on_exactly, start, status, step_of, train
from run_server import HERE

STEP = dict(where="step", step=93)
# Where the first and the second Ctrl-C come; the second of a saving is in each part that is written.
PLACES = {
    "in one step": (dict(STEP, signals=["SIGINT", "SIGINT"]), None),
    "in an evaluation": (dict(where="evaluation", nth=2, signals=["SIGINT", "SIGINT"]), None),
    "in the model of the last save": (dict(STEP, signals=["SIGINT"]), dict(where="save", step=93, signals=["SIGINT"])),
    "in the state of the last save": (dict(STEP, signals=["SIGINT"]),
                                      dict(where="save", step=93, nth=2, signals=["SIGINT"])),
    "after the last save is committed": (dict(STEP, signals=["SIGINT"]),
                                         dict(where="publish", step=93, signals=["SIGINT"])),
}  # fmt: skip


@pytest.fixture
def marks(tmp_path):
    """What a run that is ended by two signals leaves beside its folder."""
    return dict(marker=tmp_path / "an interpreter ended", photo=tmp_path / "photo.json")


def is_as_it_was(folder, marks):
    """Assert that the last checkpoint and generation before the first signal are there, and that nothing was cleared up."""
    assert not marks["marker"].exists()
    before = json.loads(marks["photo"].read_text())
    assert len(before) > 5 and before.items() <= contents(folder).items()


@pytest.mark.parametrize("place", PLACES)
def test_a_second_ctrl_c_ends_the_process_at_once(runs, undisturbed, folder, marks, place):
    first, second = PLACES[place]
    ended = train(runs, folder, fault="send_twice", first=first, second=second, **marks)
    assert ended.code == 130, ended.err
    last = folder / "checkpoints" / "last.pt"
    assert ended.err.splitlines() == ["SIGINT: stopping after this step; a second signal ends at once"]
    found = status(folder)
    assert (found["status"], found["reason"], found["exit_code"]) == ("interrupted", "interrupted", 130)
    assert found["step"] >= 93 and found["algorithm"] == "sac"
    is_as_it_was(folder, marks)
    assert step_of(last) == 80
    goes_on_exactly(runs, folder, undisturbed())


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 143)])
def test_a_second_signal_of_another_kind_ends_the_process_with_its_own_code(runs, folder, marks, name, code):
    ended = train(runs, folder, fault="send_twice", first=dict(STEP, signals=["SIGINT", name]), second=None, **marks)
    assert (ended.code, status(folder)["exit_code"]) == (code, code)
    is_as_it_was(folder, marks)


def test_last_words_say_what_is_kept_and_end_the_json_document(runs, folder, marks):
    where = dict(first=dict(STEP, signals=["SIGINT", "SIGINT"]), second=None)
    ended = train(runs, folder, "--json", quiet=False, fault="send_twice", **where, **marks)
    assert ended.code == 130
    assert ended.err.splitlines()[-1] == "stopped: run/checkpoints/last.pt is kept"
    assert json.loads(ended.out)["exit_code"] == 130 and json.loads(ended.out)["ok"] is False
    where["first"] = dict(where="step", step=20, signals=["SIGINT", "SIGINT"])
    ended = train(runs, folder.with_name("new"), quiet=False, fault="send", **where["first"])
    assert (ended.code, ended.out) == (130, "")
    assert ended.err.splitlines()[-1] == "stopped: no checkpoint written"


def test_a_way_out_that_hangs_is_cut_short_by_the_system(runs, undisturbed, folder, marks):
    where = dict(first=dict(STEP, signals=["SIGINT", "SIGINT"]), second=None, hang=True)
    assert train(runs, folder, fault="send_twice", **where, **marks).code == -signal.SIGALRM
    is_as_it_was(folder, marks)
    goes_on_exactly(runs, folder, undisturbed())


@pytest.mark.parametrize(
    ("vec", "signals", "code"),
    [
        ("sync", "SIGTERM SIGINT", 130),
        ("async", "SIGINT SIGTERM", 143),
        *(pytest.param(vec, f"SIGINT {name}", code, marks=pytest.mark.slow)
          for vec in ("sync", "async") for name, code in (("SIGINT", 130), ("SIGHUP", 129), ("SIGUSR1", 143))),
    ],
)  # fmt: skip
def test_a_second_signal_ends_a_run_whose_environment_hangs(runs, undisturbed, tmp_path, folder, vec, signals, code):
    two = ("--n-envs", 2)
    run = start(runs, folder, *two, "--vec", vec, env=fault(tmp_path, f"hang {signals}", 45), fault="leave_at_once")
    ended = run.wait()
    assert ended.code == code, ended.err
    assert all_end(run.pid)
    assert step_of(folder / "checkpoints" / "last.pt") == 80 and status(folder)["status"] == "interrupted"
    goes_on_exactly(runs, folder, undisturbed(*two), *two)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_kill_after_sigterm_leaves_the_old_checkpoint(runs, undisturbed, folder, marks, nth):
    second = dict(where="save", step=93, nth=nth, signals=["SIGKILL"])
    ended = train(runs, folder, fault="send_twice", first=dict(STEP, signals=["SIGTERM"]), second=second, **marks)
    assert ended.code == -signal.SIGKILL
    is_as_it_was(folder, marks)
    goes_on_exactly(runs, folder, undisturbed())


@pytest.mark.slow
def test_how_long_a_second_ctrl_c_takes(tmp_path, capsys):
    took = []
    for i in range(10):
        words = (*TINY, "--steps", 100000, "--save-freq", 0, "--n-envs", 2, "--vec", ("sync", "async")[i % 2])
        process = subprocess.Popen(
            [sys.executable, "-m", "rlox", *map(str, words), "--run-dir", str(tmp_path / f"run{i}")],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for line in process.stderr:
            if line.startswith(b"step=100/"):
                process.send_signal(signal.SIGTERM)
            if line.startswith(b"SIGTERM: "):  # next is the last save
                break
        since = time.monotonic()
        process.send_signal(signal.SIGINT)
        if process.wait() == 130:
            took.append(time.monotonic() - since)
        process.stderr.close()
    with capsys.disabled():
        print(f"\nfrom a second signal to the end of the process: {max(took) * 1000:.0f} ms at most in {len(took)} runs")
    assert len(took) > 5 and max(took) < 0.5
