"""What a scheduler, a laptop's lid and a clock that is set do to whole runs."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import types

import pytest
from fault_runs import ASYNC, FOUR, digest_of, goes_on_exactly, start, status, train
from run_digest import rows

from rlox.envs import EnvSource, vectorize, workers


def test_a_run_that_is_stopped_and_continued_does_not_notice(runs, undisturbed, folder):
    run = start(runs, folder, fault="send", where="step", step=68, signals=["SIGSTOP"])
    assert run.stopped()
    os.kill(run.pid, signal.SIGCONT)
    assert run.wait().code == 0
    assert digest_of(folder) == undisturbed().digest


def test_workers_that_were_stopped_with_their_run_do_not_count_as_hanging(monkeypatch):
    now = [0.0]

    def monotonic():
        now[0] += jumps.pop() if jumps else 0.0
        return now[0]

    with vectorize(EnvSource.of("Pendulum-v1"), 2, seed=0, vec="async", timeout_s=5.0) as envs:
        envs.reset()
        actions = envs.act_space.low[None].repeat(2, 0)
        jumps = [1000.0, 0.0]  # while the answers to the first step are waited for, everybody stands still
        monkeypatch.setattr(workers, "time", types.SimpleNamespace(monotonic=monotonic))
        for _ in range(3):
            envs.step(actions)
    assert jumps == [] and now == [1000.0]


def test_a_clock_that_is_set_back_gives_no_negative_times(runs, undisturbed, folder):
    ended = train(runs, folder, quiet=False, fault="turn_clock_back", step=68, by=7200.0)
    assert ended.code == 0, ended.err
    assert digest_of(folder) == undisturbed().digest
    assert status(folder)["seconds"] >= 0
    times = [value for name, value in _figures(folder) if name.startswith("time/")]
    assert len(times) > 20 and min(times) >= 0


def _figures(folder):
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        yield from ((k, v) for k, v in json.loads(line).get("metrics", {}).items() if v is not None)
