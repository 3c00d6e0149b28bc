"""Environments that raise, hang or die in whole runs: what is said, what is saved, and the exact way on."""

from __future__ import annotations

import signal

import pytest
from fault_runs import all_end, checkpoints, fault, goes_on_exactly, start, status, step_of, train
from run_digest import generation_state

from rlox.checkpoint.generation import Generations

TWO = ("--n-envs", 2)
# Each environment's 45th step belongs to the vector step that would end at step 90.
FAULTS = {
    ("raise", "sync"): ["the simulator is gone"],
    ("raise", "async"): ["the simulator is gone"],
    ("hang", "sync"): ["step gave no answer within 0.5 s"],
    ("hang", "async"): ["step gave no answer within 0.5 s, its worker was killed"],
    ("die", "async"): ["its worker process died (signal SIGSEGV)"],
    ("exit", "async"): ["its worker process died (exit code 3)"],
}


SLOW = {("raise", "async"), ("exit", "async")}


@pytest.mark.parametrize(
    ("kind", "vec"), [pytest.param(*pair, marks=[pytest.mark.slow] if pair in SLOW else []) for pair in FAULTS]
)
def test_a_failing_environment_costs_no_step(runs, undisturbed, tmp_path, folder, kind, vec):
    run = start(runs, folder, *TWO, "--vec", vec, "--env-timeout", 0.5 if kind == "hang" else 60, env=fault(tmp_path, kind, 45))
    ended = run.wait()
    assert ended.code == 7, ended.err
    for word in ("environment ", "episode ", "step ", "the last good checkpoint is run/checkpoints/last.pt", "run/crash.log",
                 *FAULTS[kind, vec]):  # fmt: skip
        assert word in ended.err, (word, ended.err)
    assert "Traceback" not in ended.err and len(ended.err.splitlines()) <= 6
    assert "Traceback" in (folder / "crash.log").read_text()
    found = status(folder)
    assert (found["status"], found["exit_code"], found["step"]) == ("failed", 7, 88)
    assert step_of(folder / "checkpoints" / "last.pt") == 88 and checkpoints(folder)[-1] == "step_000000088.pt"
    assert all_end(run.pid)
    goes_on_exactly(runs, folder, undisturbed(*TWO), *TWO)


def test_an_environment_that_takes_this_process_along_costs_the_steps_since_the_last_save(
    runs, undisturbed, tmp_path, folder
):
    ended = train(runs, folder, env=fault(tmp_path, "die", 93))
    assert ended.code == -signal.SIGSEGV
    assert checkpoints(folder)[-1] == "step_000000080.pt"
    goes_on_exactly(runs, folder, undisturbed())


def test_an_environment_that_fails_again_and_again_is_gone_on_from_each_time(runs, undisturbed, tmp_path, folder):
    replayed = 0  # steps of the unfinished episode, which are made again first
    for new_steps, step in ((93, 92), (1, 92), (3, 94)):
        ended = train(runs, folder, env=fault(tmp_path, "raise", replayed + new_steps))
        assert ended.code == 7 and "the simulator is gone" in ended.err, ended.err
        assert status(folder)["step"] == step == step_of(folder / "checkpoints" / "last.pt")
        state = generation_state(Generations(folder / "resume").newest())["state"]
        replayed = int(state["envs"]["lengths"]["\0array"][0])
    goes_on_exactly(runs, folder, undisturbed())


@pytest.mark.parametrize("step", [60, 120])
def test_an_environment_that_fails_in_an_evaluation_costs_nothing_that_is_not_made_again(runs, undisturbed, folder, step):
    ended = train(runs, folder, fault="fail_evaluation", step=step)
    assert ended.code == 7 and "the simulator is gone" in ended.err, ended.err
    assert "the last good checkpoint is run/checkpoints/last.pt" in ended.err
    goes_on_exactly(runs, folder, undisturbed())


def test_a_last_evaluation_that_failed_is_made_again(runs, undisturbed, folder):
    words = ("--eval-freq", 0)
    ended = train(runs, folder, *words, fault="fail_evaluation")
    assert ended.code == 7 and "the simulator is gone" in ended.err, ended.err
    goes_on_exactly(runs, folder, undisturbed(*words), *words)
    assert (folder / "checkpoints" / "best.pt").is_file()
