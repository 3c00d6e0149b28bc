"""Many seeds in one command: normal runs of their own, started again for what is missing only."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_run import Ran, environment, refused, run, spawn
from pool_mains import end_as_told
from run_digest import digest
from train_runs import read

from rlox.cli._output import start as start_output
from rlox.cli._seeds import _report
from rlox.config.resolve import Schema, resolve
from rlox.registry import get_algorithm
from rlox.runs import pool as pool_module
from rlox.runs.past import Past, values_digest
from rlox.runs.pool import Job, Pool, find_jobs

TINY = ("train", "sac", "--env", "Pendulum-v1", "--preset", "none", "--learning-starts", 50, "--net-arch", "[8]",
        "--batch-size", 8, "--buffer-size", 500, "--eval-freq", 60, "--eval-episodes", 1, "--save-freq", 40,
        "--log-interval", 20, "--no-tensorboard")  # fmt: skip


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLOX_RUNS_DIR", raising=False)


def digest_of(folder: Path) -> str:
    return digest(folder / "resume", folder / "metrics.jsonl")


def by_seed(root: Path) -> dict[int, Path]:
    return {read(p)["seed"]: p.parent for p in root.glob("*/*/*/meta.json")}


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> tuple[Ran, Path]:
    """Three seeds, two at a time."""
    folder = tmp_path_factory.mktemp("pool")
    return spawn(*TINY, "--steps", 120, "--seeds", 3, "--jobs", 2, "--json", cwd=folder), folder


def test_each_seed_is_a_run_of_its_own_and_all_come_to_one_table(pool):
    ran, folder = pool
    assert ran.code == 0, ran.err
    rows = ran.json["result"]["runs"]
    assert [row["seed"] for row in rows] == [0, 1, 2] and {row["status"] for row in rows} == {"finished"}
    scores = [row["eval_return_mean"] for row in rows]
    assert len(set(scores)) == 3
    summary = ran.json["result"]["summary"]
    assert summary["n_runs"] == 3 and summary["mean"] == pytest.approx(np.mean(scores))
    assert summary["iqm_low"] <= summary["iqm"] <= summary["iqm_high"]
    assert sorted(by_seed(folder / "runs")) == [0, 1, 2]
    assert not (folder / "checkpoints").exists()  # with several runs there is no newest one to point at


def test_a_run_of_the_pool_equals_the_run_of_that_seed_alone(pool, capsys, tmp_path):
    assert run(capsys, *TINY, "--steps", 120, "--seed", 2, "--run-dir", tmp_path / "alone", "--no-link").code == 0
    assert digest_of(tmp_path / "alone") == digest_of(by_seed(pool[1] / "runs")[2])


def test_started_again_with_one_seed_more_it_makes_that_one_only(pool, monkeypatch):
    _, folder = pool
    before = {seed: path.stat().st_mtime_ns for seed, path in by_seed(folder / "runs").items()}
    ran = spawn(*TINY, "--steps", 120, "--seeds", 4, cwd=folder)
    assert ran.code == 0, ran.err
    assert "1 of 4 runs to make" in ran.err and "seed 0: finished already" in ran.err
    after = by_seed(folder / "runs")
    assert sorted(after) == [0, 1, 2, 3]
    assert all(after[seed].stat().st_mtime_ns == before[seed] for seed in before)
    lines = ran.out.splitlines()
    assert lines[0].split("\t")[:3] == ["seed", "status", "step"] and lines[4].startswith("3\tfinished\t120")
    assert any(line.startswith("iqm\t") for line in lines)


def test_other_values_are_other_runs(pool):
    _, folder = pool
    jobs = _jobs_of(folder, 0)
    assert jobs[0].path == by_seed(folder / "runs")[0]
    parent = jobs[0].path.parent
    (other,) = find_jobs([0], "another digest", parent, None, None)
    (named,) = find_jobs([0], read(jobs[0].path / "meta.json")["values"], parent, None, "a name")
    assert not other.path.exists() and not named.path.exists() and named.path.name.endswith("-a-name")


def _jobs_of(folder: Path, *seeds: int) -> list[Job]:
    first = by_seed(folder / "runs")[seeds[0]]
    return find_jobs(seeds, read(first / "meta.json")["values"], first.parent, None, None)


def start(*argv: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "rlox", *map(str, argv)]
    return subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition, process) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)


def has_saved(seed: int) -> bool:
    path = by_seed(Path("runs")).get(seed)
    return path is not None and (path / "resume" / "manifest.json").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_pool_that_was_killed_finishes_what_is_missing(number, tmp_path):
    argv = (*TINY, "--steps", 2000, "--seeds", 2, "--jobs", 2)
    process = start(*argv)
    wait_until(lambda: has_saved(0) and has_saved(1), process)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 143)
    runs = by_seed(Path("runs"))
    end = time.monotonic() + 60
    while any(Past.open(p).status.get("status") == "running" for p in runs.values()):  # they save and stop by themselves
        assert time.monotonic() < end
        time.sleep(0.05)
    assert {Past.open(p).status["status"] for p in runs.values()} == {"interrupted"}
    assert {Past.open(p).status["exit_code"] for p in runs.values()} == {143}
    made = {seed: Past.open(p).status["step"] for seed, p in runs.items()}
    again = spawn(*argv, "--json", cwd=tmp_path)
    assert again.code == 0, again.err
    assert [row["status"] for row in again.json["result"]["runs"]] == ["finished", "finished"]
    for seed, path in by_seed(Path("runs")).items():
        assert path == runs[seed]
        assert read(path / "meta.json")["resumed"][0]["step"] == made[seed]


def test_a_seed_that_fails_is_named_and_the_others_go_on(tmp_path):
    (tmp_path / "moody.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "class Moody(gym.Env):\n"
        "    observation_space = gym.spaces.Box(-1, 1, (1,)); action_space = gym.spaces.Box(-1, 1, (1,))\n"
        "    def __init__(self): self.t = 0\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        super().reset(seed=seed); return np.zeros(1, np.float32), {}\n"
        "    def step(self, action):\n"
        "        self.t += 1\n"
        "        if self.t == 80 and float(action[0]) > 0.0: raise ValueError('moody today')\n"
        "        return np.zeros(1, np.float32), 0.0, False, self.t % 10 == 0, {}\n"
    )
    words = [("moody.py:Moody" if w == "Pendulum-v1" else w) for w in TINY]
    ran = spawn(*words, "--steps", 100, "--seeds", 4, "--jobs", 2, "--json", cwd=tmp_path)
    rows = ran.json["result"]["runs"]
    failed = [row for row in rows if row["status"] == "failed"]
    assert 0 < len(failed) < 4 and len(failed) + sum(row["status"] == "finished" for row in rows) == 4
    assert ran.code == 7
    assert all(f"seed {row['seed']} ended with exit code 7" in ran.err for row in failed) and "moody today" in ran.err


def test_a_folder_given_holds_the_seeds(tmp_path):
    ran = spawn(*TINY, "--steps", 60, "--seeds", 2, "--jobs", 2, "--seed", 5, "--run-dir", "here", "--print-path", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert ran.out.split() == [f"here/s{seed}/checkpoints/best.pt" for seed in (5, 6)]
    assert json.loads((tmp_path / "here" / "s5" / "meta.json").read_text())["seed"] == 5


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--seeds", 0), "--seeds is 0"),
        (("--seeds", "many"), "--seeds is many"),
        (("--seeds", 2, "--jobs", 0), "--jobs is 0"),
        (("--jobs", 2), "--jobs needs --seeds"),
        (("--seeds", 2, "--seed", 2**32 - 1), "beyond 4294967295"),
        (("--seeds", 2, "--resume", "latest"), "--resume names one run"),
        (("--seeds", 2, "--resume", "latest", "--fork"), "--fork starts one run"),
        (("--seeds", 2, "--set", "seed=7"), "the same seed 7"),
        (("--seeds", 2, "--set", "run.seed=7", "--dry-run"), "the same seed 7"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(capsys, words, told):
    refused(run(capsys, *TINY, "--steps", 60, *words), 2, told)
    assert not Path("runs").exists()


def test_a_process_that_something_killed_is_a_run_that_failed_and_warnings_are_shown(capsys):
    ways = ["killed", "hung up", "well"]
    jobs = [Job(seed, Path(f"s{seed}")) for seed in range(3)]
    Pool(jobs, 3, lambda job: [ways[job.seed]], end_as_told).run(lambda job: None)
    assert [job.exit_code for job in jobs] == [7, 129, 0]
    start_output([])
    _report(jobs, {"print_path": False})
    err = capsys.readouterr().err
    assert "seed 0 ended with exit code 7" in err and "seed 1 ended with exit code 129" in err
    assert "warning: seed 2: the disk is small\n" in err


@pytest.mark.parametrize(("code", "status"), [(-signal.SIGKILL, "failed"), (-signal.SIGTERM, "interrupted"), (5, "failed")])
def test_a_process_that_did_not_say_how_its_run_ended_leaves_it_unfinished(monkeypatch, code, status):
    left_run(Path("a"), seed=0, status="finished")
    (job,) = [Job(0, Path("a"))]
    pool = Pool([job], 1, lambda job: [], end_as_told)
    monkeypatch.setattr(pool_module, "get_context", lambda method: Fakes(lambda: None, exitcode=code))
    pool._start(job)
    assert pool._end(7).status == status


def left_run(path: Path, seed: int, status: str, values: str = "digest", step: int = 100) -> None:
    """Write the folder of a run as it is left."""
    path.mkdir(parents=True)
    (path / "meta.json").write_text(json.dumps({"seed": seed, "values": values, "name": None}))
    (path / "status.json").write_text(json.dumps({"status": status, "step": step}))


class Fakes:
    """A context of multiprocessing whose processes do nothing; ``while_starting`` is called as one starts."""

    pid, sentinel = 4242, 7

    def __init__(self, while_starting, exitcode: int = 0):
        self.start, self.exitcode = while_starting, exitcode

    def Pipe(self, duplex):
        return multiprocessing.Pipe(duplex)

    def Process(self, **attrs):
        return self

    def is_alive(self):
        return True

    def join(self):
        pass


def test_a_signal_that_comes_while_a_process_starts_is_handed_on_once(monkeypatch):
    sent = []
    pool = Pool([Job(0, Path("a"))], 1, lambda job: [], end_as_told)
    monkeypatch.setattr(pool_module, "get_context", lambda method: Fakes(lambda: signal.raise_signal(signal.SIGTERM)))
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    with pool._signals():
        pool._start(pool.jobs[0])
        assert sent == [(4242, signal.SIGTERM)]
        signal.raise_signal(signal.SIGTERM)  # a second one is handed on as well
    assert sent == [(4242, signal.SIGTERM)] * 2


def test_a_folder_counts_as_the_run_of_its_own_seed_and_values_only():
    left_run(Path("here/s0"), seed=0, status="finished")
    left_run(Path("here/s1"), seed=0, status="finished")
    jobs = find_jobs([0, 1, 2], "digest", Path("runs"), Path("here"), None)
    for job in jobs:
        job.refresh()
    assert [job.result.get("status") for job in jobs] == ["finished", None, None] and [job.step for job in jobs] == [100, 0, 0]
    assert [job.is_over("digest", 100) for job in jobs] == [True, False, False]
    assert not jobs[0].is_over("another digest", 100) and not jobs[0].is_over("digest", 101)


def test_weights_to_start_from_make_other_runs(pool, capsys):
    _, folder = pool
    weights = by_seed(folder / "runs")[0] / "checkpoints" / "last.pt"
    words = (*TINY, "--steps", 60, "--seeds", 1, "--init-from", weights, "--runs-dir", "runs")
    ran = run(capsys, *words)
    assert ran.code == 0 and "1 of 1 runs to make" in ran.err, ran.err
    (made,) = by_seed(Path("runs")).values()
    assert read(made / "meta.json")["init_from"] == str(weights)
    assert "0 of 1 runs to make" in run(capsys, *words).err
    other = by_seed(folder / "runs")[1] / "checkpoints" / "last.pt"
    resolved = resolve(Schema("online", get_algorithm("sac").load_config(), "sac"), flags={"run.env": "Pendulum-v1", "run.steps": 600})
    digests = {values_digest(resolved, "sac", first) for first in (None, str(weights), str(other))}
    assert len(digests) == 3
