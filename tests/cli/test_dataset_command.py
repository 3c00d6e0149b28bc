"""``rlox dataset info`` and ``collect``."""

import json
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from cli_files import BROKEN_CHECKPOINTS, write_checkpoint, write_environments
from cli_run import refused, run, spawn

RANDOM = ("dataset", "collect", "--env", "Pendulum-v1", "--steps", "60", "-o")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("dataset") / "good.pt")


@pytest.fixture(scope="module")
def envs(tmp_path_factory):
    return write_environments(tmp_path_factory.mktemp("envs"))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def told(ran):
    return dict(line.split("\t", 1) for line in ran.out.split("\n\n")[0].splitlines())


def columns(path):
    with h5py.File(path) as file:
        return {key: file[key][()] for key in file if isinstance(file[key], h5py.Dataset)}, dict(file.attrs)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


# --- collect ---


def test_collecting_writes_a_file_that_can_be_opened_and_trained_on(capsys):
    from rlox import OfflineDatasetBuffer

    ran = run(capsys, *RANDOM, "a.h5")
    assert ran.code == 0 and ran.err == ""
    assert told(ran)["n_rows"] == "60" and told(ran)["policy"] == "random" and told(ran)["path"] == "a.h5"
    data = OfflineDatasetBuffer.open("a.h5")
    assert len(data) == 60 and data.sample(8, 0)["obs"].shape == (8, 3)
    assert os.listdir() == ["a.h5"]


def test_steps_and_episodes_are_exact(capsys):
    assert run(capsys, *RANDOM, "a.h5").code == 0
    assert len(columns("a.h5")[0]["rewards"]) == 60
    ran = run(capsys, "dataset", "collect", "--env", "Pendulum-v1", "--episodes", "3", "--n-envs", "2", "-o", "b.h5", "--json")
    assert ran.json["result"]["n_episodes"] == 3 and ran.json["result"]["n_rows"] == 600
    data = columns("b.h5")[0]
    returns = data["rewards"].reshape(3, 200).sum(1, dtype=np.float64)
    assert ran.json["result"]["return_mean"] == pytest.approx(returns.mean(), rel=1e-5)
    assert data["timeouts"].sum() == 3


def test_seed_decides_the_file_and_another_seed_gives_another(capsys):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert run(capsys, *RANDOM, f"{name}.h5", "--seed", seed).code == 0
    a, b, c = (columns(f"{name}.h5")[0] for name in "abc")
    assert same(a, b) and not same(a, c)


def test_a_checkpoint_acts_and_is_recorded(capsys, checkpoint):
    argv = ["dataset", "collect", "--policy", checkpoint, "--steps", "50"]
    for name, flags in (("a", ["--deterministic"]), ("b", ["--deterministic"]), ("c", ["--stochastic"]), ("d", [])):
        assert run(capsys, *argv, *flags, "-o", f"{name}.h5").code == 0
    (a, meta), (b, _), (c, _), (d, _) = (columns(f"{name}.h5") for name in "abcd")
    assert same(a, b) and not same(a, c) and same(c, d)
    from rlox.algorithm import load_algorithm

    expected = load_algorithm(checkpoint).predict(a["observations"])
    assert np.allclose(a["actions"], expected, atol=1e-6)
    assert "sac" in str(meta) and "Pendulum-v1" in str(meta)
    info = told(run(capsys, "dataset", "info", "a.h5"))
    digest = told(run(capsys, "checkpoint", "info", checkpoint))["digest"]
    assert info["attributes.policy_digest"] == digest and info["attributes.env_id"] == "Pendulum-v1"


def test_an_environment_of_the_users_own_and_its_arguments(capsys, envs):
    argv = ["dataset", "collect", "--env", f"{envs}:Good", "--episodes", "2"]
    assert run(capsys, *argv, "-o", "a.h5").code == 0
    assert run(capsys, *argv, "-o", "b.h5", "--env-kwarg", "scale=2.0").code == 0
    a, b = columns("a.h5")[0], columns("b.h5")[0]
    assert np.allclose(2 * a["rewards"], b["rewards"], rtol=1e-6)
    assert a["actions"][:, 1].min() >= 0 and a["actions"][:, 0].max() > 1  # its own bounds


