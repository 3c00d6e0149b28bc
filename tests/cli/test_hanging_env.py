"""Environments that hang, and a user who does not wait, through the command line."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import parent_process

import pytest
from cli_run import refused
from own_envs import Walk
from train_runs import parameters, read, the_run, train

from rlox.loop import Interrupt


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Interrupt, "TOGETHER_S", 0.0)


class Impatient(Walk):
    """Hangs in its 125th step, where its user sends rlox SIGTERM and then another signal."""

    steps = 0

    def __init__(self, signal: str = "SIGTERM", **kwargs) -> None:
        super().__init__(**kwargs)
        self.signal = signal

    def step(self, action):
        self.steps += 1
        if self.steps == 125:
            rlox = os.getpid() if parent_process() is None else os.getppid()
            for number in (signal.SIGTERM, getattr(signal, self.signal)):
                os.kill(rlox, number)
                threading.Event().wait(0.05)  # signals of one moment come in the order of their numbers
            threading.Event().wait()
        return super().step(action)


def test_an_environment_that_hangs_in_this_process_ends_the_run(capsys):
    ran = train(capsys, "--env-timeout", 0.2, env="own_envs:Hanging")
    refused(ran, 7, "environment 0, episode 0, step 2", "step gave no answer within 0.2 s")
    assert read(the_run() / "status.json")["exit_code"] == 7


@pytest.mark.parametrize(
    ("name", "code", "vec"),
    [("SIGTERM", 143, "sync"), ("SIGHUP", 129, "sync"), ("SIGUSR1", 143, "sync"), ("SIGINT", 130, "sync"),
     ("SIGTERM", 143, "async"), ("SIGINT", 130, "async")],
)  # fmt: skip
def test_a_second_signal_ends_a_run_that_hangs_and_the_old_checkpoint_is_whole(capsys, name, code, vec):
    options = ("--vec", vec, "--save-freq", 110, "--env-kwarg", f"signal={name}")
    ran = train(capsys, *options, env="test_hanging_env:Impatient")
    assert ran.code == code, ran.err
    assert "last.pt is kept" in ran.err
    assert "SIGTERM: stopping" not in ran.out and "Traceback" not in ran.err
    status = read(the_run() / "status.json")
    assert (status["status"], status["exit_code"]) == ("interrupted", code)
    assert [p.name for p in the_run().glob("checkpoints/*")] and parameters(the_run() / "checkpoints" / "last.pt")
