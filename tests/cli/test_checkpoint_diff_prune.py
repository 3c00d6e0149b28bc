"""``rlox checkpoint diff`` and ``prune``."""

import fcntl
import json
import os
import sys

import pytest
from cli_files import BROKEN_CHECKPOINTS, write_checkpoint
from cli_run import refused, run, spawn, spawn_on_terminal
from test_startup import HEAVY, imported_by


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("diff") / "good.pt")


@pytest.fixture(scope="module")
def other(good):
    return write_checkpoint(good.parent / "other.pt", seed=1)


@pytest.fixture
def folder(tmp_path):
    """A run directory with five checkpoints."""
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (tmp_path / "run" / "run.lock").write_text("77 2026-01-01T00:00:00Z\n")
    for name in ("best", "last", *(f"step_{step:09d}" for step in range(100, 600, 100))):
        (checkpoints / f"{name}.pt").write_bytes(bytes(1000))
    return tmp_path / "run"


def names(folder):
    return sorted(path.stem for path in (folder / "checkpoints").iterdir())


ALL = ["best", "last", *(f"step_{step:09d}" for step in range(100, 600, 100))]
PRUNED = ["best", "last", *(f"step_{step:09d}" for step in (300, 400, 500))]


# --- diff ---


def test_a_copy_is_equal(capsys, good, tmp_path):
    (tmp_path / "copy.pt").write_bytes(good.read_bytes())
    ran = run(capsys, "checkpoint", "diff", good, tmp_path / "copy.pt")
    assert (ran.code, ran.err) == (0, "")
    assert "equal\tyes\n" in ran.out and "learner" not in ran.out


def test_another_seed_differs_in_its_seed_and_its_tensors(capsys, good, other):
    ran = run(capsys, "checkpoint", "diff", good, other)
    refused(ran, 9, f"{good} and {other} differ: 1 config key, ", " tensors")
    assert "equal\tno\n" in ran.out and "config\tseed\t0\t1\n" in ran.out
    rows = [line.split("\t") for line in ran.out.split("\n\n")[-1].splitlines()]
    assert rows[0] == ["name", "a", "b", "max_difference", "n_different"]
    row = next(row for row in rows if row[0].startswith("learner.actor") and row[0].endswith("weight"))
    assert row[1] == row[2] and row[1].startswith("float32 (8") and 0 < float(row[3]) < 2 and int(row[4]) > 0


def test_config_and_counters_are_named(capsys, good, tmp_path):
    from rlox import checkpoint

    state, manifest = checkpoint.load(good)
    manifest = {**manifest, "config": {**manifest["config"], "gamma": 0.5}}
    checkpoint.save(tmp_path / "x.pt", {**state, "n_updates": 7}, manifest)
    ran = run(capsys, "checkpoint", "diff", good, tmp_path / "x.pt")
    refused(ran, 9, "differ: 1 config key, 1 counter\n")
    assert "config\tconfig.gamma\t0.99\t0.5\n" in ran.out and "counter\tn_updates\t0\t7\n" in ran.out


def test_tolerances_make_near_ones_equal(capsys, good, tmp_path):
    from rlox import checkpoint

    state, manifest = checkpoint.load(good)
    state["learner"]["temperature"]["log_ent_coef"] += 0.5
    checkpoint.save(tmp_path / "x.pt", state, manifest)
    argv = ("checkpoint", "diff", good, tmp_path / "x.pt")
    assert run(capsys, *argv).code == run(capsys, *argv, "--atol", "0.4").code == run(capsys, *argv, "--rtol", "0.9").code == 9
    ran = run(capsys, *argv, "--atol", "0.6")
    assert ran.code == 0 and "learner.temperature.log_ent_coef\tfloat32 ()\tfloat32 ()\t0.5\t0\n" in ran.out
    assert run(capsys, *argv, "--rtol", "1").code == 0


