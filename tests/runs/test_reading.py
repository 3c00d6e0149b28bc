"""What run directories say: found, opened, and passed over with a reason."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_folders import make_run, tree

from rlox.errors import ConfigError, NotFoundError, RunError
from rlox.runs.reading import (
    STATES,
    find_runs,
    finite,
    metric_names,
    open_run,
    pick_run,
    pick_runs,
    progress,
    run_folders,
    values_of,
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def lines(path):
    return (path / "metrics.jsonl").read_text().splitlines(keepends=True)


def test_a_run_says_what_it_is():
    path = make_run("runs/a", [-300.0, -150.0], seed=3, total=20000, meta={"tags": ["x", "y"]}, env_kwarg={"g": 9.8})
    run = open_run(path)
    assert (run.algorithm, run.kind, run.env, run.dataset, run.task) == ("sac", "online", "Pendulum-v1", None, "Pendulum-v1")
    assert (run.seed, run.tags, run.total, run.state, run.problems) == (3, ("x", "y"), 20000, "finished", ())
    assert run.config["algo.net_arch"] == [256, 256] and run.config["algo.env_kwarg.g"] == 9.8
    assert progress(run) == progress(run)
    assert vars(progress(run)) == {"step": 20000, "last": -150.0, "best": -150.0, "best_step": 20000}


def test_a_run_on_a_dataset_is_about_the_dataset():
    run = open_run(make_run("runs/a", dataset=("data/pendulum-expert.h5", "ab"), algorithm="cql"))
    assert (run.kind, run.task, run.dataset, run.env) == ("offline", "pendulum-expert", "data/pendulum-expert.h5", "Pendulum-v1")


@pytest.mark.parametrize("status", [s for s in STATES if s != "running"])
def test_what_ended_is_as_its_status_says(status):
    assert open_run(make_run("runs/a", status=status)).state == status


@pytest.mark.parametrize("status", ["running", None, "nonsense"])
def test_a_run_is_running_only_while_a_process_holds_it(status):
    path = make_run("runs/a", [1.0], status=status)
    assert open_run(path).state == "interrupted"
    with open(path / "run.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert open_run(path).state == "running"
    assert open_run(path).state == "interrupted"


def test_only_what_stopped_and_left_a_generation_can_be_resumed():
    path = make_run("runs/a", status="interrupted")
    assert not open_run(path).resumable
    (path / "resume").mkdir()
    (path / "resume" / "manifest.json").write_text("{}")
    assert open_run(path).resumable
    (path / "status.json").write_text('{"status": "finished"}')
    assert not open_run(path).resumable


def test_the_best_evaluation_is_not_the_last():
    run = open_run(make_run("runs/a", {5000: -300.0, 10000: -120.0, 15000: None, 20000: -150.0}))
    assert vars(progress(run)) == {"step": 20000, "last": -150.0, "best": -120.0, "best_step": 10000}


def test_the_step_is_the_newest_known():
    path = make_run("runs/a", {5000: -300.0}, more={"step": 7000})
    assert progress(open_run(path)).step == 7000
    (path / "status.json").write_text('{"status": "running", "step": 0}')
    assert progress(open_run(path)).step == 5000
    (path / "metrics.jsonl").unlink()
    assert vars(progress(open_run(path))) == {"step": 0, "last": None, "best": None, "best_step": None}


def test_values_of_a_metric_have_their_steps_and_none_for_what_is_not_finite():
    run = open_run(make_run("runs/a", {5000: None, 10000: -120.0}))
    assert values_of(run, "eval/return_mean") == [(5000, None), (10000, -120.0)]
    assert values_of(run, "nothing") == []
    assert metric_names(run) == ["eval/n_episodes", "eval/return_mean", "time/time_elapsed_s", "train/critic_loss"]


def test_a_torn_last_line_is_left_out_with_a_warning():
    path = make_run("runs/a", {5000: -300.0, 10000: -120.0}, train=False)
    whole = lines(path)
    (path / "metrics.jsonl").write_text("".join(whole[:-1]) + whole[-1][:20])
    with pytest.warns(RuntimeWarning, match="a torn last line"):
        assert values_of(open_run(path), "eval/return_mean") == [(5000, -300.0)]


@pytest.mark.parametrize("value", [True, "3", None, [1.0], float("nan"), float("inf"), -float("inf"), 10**400, -(10**400)])
def test_what_is_no_finite_number_is_none(value):
    assert finite(value) is None


def test_an_integer_is_a_number():
    assert finite(3) == 3.0 and isinstance(finite(3), float)


def test_a_missing_or_foreign_folder_is_not_found():
    Path("foreign").mkdir()
    Path("file").write_text("x")
    with pytest.raises(NotFoundError, match="no run at nowhere"):
        open_run("nowhere")
    with pytest.raises(NotFoundError, match="file is no folder"):
        open_run("file")
    with pytest.raises(NotFoundError, match="foreign is no run directory"):
        open_run("foreign")


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "meta.json is missing"),
        (b"{", "is not JSON"),
        (b"[]", "is no JSON object"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"{}", "says schema None, must be rlox.run/1"),
        (b'{"schema": "rlox.run/7"}', "says schema rlox.run/7"),
        (b" " * (5 * 2**20), "no plain file of at most"),
    ],
)
def test_a_damaged_run_is_said(content, said):
    path = make_run("runs/a")
    (path / "meta.json").unlink()
    if content is not None:
        (path / "meta.json").write_bytes(content)
    with pytest.raises(RunError, match=said):
        open_run(path)
    assert [why for _, why in find_runs("runs").skipped if said.split(",")[0] in why]


def test_a_run_with_a_damaged_status_or_config_is_kept_and_what_is_damaged_is_said():
    path = make_run("runs/a", [1.0])
    (path / "status.json").write_text("{")
    (path / "config.toml").write_text("= 3")
    run = open_run(path)
    assert (run.state, run.total, run.config) == ("interrupted", None, {})
    assert [problem.rpartition("/")[2] for problem in run.problems] == ["status.json is not JSON", "config.toml is not TOML"]


def test_nonsense_of_any_type_in_a_run_stops_nothing():
    path = make_run("runs/a", meta={"algorithm": 3, "env": [], "dataset": 7, "seed": "0", "tags": 3, "started": {}, "git": 1})
    run = open_run(path)
    assert (run.algorithm, run.env, run.dataset, run.task, run.seed, run.tags, run.started) == ("?", None, None, "?", None, (), None)
    (path / "config.toml").write_text('run = 3\n[algo]\n"a b" = 1979-05-27\n')
    assert "algo.a b" in open_run(path).config


def test_runs_are_found_at_any_depth_and_what_is_not_one_is_said():
    make_run(tree() / "b")
    make_run(tree() / "a")
    make_run("runs/job42")
    (Path("runs") / "torn").mkdir()
    (Path("runs") / "torn" / "run.lock").touch()
    (Path("runs") / "events").mkdir()
    (Path("runs") / "events" / "x").write_text("x")
    (Path("runs") / "empty").mkdir()
    (Path("runs") / ".hidden").mkdir()
    (Path("runs") / ".hidden" / "meta.json").write_text("x")
    os.symlink("job42", "runs/link")
    found = find_runs("runs")
    assert [str(run.path) for run in found.runs] == ["runs/job42", "runs/sac/Pendulum-v1/a", "runs/sac/Pendulum-v1/b"]
    assert [(str(path), why) for path, why in found.skipped] == [
        ("runs/events", "no run directory"),
        ("runs/torn", "runs/torn/meta.json is missing"),
    ]
    assert [str(path) for path in run_folders("runs")] == [
        "runs/job42", "runs/sac/Pendulum-v1/a", "runs/sac/Pendulum-v1/b", "runs/torn",
    ]  # fmt: skip


def test_a_loop_of_links_ends():
    make_run("runs/a")
    os.symlink("..", "runs/up")
    assert len(find_runs("runs").runs) == 1


def test_a_folder_that_is_not_there_is_not_found():
    with pytest.raises(NotFoundError, match="no folder runs"):
        find_runs("runs")


def test_a_run_is_picked_by_folder_name_label_or_latest():
    first = make_run(tree() / "20261120T100000Z-s0-ab12", started="2026-11-20T10:00:00Z")
    second = make_run(tree() / "20261119T100000Z-s0-cd34-big", started="2026-11-21T10:00:00Z")
    assert pick_run(str(first), "elsewhere").path == first
    assert pick_run("latest", "runs").path == second
    assert pick_run("20261120T100000Z-s0-ab12", "runs").path == first
    assert pick_run("s0-cd34-big", "runs").path == second
    with pytest.raises(NotFoundError, match="no run at s0-cd34"):
        pick_run("s0-cd34", "runs")
    with pytest.raises(NotFoundError, match="no run in elsewhere"):
        pick_run("latest", "elsewhere")


def test_a_label_that_fits_two_runs_is_refused():
    make_run("runs/x/job")
    make_run("runs/y/job")
    with pytest.raises(ConfigError, match="job fits 2 runs") as error:
        pick_run("job", "runs")
    assert error.value.suggestions == ("runs/x/job", "runs/y/job")


def test_many_runs_are_picked_once_each_from_folders_of_runs_and_runs():
    a, b = make_run(tree() / "a"), make_run(tree() / "b")
    torn = tree() / "torn"
    torn.mkdir()
    (torn / "run.lock").touch()
    Path("empty").mkdir()
    found = pick_runs([str(b), "runs", str(torn), "empty"], "runs")
    assert [run.path for run in found.runs] == [b, a]
    assert [why for _, why in found.skipped] == [f"{torn}/meta.json is missing"] * 2 + ["no run in it"]
    with pytest.raises(NotFoundError, match="no run at gone"):
        pick_runs([str(a), "gone"], "runs")


def test_looking_at_runs_imports_neither_numpy_nor_torch():
    make_run("runs/a", [1.0])
    code = (
        "import sys\nfrom rlox.runs.reading import find_runs, progress\n"
        "assert progress(find_runs('runs').runs[0]).last == 1.0\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'numpy', 'torch', 'gymnasium', 'h5py', 'rich'}))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout == "[]\n"


def test_the_rows_of_a_hostile_file_are_left_out():
    path = make_run("runs/a")
    rows = [{"kind": "checkpoint", "step": 1, "metrics": 5}, {"kind": "eval", "step": 2, "metrics": {"eval/return_mean": "x"}},
            {"kind": "eval", "step": 3, "metrics": {"eval/return_mean": 10**400}}]  # fmt: skip
    (path / "metrics.jsonl").write_text('{"schema":"rlox.metrics/1"}\n' + "".join(json.dumps(row) + "\n" for row in rows))
    run = open_run(path)
    assert (progress(run).last, values_of(run, "eval/return_mean")) == (None, [(2, None), (3, None)])
