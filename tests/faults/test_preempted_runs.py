"""What a scheduler, a laptop's lid and a clock that is set do to whole runs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import shlex
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
from fault_runs import TINY, checkpoints, digest_of, start, status, train
from run_server import HERE

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


@pytest.mark.slow
def test_a_hundred_signals_at_random_times(runs, undisturbed, tmp_path, capsys):
    draw, n, i = random.Random(0), 0, 0
    codes = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129, signal.SIGUSR1: 143}
    counts: dict[int, int] = {}
    while n < 100:
        i += 1
        folder, code = tmp_path / f"run{i}", None
        while code != 0:
            run, number = start(runs, folder), None
            if not select.select([run.pidfd], [], [], draw.uniform(0.0, 0.4))[0]:
                number = draw.choice(list(codes))
                os.kill(run.pid, number)
                n += 1
            ended = run.wait()
            code = ended.code
            counts[code] = counts.get(code, 0) + 1
            # -N: after the command was over, in the end of the interpreter
            assert code == 0 or (number and code in (codes[number], -number)), ended.err
            assert code >= 0 or status(folder)["status"] == "finished"
            assert "Traceback" not in ended.err
        assert digest_of(folder) == undisturbed().digest and checkpoints(folder) == checkpoints(undisturbed().folder)
    with capsys.disabled():
        print(f"\n{n} signals at random times in {i} runs; exit codes: {counts}")
    assert {0, 129, 130, 143} <= counts.keys()


@pytest.mark.slow
def test_a_run_that_is_stopped_for_longer_than_an_environment_may_take(runs, undisturbed, folder):
    two = ("--n-envs", 2)
    run = start(runs, folder, *two, "--vec", "async", "--env-timeout", 1, fault="slow_down", seconds=0.02)
    for _ in range(4):
        if not select.select([run.pidfd], [], [], 1.0)[0]:
            os.killpg(run.pid, signal.SIGSTOP)
            select.select([run.pidfd], [], [], 2.5)
            os.killpg(run.pid, signal.SIGCONT)
    assert run.wait().code == 0
    assert digest_of(folder) == undisturbed(*two).digest


@pytest.mark.slow
def test_the_loop_of_the_documentation_ends_alone(undisturbed, tmp_path, capsys):
    text = (HERE.parents[1] / "docs" / "reliability.md").read_text()
    loop = re.search(r"^until .*?^done$", text, re.MULTILINE | re.DOTALL)[0]
    assert "rlox train sac --env Pendulum-v1 " in loop and "--run-dir runs/job42 --resume auto" in loop
    loop = loop.replace("rlox train sac --env Pendulum-v1 ", f"{shlex.join([sys.executable, '-m', 'rlox', *map(str, TINY)])} -q ")
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    shell = subprocess.Popen(["sh", "-c", loop], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    draw, sent = random.Random(1), []
    children = f"/proc/{shell.pid}/task/{shell.pid}/children"
    fd = os.pidfd_open(shell.pid)
    while len(sent) < 12 and not select.select([fd], [], [], draw.uniform(0.2, 4.5))[0]:
        name = draw.choice(["SIGKILL", "SIGKILL", "SIGTERM", "SIGHUP", "SIGUSR1"])
        for pid in Path(children).read_text().split():
            with contextlib.suppress(OSError):  # it has ended by now
                if b"rlox" in Path(f"/proc/{pid}/cmdline").read_bytes():  # the shell's sleep is left alone
                    os.kill(int(pid), getattr(signal, name))
                    sent.append(name)
    os.close(fd)
    said = shell.communicate()[1].decode()
    assert shell.returncode == 0, said
    with capsys.disabled():
        print(f"\nthe loop ended alone after {len(sent)} signals: {', '.join(sent)}")
    assert digest_of(tmp_path / "runs" / "job42") == undisturbed().digest