def test_an_existing_file_is_kept_unless_forced(capsys):
    assert run(capsys, *RANDOM, "a.h5").code == 0
    before = Path("a.h5").read_bytes()
    refused(run(capsys, *RANDOM, "a.h5", "--seed", "1"), 6, "a.h5", "--force")
    assert Path("a.h5").read_bytes() == before
    assert run(capsys, *RANDOM, "a.h5", "--seed", "1", "--force").code == 0
    assert Path("a.h5").read_bytes() != before


@pytest.mark.parametrize(
    ("out", "word"),
    [
        ("folder", "directory"),
        ("file.txt/a.h5", "file.txt"),
        ("x" * 300 + ".h5", "too long"),
        ("a\0b.h5", "null"),
        ("loop/a.h5", "symbolic links"),
        ("/proc/nowhere/a.h5", "/proc/nowhere"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_collecting(capsys, monkeypatch, tmp_path, out, word):
    os.mkdir("folder")
    Path("file.txt").touch()
    os.symlink("loop", "loop")
    before = sorted(os.listdir())
    monkeypatch.setitem(sys.modules, "rlox.data.collect", None)  # importing it would fail
    refused(run(capsys, *RANDOM, out), 6, word)
    refused(run(capsys, *RANDOM, out, "--force"), 6, word)
    assert sorted(os.listdir()) == before


def test_a_folder_without_permission_is_refused(capsys, monkeypatch):
    os.mkdir("locked")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # a superuser may write everywhere
    refused(run(capsys, *RANDOM, "locked/a.h5"), 6, "locked/a.h5", "Permission denied")
    assert os.listdir("locked") == []


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ([], 2, ["--steps"]),
        (["--steps", "5", "--episodes", "1"], 2, ["both"]),
        (["--steps", "0"], 2, ["steps is 0"]),
        (["--steps", "1.5"], 2, ["1.5"]),
        (["--steps", "1e30"], 2, ["1e+30"]),
        (["--episodes", "-2"], 2, ["-2"]),
        (["--steps", "5", "--seed", "-1"], 2, ["seed is -1"]),
        (["--steps", "5", "--n-envs", "0"], 2, ["n_envs is 0"]),
        (["--steps", "5", "--env-kwarg", "x"], 2, ["'x'"]),
        (["--steps", "5", "--policy", "absent.pt"], 3, ["absent.pt"]),
        (["--steps", "5", "--env", "Pendulm-v1"], 3, ["Pendulm-v1", "Pendulum-v1"]),
        (["--steps", "5", "--env", "%:Unbounded"], 5, ["inf"]),
        (["--steps", "5", "--env", "%:Text"], 5, ["Text"]),
        (["--steps", "5", "--env", "%:Raises"], 7, ["the arm fell off"]),
        (["--steps", "9", "--env", "%:NotANumber"], 7, ["nan"]),
        (["--episodes", "1", "--env", "%:WrongShape"], 7, ["(3,)"]),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_bad_input_leaves_no_file(capsys, envs, flags, code, words):
    flags = [flag.replace("%", str(envs)) for flag in flags]
    flags = flags if "--env" in flags else [*flags, "--env", "Pendulum-v1"]
    refused(run(capsys, "dataset", "collect", *flags, "-o", "a.h5"), code, *words)
    assert os.listdir() == []


def test_a_random_policy_needs_an_environment(capsys):
    refused(run(capsys, "dataset", "collect", "--steps", "5", "-o", "a.h5"), 2, "--env")


@pytest.mark.parametrize("kind", ["text", "truncated", "pickle", "torch zip"])
def test_a_broken_policy_is_refused(capsys, checkpoint, tmp_path, kind):
    BROKEN_CHECKPOINTS[kind](tmp_path / "bad.pt", tmp_path / "canary", checkpoint)
    refused(run(capsys, "dataset", "collect", "--policy", "bad.pt", "--steps", "5", "-o", "a.h5"), 4, "bad.pt")
    assert os.listdir() == ["bad.pt"]


def test_a_policy_for_other_spaces_is_refused(capsys, checkpoint, envs):
    argv = ["dataset", "collect", "--policy", checkpoint, "--env", f"{envs}:Good", "--steps", "5", "-o", "a.h5"]
    refused(run(capsys, *argv), 5, "(3,)", "(2,)")
    assert os.listdir() == []


def test_an_interrupted_collection_leaves_nothing(capsys, monkeypatch):
    import rlox.data.collect as module

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_d4rl", interrupted)
    assert run(capsys, *RANDOM, "a.h5").code == 130
    assert os.listdir() == []


# --- info ---


def test_info_describes_the_file(capsys):
    run(capsys, *RANDOM, "a.h5")
    ran = run(capsys, "dataset", "info", "a.h5")
    about = told(ran)
    assert ran.code == 0 and about["format"] == "d4rl" and about["n_rows"] == "60" and about["problem"] == "-"
    assert about["storage"] == "ram" and int(about["memory_bytes"]) > 60 * 4 * 4
    rows = [line.split("\t") for line in ran.out.split("\n\n")[1].splitlines()]
    assert rows[0][:3] == ["key", "shape", "dtype"] and ["observations", "60, 3", "<f4"] in [row[:3] for row in rows]
    document = run(capsys, "dataset", "info", "a.h5", "--json").json
    assert document["schema"] == "rlox.dataset.info/1" and document["result"]["datasets"][0]["shape"]


def test_info_maps_names_that_are_given(capsys):
    with h5py.File("a.h5", "w") as file:
        file["states"] = np.zeros((4, 2), np.float32)
        file["actions"] = np.zeros((4, 1), np.float32)
        file["rewards"] = np.zeros(4, np.float32)
        file["terminals"] = np.array([0, 0, 0, 1], bool)
    ran = run(capsys, "dataset", "info", "a.h5")
    assert ran.code == 0 and told(ran)["problem"] != "-" and "warning: " in ran.err
    ran = run(capsys, "dataset", "info", "a.h5", "--keys", "obs=states")
    assert told(ran)["problem"] == "-" and told(ran)["n_rows"] == "4" and told(ran)["columns.obs"] == "states"
    refused(run(capsys, "dataset", "info", "a.h5", "--keys", "states"), 2, "'states'", "KEY=VALUE")


@pytest.mark.parametrize(
    ("content", "code"), [(None, 3), (b"", 4), (b"hello\n", 4), (b"\x89HDF\r\n\x1a\n" + bytes(500), 4), ("folder", 4)]
)
def test_files_that_are_no_dataset_are_refused(capsys, content, code):
    if content == "folder":
        os.mkdir("bad.h5")
    elif content is not None:
        Path("bad.h5").write_bytes(content)
    refused(run(capsys, "dataset", "info", "bad.h5"), code, "bad.h5")
    assert run(capsys, "dataset", "info", "bad.h5", "--json").json["exit_code"] == code


def test_links_out_of_the_file_are_refused(capsys):
    with h5py.File("a.h5", "w") as file:
        file["observations"] = h5py.ExternalLink("/etc/passwd", "/x")
    refused(run(capsys, "dataset", "info", "a.h5"), 4, "observations", "/etc/passwd")


def test_hostile_names_are_shown_escaped(capsys):
    with h5py.File("a.h5", "w") as file:
        file["[/x]\x1b[31m\n"] = np.zeros((4, 2), np.float32)
        file.attrs["note"] = "\x1b]0;t\x07"
    ran = run(capsys, "dataset", "info", "a.h5")
    assert "\x1b" not in ran.out + ran.err and "Traceback" not in ran.err and ran.code in (0, 4)
    assert "[/x]\\x1b[31m\\n" in ran.out + ran.err


# --- real processes ---


def test_real_processes_collect_and_describe(tmp_path):
    ran = spawn(*RANDOM, "a.h5", "--json", cwd=tmp_path)
    assert ran.code == 0 and ran.err == "" and json.loads(ran.out)["result"]["n_rows"] == 60
    ran = spawn("dataset", "info", "a.h5", cwd=tmp_path)
    assert ran.code == 0 and "n_rows\t60\n" in ran.out and ran.err == ""
    assert os.listdir(tmp_path) == ["a.h5"]
