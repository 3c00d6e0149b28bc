"""Environments that hang, through the command line; second signals are in tests/faults."""

from __future__ import annotations

import pytest
from cli_run import refused
from train_runs import read, the_run, train


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_an_environment_that_hangs_in_this_process_ends_the_run(capsys):
    ran = train(capsys, "--env-timeout", 0.2, env="own_envs:Hanging")
    refused(ran, 7, "environment 0, episode 0, step 2", "step gave no answer within 0.2 s")
    assert read(the_run() / "status.json")["exit_code"] == 7
