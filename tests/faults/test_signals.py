"""Signals that end a run: one checkpoint at a step boundary, the exit code, and an exact way on."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext

import pytest
from fault_envs import Faulty
from fault_runs import (
    ASYNC,
    FOUR,
    all_end,
    checkpoints,
    contents,
    digest_of,
    fault,
    goes_on_exactly,
    members,
    start,
    status,
    step_of,
    train,
)
from kill_runs import OFFLINE, dataset

from rlox import SAC
from rlox.callbacks import Callback
from rlox.errors import DivergedError, EnvError
from rlox.loop import Interrupt

CODES = {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129, "SIGUSR1": 143}
# Where the signal comes, and the step that is saved then.
PLACES = {
    "before the first step": (dict(where="starting"), 0),
    "in a step": (dict(where="step", step=67), 67),
    "in an update": (dict(where="update", step=93), 93),
    "when an environment is reset": (dict(where="reset", step=70), None),
    "in an evaluation": (dict(where="evaluation", step=60), 60),
    "in a save": (dict(where="save", nth=2, step=80), 80),
}


def is_ended_by(name, ended, folder, step):
    assert ended.code == CODES[name], ended.err
    assert f"{name}: stopping after this step" in ended.err and "Traceback" not in ended.err
    found = status(folder)
    assert (found["status"], found["exit_code"], found["stopped_by"]) == ("interrupted", CODES[name], name)
    assert found["step"] == (step if step is not None else found["step"]) < 120
    assert step_of(folder / "checkpoints" / "last.pt") == found["step"]
    scheduled = [f"step_{at:09d}.pt" for at in (40, 80) if at < found["step"]]
    assert checkpoints(folder) == [*scheduled, f"step_{found['step']:09d}.pt"]


QUICK = list(zip(PLACES, ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGTERM", "SIGINT"), strict=True))


@pytest.mark.parametrize(
    ("place", "name"),
    [pytest.param(p, n, marks=[] if (p, n) in QUICK else [pytest.mark.slow]) for p in PLACES for n in CODES],
)
def test_a_signal_makes_one_checkpoint_and_the_resume_is_exact(runs, undisturbed, folder, place, name):
    at, step = PLACES[place]
    ended = train(runs, folder, fault="send", signals=[name], **at)
    is_ended_by(name, ended, folder, step)
    goes_on_exactly(runs, folder, undisturbed())


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_a_signal_before_the_run_began_leaves_nothing(runs, folder, name, code):
    ended = train(runs, folder, fault="send", where="preparing", signals=[name])
    assert ended.code == code and "Traceback" not in ended.err
    assert not folder.exists()


def test_a_signal_before_a_run_goes_on_takes_nothing_from_it(runs, undisturbed, folder):
    assert train(runs, folder, fault="send", where="step", step=67, signals=["SIGTERM"]).code == 143
    before = contents(folder)
    for name in ("SIGTERM", "SIGINT"):
        assert train(runs, folder, fault="send", where="preparing", signals=[name]).code == CODES[name]
        assert contents(folder) == before
        assert (status(folder)["status"], status(folder)["step"]) == ("interrupted", 67)
    goes_on_exactly(runs, folder, undisturbed())


def test_a_second_interruption_at_the_same_step_saves_nothing_new(runs, undisturbed, folder):
    assert train(runs, folder, fault="send", where="step", step=67, signals=["SIGTERM"]).code == 143
    before = contents(folder)
    ended = train(runs, folder, fault="send", where="starting", signals=["SIGINT"])
    is_ended_by("SIGINT", ended, folder, 67)
    assert contents(folder) == before
    goes_on_exactly(runs, folder, undisturbed())


@pytest.mark.parametrize("words", [(), ("--save-freq", 0)])
def test_a_signal_in_the_last_step_of_all_is_an_interruption_too(runs, undisturbed, folder, words):
    ended = train(runs, folder, *words, fault="send", where="evaluation", nth=2, signals=["SIGTERM"])
    assert ended.code == 143 and status(folder)["step"] == 120
    goes_on_exactly(runs, folder, undisturbed(*words), *words)


@pytest.mark.parametrize("where", [dict(where="evaluation"), dict(where="save", step=120)])
def test_a_signal_after_the_last_step_lets_a_finished_run_finish(runs, undisturbed, folder, where):
    words = ("--eval-freq", 0, "--save-freq", 0)
    ended = train(runs, folder, *words, fault="send", signals=["SIGTERM"], **where)
    assert ended.code == 0, ended.err
    assert digest_of(folder) == undisturbed(*words).digest and status(folder)["status"] == "finished"


def test_a_signal_in_the_closing_evaluation_of_the_best_model_is_made_up_for(runs, undisturbed, folder):
    ended = train(runs, folder, fault="send", where="conclusion", signals=["SIGUSR1"])
    assert ended.code == 143 and status(folder)["status"] == "interrupted"
    assert digest_of(folder) == undisturbed().digest  # all of the training is there
    goes_on_exactly(runs, folder, undisturbed())
    assert status(folder)["return_mean"] == status(undisturbed().folder)["return_mean"]






def test_a_signal_to_the_whole_group_of_a_run_with_workers(runs, undisturbed, folder):
    run = start(runs, folder, *ASYNC, fault="send", where="step", step=68, signals=["SIGTERM"], group=True)
    ended = run.wait()
    is_ended_by("SIGTERM", ended, folder, 68)
    assert all_end(run.pid)
    goes_on_exactly(runs, folder, undisturbed(*FOUR), *FOUR)  # what workers began, one process ends


def test_no_worker_outlives_a_run_that_is_killed(runs, undisturbed, folder):
    two = ("--n-envs", 2)
    run = start(runs, folder, *two, "--vec", "async", fault="send", where="step", step=68, signals=["SIGSTOP"])
    assert run.stopped() and len(members(run.pid)) >= 3
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait().code == -signal.SIGKILL
    assert all_end(run.pid)
    goes_on_exactly(runs, folder, undisturbed(*two), *two)


def test_a_signal_to_an_offline_training(runs, tmp_path):
    words = ("offline", "bc", *OFFLINE, "--dataset", dataset(tmp_path), "--env", "Pendulum-v1", "--eval-freq", 200, "-q")
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert runs.run(*words, "--run-dir", whole, cwd=tmp_path).code == 0
    ended = runs.run(*words, "--run-dir", folder, cwd=tmp_path, fault="send", where="step", step=137, signals=["SIGUSR1"])
    assert ended.code == 143 and status(folder)["step"] == 137 == step_of(folder / "checkpoints" / "last.pt")
    assert runs.run("offline", "--resume", folder, cwd=tmp_path).code == 0
    assert digest_of(folder) == digest_of(whole)


class Ends(Callback):
    """Ends a training in its 60th step in one of many ways."""

    def __init__(self, how):
        self.how = how

    def on_step(self, *, algo, step, **kwargs):
        if step != 60:
            return True
        if isinstance(self.how, BaseException):
            raise self.how
        if self.how == "diverge":
            next(algo.learner.actor.parameters()).data.fill_(float("nan"))
        return self.how != "stop"


def handlers():
    return {name: signal.getsignal(getattr(signal, name)) for name in (*Interrupt.SIGNALS, "SIGALRM", "SIGCHLD")}


@pytest.mark.parametrize(
    ("how", "error"),
    [(None, None), ("stop", None), ("fail", EnvError), ("hang", EnvError), ("diverge", DivergedError),
     (KeyboardInterrupt(), KeyboardInterrupt), (SystemExit(3), SystemExit), (MemoryError(), MemoryError)],
    ids=str,
)  # fmt: skip
def test_handlers_of_a_script_are_its_own_again_however_training_ends(how, error, tmp_path, monkeypatch):
    if how in ("fail", "hang"):
        kind = {"fail": "raise", "hang": "hang"}[how]
        monkeypatch.setenv("FAULT", fault(tmp_path, kind, 60)["FAULT"])

    def own(number, frame):
        raise AssertionError("no signal is sent here")

    replaced = {name: signal.signal(getattr(signal, name), own) for name in Interrupt.SIGNALS}
    try:
        before = handlers()
        algo = SAC(Faulty, net_arch=[8], batch_size=8, buffer_size=100, learning_starts=50, env_timeout=0.2,
                   callbacks=Ends(how))  # fmt: skip
        with nullcontext() if error is None else pytest.raises(error):
            algo.train(120)
        assert handlers() == before
        algo.close()
    finally:
        for name, handler in replaced.items():
            signal.signal(getattr(signal, name), handler)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_script_gets_the_signal_that_ended_its_training(tmp_path):
    got = []
    old = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))

    class Send(Callback):
        def on_step(self, *, step, **kwargs):
            if step == 60:
                signal.raise_signal(signal.SIGTERM)

    try:
        algo = SAC(Faulty, net_arch=[8], batch_size=8, buffer_size=100, learning_starts=50, callbacks=Send())
        assert algo.train(120)["reason"] == "interrupted"
        assert got == [signal.SIGTERM] and algo.step == 60
        assert algo.train(10)["reason"] == "finished"
    finally:
        signal.signal(signal.SIGTERM, old)
