"""Runs that are killed at random times: kill_runs.py on a small scale, with runs that start in milliseconds."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess

import kill_runs
import pytest
from fault_runs import digest_of, goes_on_exactly, train
from kill_runs import PENDULUM, SAC, TINY, Kind


class Killable:
    """A run of the server with what kill_runs.py uses of a subprocess."""

    def __init__(self, started):
        self._started, self._code, self.pid = started, None, started.pid

    def poll(self):
        return self._code if self._code is not None or not self._ends_within(0.0) else self.wait()

    def wait(self, timeout=None):
        if self._code is None:
            if not self._ends_within(timeout):
                raise subprocess.TimeoutExpired("rlox", timeout)
            self._code = self._started.wait().code
        return self._code

    def send_signal(self, number):
        os.kill(self.pid, number)

    def _ends_within(self, timeout):
        return bool(select.select([self._started.pidfd], [], [], timeout)[0])


def test_runs_killed_at_random_times_end_as_if_nothing_had_happened(runs, tmp_path, monkeypatch):
    def start(kind, folder):
        words = (*kind.words, "--run-dir", folder, "--resume", "auto")
        return Killable(runs.start(*words, cwd=tmp_path))

    monkeypatch.setattr(kill_runs, "start", start)
    monkeypatch.setattr(kill_runs, "log_of", lambda folder: tmp_path / "none")
    kind = Kind([*SAC, *PENDULUM, *TINY, "--steps", "300"], 5)
    kill_runs.undisturbed(kind, tmp_path / "undisturbed")
    kills = [kill_runs.killed(kind, tmp_path / f"run{i}", random.Random(i)) for i in range(kind.n)]
    assert kind.wrong == []
    assert sum(n for n, _ in kills) >= 5 and sum(inside for _, inside in kills) >= 3


AT_THE_END = ("--eval-freq", 0, "--save-freq", 0)
# The first save, the last one, what follows training, and kills of the processes that go on.
KILLS = {
    "in the first save": [dict(where="save", step=40, nth=2)],
    "after the first commit": [dict(where="publish", step=40)],
    "before training": [dict(where="preparing")],
    "in the last commit": [dict(where="list of a save", step=120)],
    "after the last but one commit": [dict(where="publish", step=120)],
    "after the last commit": [dict(where="publish", step=120, nth=2)],
    "again and again": [dict(where="step", step=93), dict(where="preparing"), dict(where="starting"),
                        dict(where="conclusion"), dict(where="conclusion")],
}  # fmt: skip
KILLS_AT_THE_END = {
    "in the only evaluation": [dict(where="evaluation")],
    "in the only save": [dict(where="save", nth=2)],
    "after the only commit": [dict(where="publish")],
    "in the closing evaluation": [dict(where="conclusion")],
}
SLOW = {"before training", "in the last commit", "after the last but one commit", "in the only save"}


@pytest.mark.parametrize(
    ("words", "when"),
    [
        pytest.param(words, when, marks=[pytest.mark.slow] if when in SLOW else [], id=when)
        for words, kills in (((), KILLS), (AT_THE_END, KILLS_AT_THE_END))
        for when in kills
    ],
)
def test_a_kill_at_fixed_points_is_gone_on_from(runs, undisturbed, folder, words, when):
    for where in (KILLS | KILLS_AT_THE_END)[when]:
        assert train(runs, folder, *words, fault="kill", **where).code == -signal.SIGKILL
    goes_on_exactly(runs, folder, undisturbed(*words), *words)


def test_another_run_has_another_digest(runs, undisturbed, tmp_path):
    plain = undisturbed()
    assert undisturbed("--seed", 1).digest != plain.digest
    assert undisturbed("--no-tensorboard", "--n-eval-envs", 2).digest == plain.digest
    shutil.copytree(plain.folder, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    text = metrics.read_text()
    metrics.write_text(text.replace('"step":60', '"step":61', 1))
    assert metrics.read_text() != text and digest_of(tmp_path / "run") != plain.digest
