"""``rlox runs`` list, show, compare and plot, on run directories made up and made by a training."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_run import refused, run, spawn, spawn_on_terminal
from run_folders import make_run, tree
from scipy import stats
from test_startup import HEAVY, imported_by

FAST, SLOW = [-160.0, -151.5, -149.0, -170.25, -155.0], [-190.0, -165.0, -158.5, -201.0, -170.0]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLOX_RUNS_DIR", raising=False)


@pytest.fixture
def ten(in_an_empty_folder):
    """Five runs each with two learning rates."""
    for rate, ends in ((0.001, FAST), (0.0003, SLOW)):
        for seed, end in enumerate(ends):
            path = tree() / f"20261120T10000{seed}Z-s{seed}-{'ab' if rate == 0.001 else 'cd'}{seed}{seed}"
            started = f"2026-11-2{seed}T1{int(rate < 0.001)}:00:00Z"
            make_run(path, [-1200.0, -600.0, -300.0, end], seed=seed, learning_rate=rate, started=started)
    return tree()


def rows(text):
    lines = [line.split("\t") for line in text.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


# --- list ---


def test_list_has_a_line_per_run_the_newest_first(capsys, ten):
    ran = run(capsys, "runs", "list")
    assert ran.code == 0 and ran.err == ""
    found = rows(ran.out)
    assert [(r["seed"], r["started"]) for r in found[:2]] == [("4", "2026-11-24T11:00:00Z"), ("4", "2026-11-24T10:00:00Z")]
    first = found[1]
    assert first["path"] == "runs/sac/Pendulum-v1/20261120T100004Z-s4-ab44"
    assert (first["algorithm"], first["env"], first["dataset"], first["status"]) == ("sac", "Pendulum-v1", "-", "finished")
    assert (first["step"], first["total"], first["last_return"], first["best_return"]) == ("20000", "20000", "-155.0", "-155.0")
    assert float(first["age_s"]) > 0


def test_list_shows_twenty_and_says_how_many_there_are(capsys):
    for i in range(23):
        make_run(f"runs/{i:02d}", [float(i)], started=f"2026-11-20T10:00:{i:02d}Z")
    ran = run(capsys, "runs", "list")
    assert len(rows(ran.out)) == 20 and rows(ran.out)[0]["path"] == "runs/22"
    assert "20 of 23 runs; `--limit 0` shows all" in ran.err
    assert len(rows(run(capsys, "runs", "list", "--limit", 0).out)) == 23
    assert [r["path"] for r in rows(run(capsys, "runs", "list", "--limit", 2).out)] == ["runs/22", "runs/21"]


def test_list_orders_by_what_is_asked_for(capsys):
    make_run("runs/b", {100: 5.0, 200: 1.0}, seed=2, total=1000, started="2026-11-20T10:00:00Z", status="interrupted")
    make_run("runs/a", {100: 3.0}, seed=10, total=1000, algorithm="td3", env="Ant-v5", started="2026-11-22T10:00:00Z")
    make_run("runs/c", {}, seed=1, total=1000, env="Walker2d-v5", started="2026-11-21T10:00:00Z", algorithm="cql")

    def order(key):
        return "".join(r["path"][-1] for r in rows(run(capsys, "runs", "list", "--sort", key).out))

    assert {key: order(key) for key in ("age", "path", "seed", "env", "algorithm", "status", "step", "last", "best")} == {
        "age": "acb", "path": "abc", "seed": "cba", "env": "abc", "algorithm": "cba", "status": "acb", "step": "bac",
        "last": "abc", "best": "bac",
    }  # fmt: skip


def test_list_filters(capsys):
    make_run("runs/a", meta={"tags": ["x", "y"]})
    make_run("runs/b", algorithm="sac_n", env="Ant-v5", status="failed", meta={"tags": ["x"]})
    make_run("runs/c", algorithm="cql", dataset=("data/ant.h5", "aa"), env="Ant-v5")

    def found(*argv):
        ran = run(capsys, "runs", "list", *argv)
        assert ran.code == 0
        return sorted(r["path"][-1] for r in rows(ran.out))

    assert found("--algo", "sac") == ["a"] and found("--algo", "sac-n") == ["b"]
    assert found("--env", "Ant-v5") == ["b", "c"] and found("--env", "ant") == ["c"] and found("--env", "data/ant.h5") == ["c"]
    assert found("--status", "failed") == ["b"] and found("--tag", "x") == ["a", "b"] and found("--tag", "x", "--tag", "y") == ["a"]
    assert found("--algo", "ppo") == []
    assert "no run in runs that fits" in run(capsys, "runs", "list", "--algo", "ppo").err


def test_a_run_that_says_running_and_has_no_process_is_interrupted(capsys):
    path = make_run("runs/a", {5000: -3.0}, status="running")
    assert rows(run(capsys, "runs", "list").out)[0]["status"] == "interrupted"
    with open(path / "run.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert rows(run(capsys, "runs", "list").out)[0]["status"] == "running"
        assert run(capsys, "runs", "show", path, "--json").json["result"]["held_by"] == "pid 1 since 2026-11-20T10:00:00Z"


def test_torn_and_foreign_folders_are_passed_over_with_a_warning(capsys, ten):
    (ten / "torn").mkdir()
    (ten / "torn" / "run.lock").touch()
    Path("runs/notes").mkdir()
    Path("runs/notes/x.txt").write_text("x")
    ran = run(capsys, "runs", "list", "--json")
    assert ran.code == 0 and len(ran.json["result"]["runs"]) == 10
    assert ran.json["warnings"] == [
        "skipped runs/notes: no run directory", f"skipped {ten}/torn: {ten}/torn/meta.json is missing",
    ]  # fmt: skip
    for i in range(5):
        Path(f"runs/notes{i}").mkdir()
        Path(f"runs/notes{i}/x").touch()
    ran = run(capsys, "runs", "list")
    assert ran.err.count("warning:") == 3 and "warning: and 5 more like these" in ran.err


def test_the_folder_comes_from_the_argument_the_variable_or_is_runs(capsys, monkeypatch, ten):
    make_run("a/one")
    make_run("b/two")
    monkeypatch.setenv("RLOX_RUNS_DIR", "a")
    assert [r["path"] for r in rows(run(capsys, "runs", "list").out)] == ["a/one"]
    assert [r["path"] for r in rows(run(capsys, "runs", "list", "b").out)] == ["b/two"]


def test_an_empty_folder_is_no_error(capsys):
    Path("runs").mkdir()
    ran = run(capsys, "runs", "list")
    assert ran.code == 0 and ran.err == "no run in runs\n" and len(ran.out.splitlines()) == 1
    assert run(capsys, "runs", "list", "--json").json["result"] == {"runs": []}


# --- show ---


def test_show_says_what_a_run_is_and_what_to_do_next(capsys, ten):
    path = ten / "20261120T100004Z-s4-ab44"
    meta = json.loads((path / "meta.json").read_text())
    meta["origins"] = {"algo.learning_rate": "flag --learning-rate"}
    (path / "meta.json").write_text(json.dumps(meta))
    ran = run(capsys, "runs", "show", path)
    assert ran.code == 0 and ran.err == ""
    assert f"path\t{path}\n" in ran.out and "status\tfinished\n" in ran.out and "best_return\t-155.0\n" in ran.out
    assert "algo.learning_rate\t0.001\tflag --learning-rate\n" in ran.out and "algo.gamma\t0.99\t-\n" in ran.out
    assert "eval/return_mean\ttrain/critic_loss" in ran.out
    assert f"next.plot\trlox runs plot {path}\n" in ran.out and "next.resume" not in ran.out


def test_show_latest_and_by_name(capsys, ten):
    newest = str(ten / "20261120T100004Z-s4-cd44")
    for name in ("latest", "s4-cd44", "20261120T100004Z-s4-cd44"):
        assert run(capsys, "runs", "show", name, "--json").json["result"]["path"] == newest
    os.rename("runs", "elsewhere")
    refused(run(capsys, "runs", "show", "latest"), 3, "no run in runs")
    assert run(capsys, "runs", "show", "latest", "--runs-dir", "elsewhere").code == 0


def test_show_has_as_many_rows_of_metrics_as_asked_for(capsys, ten):
    def shown(*argv):
        return run(capsys, "runs", "show", "latest", "--json", *argv).json["result"]["metrics"]

    assert [row["step"] for row in shown("--tail", 3)] == [15000, 20000, 20000]
    assert shown("--tail", 0) == [] and len(shown()) == 8


def test_show_names_the_commands_that_go_on(capsys):
    path = make_run("runs/a", [1.0], status="interrupted")
    (path / "checkpoints" / "last.pt").write_bytes(b"x")
    again = run(capsys, "runs", "show", path, "--json").json["result"]
    assert again["next"] == {
        "evaluate": "rlox eval runs/a/checkpoints/last.pt",
        "start again": "rlox train sac --config runs/a/config.toml",
        "plot": "rlox runs plot runs/a",
    }
    assert again["checkpoints"][0]["checkpoint"] == "last.pt" and "not an rlox checkpoint" in again["checkpoints"][0]["problem"]
    (path / "resume").mkdir()
    (path / "resume" / "manifest.json").write_text("{}")
    (path / "checkpoints" / "best.pt").write_bytes(b"x")
    assert run(capsys, "runs", "show", path, "--json").json["result"]["next"] == {
        "evaluate": "rlox eval runs/a/checkpoints/best.pt",
        "resume": "rlox train --resume runs/a",
        "plot": "rlox runs plot runs/a",
    }


def test_the_commands_name_again_what_is_the_users_own(capsys):
    own = {"id": None, "text": "my env.py:Walk", "kwargs": {"scale": 2.0}}
    argv = ["rlox", "offline", "a.py:Mine", "--import", "pkg", "--import=other"]
    path = make_run("runs/a b", [1.0], status="failed", dataset=("d.h5", "aa"), algorithm="a.py:Mine",
                    meta={"env": own, "argv": argv})  # fmt: skip
    (path / "checkpoints" / "best.pt").write_bytes(b"x")
    (path / "resume").mkdir()
    (path / "resume" / "manifest.json").write_text("{}")
    found = run(capsys, "runs", "show", path, "--json").json["result"]["next"]
    assert found["evaluate"] == (
        "rlox eval 'runs/a b/checkpoints/best.pt' --algo a.py:Mine --import pkg --import other --env 'my env.py:Walk' "
        "--env-kwarg scale=2.0"
    )
    assert found["resume"] == (
        "rlox offline a.py:Mine --resume 'runs/a b' --import pkg --import other --env 'my env.py:Walk'"
    )


def test_a_run_without_an_environment_asks_for_one_to_be_evaluated_in(capsys):
    path = make_run("runs/a", dataset=("d.h5", "aa"), env=None)
    (path / "checkpoints" / "last.pt").write_bytes(b"x")
    found = run(capsys, "runs", "show", path, "--json").json["result"]["next"]
    assert found["evaluate"] == "rlox eval runs/a/checkpoints/last.pt --env ID"


def test_what_a_run_holds_is_shown_without_its_control_characters(capsys):
    path = make_run("runs/a", activation="\x1b[31m", meta={"name": "x\x1b]0;y\x07"})
    for argv in (["show", path], ["list"], ["compare", path], ["plot", path]):
        assert "\x1b" not in run(capsys, "runs", *argv).out


# --- compare ---


def test_compare_agrees_with_scipy(capsys, ten):
    ran = run(capsys, "runs", "compare", ten, "--json")
    assert ran.code == 0 and ran.json["warnings"] == [] and ran.json["schema"] == "rlox.runs.compare/1"
    fast, slow = ran.json["result"]["groups"]
    assert [g["group"] for g in (fast, slow)] == ["learning_rate=0.001", "learning_rate=0.0003"]
    for group, scores in ((fast, FAST), (slow, SLOW)):
        theirs = stats.bootstrap((np.array(scores),), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
                                 n_resamples=20_000, method="percentile", rng=np.random.default_rng(0))  # fmt: skip
        assert (group["n"], group["mean"], group["median"]) == (5, pytest.approx(np.mean(scores)), np.median(scores))
        assert group["std"] == pytest.approx(np.std(scores, ddof=1))
        assert group["iqm"] == pytest.approx(stats.trim_mean(scores, 0.25))
        ends = theirs.confidence_interval
        assert (group["iqm_low"], group["iqm_high"]) == pytest.approx((ends.low, ends.high), abs=1.5)
    (pair,) = ran.json["result"]["pairs"]
    assert pair["probability"] == pytest.approx(stats.mannwhitneyu(FAST, SLOW).statistic / 25)
    assert pair["low"] < pair["probability"] < pair["high"]
    assert pair["difference"] == pytest.approx(fast["iqm"] - slow["iqm"])
    assert pair["difference_low"] < pair["difference"] < pair["difference_high"]
    assert len(ran.json["result"]["runs"]) == 10


def test_compare_gives_the_same_numbers_again(capsys, ten):
    assert run(capsys, "runs", "compare", ten).out == run(capsys, "runs", "compare", ten).out


def test_compare_is_tables_in_a_pipe_and_by_seed_adds_the_runs(capsys, ten):
    groups, pairs = run(capsys, "runs", "compare", ten).out.split("\n\n")
    assert [r["n"] for r in rows(groups)] == ["5", "5"] and rows(pairs)[0]["a"] == "learning_rate=0.001"
    *_, by_seed = run(capsys, "runs", "compare", ten, "--by-seed").out.split("\n\n")
    assert [(r["group"], r["seed"], r["score"]) for r in rows(by_seed)[4:6]] == [
        ("learning_rate=0.001", "4", "-155.0"), ("learning_rate=0.0003", "0", "-190.0"),
    ]  # fmt: skip


def test_a_smaller_level_gives_a_smaller_interval(capsys, ten):
    wide, narrow = (run(capsys, "runs", "compare", ten, "--json", "--ci", ci).json["result"] for ci in (0.95, 0.5))
    for name in ("groups", "pairs"):
        low, high = ("iqm_low", "iqm_high") if name == "groups" else ("low", "high")
        assert wide[name][0][high] - wide[name][0][low] > narrow[name][0][high] - narrow[name][0][low]


def test_unfinished_runs_and_nan_are_left_out_and_said(capsys):
    make_run("runs/a", [-5.0], seed=0)
    make_run("runs/b", [-6.0], seed=1)
    make_run("runs/c", {5000: -7.0}, seed=2, status="running")
    make_run("runs/d", [None], seed=3)
    make_run("runs/e", {}, seed=4)
    ran = run(capsys, "runs", "compare", "runs", "--json")
    assert ran.json["result"]["groups"][0]["n"] == 2
    assert ran.json["warnings"] == [
        "left out: runs/c was interrupted at step 5000 of 20000; `--unfinished` counts it",
        "left out: runs/d eval/return_mean is NaN or infinite at step 20000",
        "left out: runs/e has no eval/return_mean",
    ]
    assert [(r["seed"], r["score"], bool(r["left_out"])) for r in ran.json["result"]["runs"]] == [
        (0, -5.0, False), (1, -6.0, False), (2, None, True), (3, None, True), (4, None, True),
    ]  # fmt: skip
    assert run(capsys, "runs", "compare", "runs", "--json", "--unfinished").json["result"]["groups"][0]["n"] == 3


def test_a_group_that_has_nothing_left_is_still_shown(capsys):
    make_run("runs/a", [-5.0])
    make_run("runs/b", {5000: -7.0}, status="failed", gamma=0.5)
    ran = run(capsys, "runs", "compare", "runs", "--json")
    assert [(g["group"], g["n"], g.get("iqm")) for g in ran.json["result"]["groups"]] == [("gamma=0.99", 1, -5.0), ("gamma=0.5", 0, None)]
    assert ran.json["result"]["groups"][0]["iqm_low"] is None and ran.json["result"]["pairs"] == []


def test_a_run_that_stopped_early_counts_and_is_said(capsys):
    make_run("runs/a", {5000: -5.0}, more={"stopped_by": "max_time", "step": 5000})
    ran = run(capsys, "runs", "compare", "runs")
    assert "runs/a ended at step 5000 of 20000, stopped by max_time" in ran.err and rows(ran.out)[0]["n"] == "1"


def test_the_best_value_is_taken_on_request(capsys):
    make_run("runs/a", [-5.0, -1.0, -3.0])
    best, last = (run(capsys, "runs", "compare", "runs", "--json", *argv).json["result"]["groups"][0]["mean"]
                  for argv in (("--at", "best"), ()))  # fmt: skip
    assert (best, last) == (-1.0, -3.0)


def tasks():
    for i, (env, algorithm, end) in enumerate([
        ("Ant-v5", "sac", 3.0), ("Ant-v5", "sac", 5.0), ("Ant-v5", "td3", 4.0), ("Ant-v5", "td3", 2.0),
        ("Walker2d-v5", "sac", 30.0), ("Walker2d-v5", "td3", 20.0), ("Walker2d-v5", "td3", 10.0),
    ]):  # fmt: skip
        make_run(f"runs/{i}", [end], env=env, algorithm=algorithm, seed=i)


def test_improvement_is_averaged_over_tasks(capsys):
    tasks()
    found = run(capsys, "runs", "compare", "runs", "--json").json["result"]
    assert [(p["task"], p["probability"]) for p in found["pairs"]] == [("Ant-v5", 0.75), ("Walker2d-v5", 1.0), ("all", 0.875)]
    assert found["pairs"][2].get("difference") is None and len(found["groups"]) == 4


def test_tasks_are_pooled_on_request(capsys):
    tasks()
    found = run(capsys, "runs", "compare", "runs", "--json", "--pool").json["result"]
    assert [(g["group"], g["task"], g["n"], g["iqm"]) for g in found["groups"]] == [
        ("sac", "all", 3, pytest.approx(38 / 3)), ("td3", "all", 4, pytest.approx(7.0)),
    ]  # fmt: skip
    assert [p["probability"] for p in found["pairs"]] == [0.875]


def test_groups_with_other_tasks_are_not_paired_when_pooled(capsys):
    tasks()
    make_run("runs/8", [1.0], algorithm="ddpg", env="Ant-v5")
    ran = run(capsys, "runs", "compare", "runs", "--json", "--pool")
    assert [(p["a"], p["b"]) for p in ran.json["result"]["pairs"]] == [("sac", "td3")]
    assert any("sac and ddpg have different tasks" in w for w in ran.json["warnings"])


def test_groups_can_be_chosen(capsys, ten):
    make_run(ten / "x", [-1.0], seed=9, batch_size=7)
    assert len(run(capsys, "runs", "compare", ten, "--json").json["result"]["groups"]) == 3
    ran = run(capsys, "runs", "compare", ten, "--json", "--group-by", "learning_rate")
    assert [g["n"] for g in ran.json["result"]["groups"]] == [6, 5]
    assert any("its runs differ in batch_size" in w for w in ran.json["warnings"])


# --- plot ---


def test_plot_in_a_pipe_is_the_curve(capsys, ten):
    ran = run(capsys, "runs", "plot", ten)
    found = rows(ran.out)
    assert ran.code == 0 and ran.err == "" and len(found) == 8
    last = found[3]
    assert (last["group"], last["task"], last["step"], last["n"]) == ("learning_rate=0.001", "Pendulum-v1", "20000", "5")
    assert float(last["iqm"]) == pytest.approx(stats.trim_mean(FAST, 0.25))
    assert float(last["low"]) < float(last["iqm"]) < float(last["high"])


def test_every_option_of_plot_has_an_effect(capsys, ten):
    def curve(*argv):
        return run(capsys, "runs", "plot", ten, "--json", *argv).json["result"]["curves"][0]

    plain = curve()
    assert curve("--center", "mean")["mean"][-1] == pytest.approx(np.mean(FAST))
    assert curve("--smooth", 2)["iqm"][1] == pytest.approx(-900.0) and plain["iqm"][1] == -600.0
    assert curve("--x", "time")["x"] == [50.0, 100.0, 150.0, 200.0] and plain["x"] == [5000.0, 10000.0, 15000.0, 20000.0]
    assert curve("--y", "train/critic_loss")["iqm"] == [1.5] * 4
    narrow = curve("--ci", 0.3)
    assert narrow["high"][-1] - narrow["low"][-1] < plain["high"][-1] - plain["low"][-1]
    assert curve("--group-by", "algo.gamma")["n"] == [10] * 4


def test_unfinished_runs_are_drawn_as_far_as_they_go(capsys):
    make_run("runs/a", {5000: 1.0, 10000: 2.0})
    make_run("runs/b", {5000: 3.0}, seed=1, status="running")
    ran = run(capsys, "runs", "plot", "runs")
    assert "runs/b was interrupted at step 5000 of 20000: drawn as far as it goes" in ran.err
    assert [r["n"] for r in rows(ran.out)] == ["2", "1"] and rows(ran.out)[1]["low"] == "-"


def test_values_that_cannot_be_drawn_are_said(capsys):
    make_run("runs/a", {5000: 1.0, 10000: None})
    make_run("runs/b", {}, seed=1)
    ran = run(capsys, "runs", "plot", "runs")
    assert "runs/a: 1 values of eval/return_mean are NaN or infinite and left out" in ran.err
    assert "runs/b has no eval/return_mean" in ran.err and len(rows(ran.out)) == 1


@pytest.mark.parametrize("name", ["curves.png", "curves.svg"])
def test_plot_writes_a_picture_with_labels_and_a_legend(capsys, ten, name):
    pytest.importorskip("matplotlib")
    make_run("runs/other", [1.0], env="$x_1$-v0")
    ran = run(capsys, "runs", "plot", "runs", "-o", name)
    assert ran.code == 0 and ran.err == "" and dict(line.split("\t") for line in ran.out.splitlines())["path"] == name
    data = Path(name).read_bytes()
    if name.endswith("png"):
        assert data.startswith(b"\x89PNG") and len(data) > 10_000
    else:
        text = data.decode()
        for word in ("learning_rate=0.0003 (5 runs)", "environment steps", "eval/return_mean", "Pendulum-v1", "$x_1$-v0",
                     "95% interval"):  # fmt: skip
            assert word in text, word
        run(capsys, "runs", "plot", "runs", "-o", "again.svg")
        assert Path("again.svg").read_bytes() == data
    assert not [p for p in os.listdir() if p.endswith(".tmp")]


def test_a_picture_without_matplotlib_names_the_extra(capsys, monkeypatch, ten):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "rlox.cli._figure", raising=False)
    ran = run(capsys, "runs", "plot", ten, "-o", "x.png")
    refused(ran, 8, "matplotlib", "pip install 'rlox[plot]'")
    assert not Path("x.png").exists()
    monkeypatch.delitem(sys.modules, "rlox.cli._figure", raising=False)


def test_a_picture_that_cannot_be_written_is_exit_six(capsys, ten):
    pytest.importorskip("matplotlib")
    Path("file").write_text("x")
    refused(run(capsys, "runs", "plot", ten, "-o", "file/x.png"), 6, "file/x.png")


# --- what is refused ---


@pytest.mark.parametrize(
    "argv, code, words",
    [
        (["list", "nowhere"], 3, ["no folder nowhere", "RLOX_RUNS_DIR"]),
        (["list", "--status", "done"], 2, ["'done'", "interrupted"]),
        (["list", "--sort", "size"], 2, ["'size'", "best"]),
        (["list", "--limit", "-1"], 2, ["-1", "[0, inf)"]),
        (["show"], 2, ["RUN is missing"]),
        (["show", "nowhere"], 3, ["no run at nowhere", "rlox runs list"]),
        (["show", "foreign"], 3, ["foreign is no run directory"]),
        (["show", "torn"], 4, ["torn/meta.json is missing"]),
        (["show", "runs/a", "--tail", "x"], 2, ["'x'"]),
        (["compare"], 2, ["RUN is missing"]),
        (["compare", "runs/a", "nowhere"], 3, ["no run at nowhere"]),
        (["compare", "foreign"], 3, ["no run in foreign"]),
        (["compare", "torn"], 3, ["torn/meta.json is missing", "no run in torn"]),
        (["compare", "runs", "--metric", "return_mean"], 2, ["'return_mean'", "did you mean 'eval/return_mean'?"]),
        (["compare", "runs", "--ci", "1"], 2, ["ci is 1", "(0, 1)"]),
        (["compare", "runs", "--ci", "nan"], 2, ["nan"]),
        (["compare", "runs", "--at", "first"], 2, ["'first'", "last, best"]),
        (["compare", "runs", "--group-by", "gama"], 2, ["'gama'", "did you mean 'gamma'?"]),
        (["compare", "stopped"], 3, ["none of 1 runs can be compared", "--unfinished"]),
        (["plot"], 2, ["RUN is missing"]),
        (["plot", "nowhere"], 3, ["no run at nowhere"]),
        (["plot", "runs", "--y", "critic_loss"], 2, ["did you mean 'train/critic_loss'?"]),
        (["plot", "runs", "--smooth", "0"], 2, ["smooth is 0"]),
        (["plot", "runs", "--x", "days"], 2, ["'days'", "steps, time"]),
        (["plot", "runs", "--center", "max"], 2, ["'max'"]),
        (["plot", "runs", "-o", "x.pdf"], 2, ["'x.pdf'", ".png or .svg"]),
        (["plot", "clockless", "--x", "time"], 3, ["no run has a value of eval/return_mean", "--x steps"]),
        (["plto"], 2, ["unknown command 'plto'", "did you mean 'plot'?"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_bad_input_is_refused(capsys, argv, code, words):
    make_run("runs/a", [1.0])
    make_run("stopped/a", [1.0], status="interrupted")
    make_run("clockless/a", [1.0], train=False)
    Path("foreign").mkdir()
    Path("torn").mkdir()
    Path("torn/run.lock").touch()
    before = sorted(map(str, Path().rglob("*")))
    refused(run(capsys, "runs", *argv), code, *words)
    document = run(capsys, "runs", *argv, "--json").json
    assert document["ok"] is False and document["exit_code"] == code and document["schema"] == "rlox.error/1"
    assert sorted(map(str, Path().rglob("*"))) == before


# --- terminals, pipes, start-up, completion ---

TERMINAL = {
    "list": ["runs", "list"],
    "show": ["runs", "show", "latest"],
    "compare": ["runs", "compare", "runs", "--by-seed"],
    "plot": ["runs", "plot", "runs"],
}


@pytest.mark.parametrize("name", TERMINAL)
@pytest.mark.parametrize("columns", [0, 40, 80, 120])
def test_any_width_of_terminal_will_do(tmp_path, ten, name, columns):
    ran = spawn_on_terminal(*TERMINAL[name], cwd=tmp_path, COLUMNS=str(columns), NO_COLOR="1")
    assert ran.code == 0 and "Traceback" not in ran.out and "\x1b" not in ran.out
    if columns >= 60:
        assert max(len(line) for line in ran.out.splitlines() if set(line) & set("│├╭└┤")) <= columns
    if columns == 80 and name == "list":
        assert len([line for line in ran.out.splitlines() if "finished" in line]) == 10  # a line per run


def test_a_terminal_gets_tables_and_a_plot_with_letters(tmp_path, ten):
    ran = spawn_on_terminal("runs", "plot", "runs", cwd=tmp_path, COLUMNS="80", LANG="C.UTF-8", PYTHONUTF8="1")
    assert "░" in ran.out and "\x1b[38;5;32m" in ran.out and "IQM over runs, 95% bootstrap interval" in ran.out
    assert "learning_rate=0.0003  -17" in ran.out
    table = spawn_on_terminal("runs", "compare", "runs", cwd=tmp_path, COLUMNS="100", NO_COLOR="1", PYTHONUTF8="1").out
    assert "A > B" in table and "│ A │ learning_rate=0.001 " in table


@pytest.mark.parametrize("name", TERMINAL)
def test_an_ascii_terminal_gets_ascii(tmp_path, ten, name):
    ran = spawn_on_terminal(*TERMINAL[name], cwd=tmp_path, PYTHONIOENCODING="ascii", COLUMNS="80", NO_COLOR="1")
    assert ran.code == 0 and ran.out.isascii()
    dumb = spawn_on_terminal(*TERMINAL[name], cwd=tmp_path, TERM="dumb", COLUMNS="80", PYTHONUTF8="1")
    assert dumb.code == 0 and "\x1b" not in dumb.out


@pytest.mark.parametrize("name", TERMINAL)
def test_in_a_pipe_there_are_tabs_and_no_drawing(tmp_path, ten, name):
    ran = spawn(*TERMINAL[name], cwd=tmp_path, COLUMNS="20")
    assert ran.code == 0 and ran.err == "" and not set(ran.out) & set("│░…\x1b")
    assert all("\t" in line for line in ran.out.splitlines() if line)


@pytest.mark.parametrize("argv", [["runs", "--help"], ["runs", "list"], ["runs", "show", "latest"], ["runs", "plot", "--help"]], ids=" ".join)
def test_looking_at_runs_imports_nothing_heavy(ten, argv):
    assert not imported_by(argv) & (HEAVY | {"matplotlib", "rich"})


@pytest.mark.parametrize("argv", [["compare", "runs"], ["plot", "runs"]], ids=" ".join)
def test_comparing_and_plotting_import_numpy_alone(ten, argv):
    assert imported_by(["runs", *argv]) & (HEAVY | {"matplotlib", "scipy"}) == {"numpy"}


def completed(line, **extra):
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_RLOX_COMPLETE": "complete_bash"}
    return spawn(**words, **extra).out.splitlines()


def test_completion_offers_run_directories(ten, tmp_path):
    folder = {"cwd": tmp_path}
    assert completed("rlox runs show la", **folder) == ["latest"]
    found = completed("rlox runs compare runs/sac/Pendulum-v1/20261120T100002Z", **folder)
    assert found == [f"{ten}/20261120T100002Z-s2-ab22", f"{ten}/20261120T100002Z-s2-cd22"]
    assert len(completed("rlox runs plot runs/", **folder)) == 10
    assert completed("rlox runs list --status f", **folder) == ["finished", "failed"]
    assert not imported_by([], COMP_WORDS="rlox runs show r", COMP_CWORD="3", _RLOX_COMPLETE="complete_bash") & HEAVY


def test_a_run_made_by_a_training_is_read(capsys):
    from train_runs import train

    made = train(capsys, "--eval-freq", 80, env="Pendulum-v1")
    assert made.code == 0, made.err
    (listed,) = run(capsys, "runs", "list", "--json").json["result"]["runs"]
    assert (listed["algorithm"], listed["env"], listed["status"], listed["step"], listed["total"]) == ("sac", "Pendulum-v1", "finished", 160, 160)
    shown = run(capsys, "runs", "show", "latest", "--json").json["result"]
    origins = {row["key"]: row["origin"] for row in shown["config"]}
    assert (origins["run.steps"], origins["algo.tau"]) == ("flag --steps", "default")
    assert {row["checkpoint"]: (row["step"], row["problem"]) for row in shown["checkpoints"]}["last.pt"] == (160, None)
    assert run(capsys, *shown["next"]["evaluate"].split()[1:], "--episodes", 1).code == 0
    compared = run(capsys, "runs", "compare", "runs", "--json").json["result"]
    assert (compared["groups"][0]["n"], compared["groups"][0]["iqm"]) == (1, listed["last_return"])
    curve = run(capsys, "runs", "plot", "latest", "--x", "time", "--json").json["result"]["curves"][0]
    assert len(curve["x"]) == 2 and 0 < curve["x"][0] < curve["x"][1]
