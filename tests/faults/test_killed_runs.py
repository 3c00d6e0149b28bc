"""Runs that are killed at random times: kill_runs.py on a small scale, with runs that start in milliseconds."""

from __future__ import annotations

import os
import random
import select
import shutil
import subprocess

import kill_runs
from fault_runs import digest_of
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


def test_another_run_has_another_digest(runs, undisturbed, tmp_path):
    plain = undisturbed()
    assert undisturbed("--seed", 1).digest != plain.digest
    assert undisturbed("--no-tensorboard", "--n-eval-envs", 2).digest == plain.digest
    shutil.copytree(plain.folder, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    text = metrics.read_text()
    metrics.write_text(text.replace('"step":60', '"step":61', 1))
    assert metrics.read_text() != text and digest_of(tmp_path / "run") != plain.digest