def test_diff_as_json_says_the_same_whether_equal_or_not(capsys, good, other):
    document = run(capsys, "checkpoint", "diff", good, good, "--json").json
    assert document["schema"] == "rlox.checkpoint.diff/1" and document["ok"]
    assert document["result"]["equal"] is True and document["result"]["tensors"] == document["result"]["values"] == []
    document = run(capsys, "checkpoint", "diff", good, other, "--json").json
    assert document["exit_code"] == 9 and document["error"]["kind"] == "check_failed"
    assert document["result"]["values"] == [{"what": "config", "key": "seed", "a": 0, "b": 1}]
    assert document["result"]["tensors"][0]["max_difference"] > 0


@pytest.mark.parametrize("kind", ["text", "truncated", "flipped", "pickle", "torch zip", "huge tensor"])
def test_diff_refuses_broken_files_on_either_side(capsys, good, tmp_path, kind):
    BROKEN_CHECKPOINTS[kind](tmp_path / "bad.pt", tmp_path / "canary", good)
    for argv in ((good, tmp_path / "bad.pt"), (tmp_path / "bad.pt", good)):
        refused(run(capsys, "checkpoint", "diff", *argv), 4, "bad.pt")
    assert not (tmp_path / "canary").exists()
    refused(run(capsys, "checkpoint", "diff", good, tmp_path / "absent.pt"), 3, "absent.pt")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--atol", "-1"], ["atol is -1", "[0, inf)"]),
        (["--rtol", "nan"], ["rtol is nan"]),
        (["--atol", "x"], ["atol is 'x'"]),
        (["third.pt"], ["third.pt"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_diff_checks_its_flags_before_its_files(capsys, flags, words):
    refused(run(capsys, "checkpoint", "diff", "a.pt", "b.pt", *flags), 2, *words)


def test_diff_shows_hostile_text_escaped(capsys, good, tmp_path):
    path = write_checkpoint(tmp_path / "x.pt", algorithm="[red]\x1b[31mX\n", config={"[/x]\x1b": "\u202e"})
    ran = run(capsys, "checkpoint", "diff", good, path)
    assert ran.code == 9 and "\x1b" not in ran.out + ran.err and "\u202e" not in ran.out
    assert "[red]\\x1b[31mX\\n" in ran.out


# --- prune ---


def test_prune_keeps_the_newest_best_and_last(capsys, folder):
    ran = run(capsys, "checkpoint", "prune", folder, "--yes")
    assert (ran.code, ran.err) == (0, "") and names(folder) == PRUNED
    assert "n_deleted\t2\n" in ran.out and "n_kept\t3\n" in ran.out and "bytes\t2000\n" in ran.out
    assert "step_000000100.pt\t100\t1000\tdeleted\n" in ran.out and "step_000000500.pt\t500\t1000\tkept\n" in ran.out


def test_keep_last_and_keep_every_choose(capsys, folder):
    assert run(capsys, "checkpoint", "prune", folder, "--yes", "--keep-last", 1, "--keep-every", 200).code == 0
    assert names(folder) == ["best", "last", "step_000000200", "step_000000400", "step_000000500"]


def test_a_dry_run_deletes_nothing_and_needs_no_yes(capsys, folder):
    for more in ([], ["--yes"]):
        ran = run(capsys, "checkpoint", "prune", folder, "--dry-run", *more)
        assert ran.code == 0 and "step_000000100.pt\t100\t1000\twould be deleted\n" in ran.out and "n_deleted\t0\n" in ran.out
    assert names(folder) == ALL


def test_without_yes_and_without_a_terminal_it_is_refused_with_the_command(capsys, folder, monkeypatch):
    for stdin in (open(os.devnull), None):
        monkeypatch.setattr(sys, "stdin", stdin)
        ran = run(capsys, "checkpoint", "prune", folder, "--keep-last", "1")
        refused(ran, 2, "deleting 4 checkpoints of ", "needs --yes", f"`rlox checkpoint prune {folder} --keep-last 1 --yes`")
        if stdin is not None:
            stdin.close()
    assert names(folder) == ALL


def test_nothing_to_delete_asks_nothing(capsys, folder):
    ran = run(capsys, "checkpoint", "prune", folder, "--keep-last", "5")
    assert ran.code == 0 and "n_deleted\t0\n" in ran.out


@pytest.mark.parametrize(("typed", "left"), [(b"y\n", PRUNED), (b"YES\n", PRUNED), (b"n\n", ALL), (b"\n", ALL), (b"\x04", ALL)])
def test_a_terminal_is_asked(folder, typed, left):
    ran = spawn_on_terminal("checkpoint", "prune", "run", cwd=folder.parent, typed=typed)
    assert ran.code == 0 and "delete 2 checkpoints of run (2.0 kB)? [y/N] " in ran.out
    assert names(folder) == left


def test_prune_as_json_lists_every_file(capsys, folder):
    document = run(capsys, "checkpoint", "prune", folder, "--yes", "--json").json
    assert document["schema"] == "rlox.checkpoint.prune/1" and document["result"]["n_deleted"] == 2
    assert [f["what"] for f in document["result"]["files"]] == ["deleted", "deleted", "kept", "kept", "kept"]


def test_a_run_in_use_is_refused_and_kept(capsys, folder):
    with open(folder / "run.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for more in (["--yes"], ["--dry-run"], []):
            refused(run(capsys, "checkpoint", "prune", folder, *more), 6, "is locked by pid 77 since 2026-01-01")
    assert names(folder) == ALL


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["absent"], 3, ["absent does not exist"]),
        (["file"], 3, ["file is a file, not a run directory"]),
        (["empty"], 3, ["empty has no checkpoints"]),
        (["a\0b"], 3, ["a\\x00b"]),
        (["run", "--keep-last", "-1"], 2, ["keep_last is -1, must be in [0, inf)"]),
        (["run", "--keep-every", "0"], 2, ["keep_every is 0"]),
        (["run", "--keep-last", "1.5"], 2, ["keep_last is 1.5"]),
        ([], 2, ["RUN is missing"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_of_prune_is_refused_and_deletes_nothing(capsys, folder, monkeypatch, argv, code, words):
    monkeypatch.chdir(folder.parent)
    os.mkdir("empty")
    open("file", "w").close()
    refused(run(capsys, "checkpoint", "prune", *argv, "--yes"), code, *words)
    assert names(folder) == ALL


def test_prune_imports_nothing_heavy(folder):
    assert not imported_by(["checkpoint", "prune", str(folder), "--dry-run"]) & HEAVY
    assert not imported_by(["checkpoint", "diff", "--help"]) & HEAVY


def test_real_processes_compare_and_prune(good, other, folder):
    ran = spawn("checkpoint", "diff", good, other, "--json")
    assert (ran.code, ran.err.startswith("error: ")) == (9, True) and json.loads(ran.out)["result"]["equal"] is False
    assert spawn("checkpoint", "prune", "run", "--yes", cwd=folder.parent).code == 0 and names(folder) == PRUNED


def test_a_pruned_run_goes_on_as_it_would_have(capsys, tmp_path, monkeypatch):
    from train_runs import TINY, parameters, the_run, train

    monkeypatch.chdir(tmp_path)
    found = []
    for prune in (False, True):
        assert train(capsys, "--save-freq", 30, "--no-link", "--runs-dir", f"runs{prune:d}").code == 0
        folder = the_run(f"runs{prune:d}")
        assert len(names(folder)) == 5
        if prune:
            assert run(capsys, "checkpoint", "prune", folder, "--keep-last", 0, "--yes").code == 0
            assert names(folder) == ["best", "last"]
        ran = run(capsys, "train", "sac", "--resume", folder, "--env", "own_envs:Walk", "--steps", 200)
        assert ran.code == 0, ran.err
        found.append(parameters(folder / "checkpoints" / "last.pt"))
    assert found[0] == found[1] and TINY[1] == 160
