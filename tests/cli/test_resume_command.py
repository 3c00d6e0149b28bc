"""Going on with a run from the command line: what is continued, what is refused, and what is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_run import environment, refused, run
from run_digest import digest, rows
from train_runs import read

from rlox.runs.directory import Run

SAC = ("train", "sac", "--env", "Pendulum-v1", "--preset", "none", "--learning-starts", 50, "--net-arch", "[16]",
       "--batch-size", 16, "--buffer-size", 120, "--eval-episodes", 1, "--no-link")  # fmt: skip
OFTEN = ("--save-freq", 40, "--eval-freq", 60, "--log-interval", 20, "--no-tensorboard")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 200 steps that nobody disturbed."""
    from rlox.cli.main import main

    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main([str(a) for a in (*SAC, *OFTEN, "--steps", 200, "--run-dir", folder, "-q")]) == 0
    return folder


def digest_of(folder: Path) -> str:
    return digest(folder / "resume", folder / "metrics.jsonl", *sorted((folder / "checkpoints").glob("*.pt")))


def killed_at(step: int, folder: Path, *more: object) -> None:
    """Start a run whose process is killed, without any warning, once it has made ``step`` steps."""
    script = (
        "import os, signal, sys\n"
        "from rlox.callbacks.checkpoint import CheckpointCallback as C\n"
        "old = C.on_step\n"
        "def on_step(self, **kwargs):\n"
        f"    if kwargs['step'] >= {step}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return old(self, **kwargs)\n"
        "C.on_step = on_step\n"
        "from rlox.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [str(a) for a in (*SAC, *OFTEN, "--steps", 200, "--run-dir", folder, "-q", *more)]
    ended = subprocess.run([sys.executable, "-c", script, *words], env=environment(), capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def test_a_killed_run_ends_as_if_nothing_had_happened(whole, capsys, tmp_path):
    killed_at(130, tmp_path / "run")
    assert read(tmp_path / "run" / "status.json")["status"] == "running"
    (tmp_path / "run" / "checkpoints" / ".last.pt.1.0badcafe.tmp").write_bytes(b"torn")
    ran = run(capsys, "train", "--resume", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert digest_of(tmp_path / "run") == digest_of(whole)
    assert not list((tmp_path / "run").rglob(".*.tmp"))
    assert [len(read(tmp_path / "run" / "meta.json")["resumed"]), read(tmp_path / "run" / "status.json")["step"]] == [1, 200]


def test_a_run_killed_before_its_first_checkpoint_starts_over(whole, capsys, tmp_path):
    killed_at(30, tmp_path / "run")
    refused(run(capsys, "train", "--resume", tmp_path / "run"), 3, "nothing to resume")
    ran = run(capsys, *SAC, *OFTEN, "--steps", 200, "--run-dir", tmp_path / "run", "--resume", "auto")
    assert ran.code == 0, ran.err
    assert digest_of(tmp_path / "run") == digest_of(whole)


def test_auto_starts_goes_on_and_says_that_it_is_finished(whole, capsys, tmp_path):
    words = (*SAC, *OFTEN, "--run-dir", tmp_path / "run", "--resume", "auto", "--steps", 200)
    killed_at(100, tmp_path / "run", "--resume", "auto")
    assert run(capsys, *words).code == 0
    before = digest_of(tmp_path / "run")
    again = run(capsys, *words)
    assert again.code == 0 and "is finished at step 200" in again.err
    assert before == digest_of(tmp_path / "run") == digest_of(whole)


def test_more_steps_extend_a_finished_run(whole, capsys, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    ran = run(capsys, "train", "--resume", tmp_path / "run", "--steps", 230, "--json")
    assert ran.code == 0 and ran.json["result"]["step"] == 230
    steps = [row["step"] for row in rows(tmp_path / "run" / "metrics.jsonl") if row.get("kind") == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == 230
    assert 'steps = 230' in (tmp_path / "run" / "config.toml").read_text()


def test_latest_is_the_newest_run(whole, capsys, tmp_path):
    shutil.copytree(whole, tmp_path / "runs" / "sac" / "Pendulum-v1" / "a")
    ran = run(capsys, "train", "--resume", "latest")
    assert ran.code == 0 and "is finished" in ran.err
    refused(run(capsys, "offline", "--resume", "latest"), 3, "no offline run in runs")


def test_a_signal_makes_one_checkpoint_and_the_resume_is_exact(whole, capsys, tmp_path):
    words = [str(a) for a in (*SAC, *OFTEN, "--steps", 200, "--run-dir", tmp_path / "run")]
    script = (
        "import os, signal, sys\n"
        "from rlox.callbacks.checkpoint import CheckpointCallback as C\n"
        "old = C.on_step\n"
        "def on_step(self, **kwargs):\n"
        "    if kwargs['step'] == 93: os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    return old(self, **kwargs)\n"
        "C.on_step = on_step\n"
        "from rlox.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, *words], env=environment(), capture_output=True, text=True)
    assert ended.returncode == 143, ended.stderr
    assert "SIGUSR1: stopping after this step" in ended.stderr
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert "step_000000093.pt" in names
    assert run(capsys, "train", "sac", "--resume", tmp_path / "run").code == 0
    assert digest_of(tmp_path / "run") == digest_of(whole)


def test_other_values_are_refused_by_name_and_a_fork_takes_them(whole, capsys, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    ran = run(capsys, "train", "--resume", tmp_path / "run", "--gamma", 0.5, "--seed", 3)
    refused(ran, 5, "run.seed was 0, is 3", "algo.gamma was 0.99, is 0.5", "--fork")
    refused(run(capsys, *SAC, *OFTEN, "--steps", 200, "--tau", 0.5, "--run-dir", tmp_path / "run", "--resume", "auto"), 5,
            "algo.tau was 0.005, is 0.5")  # fmt: skip
    ran = run(capsys, "train", "--resume", tmp_path / "run", "--fork", "--gamma", 0.5, "--seed", 3, "--steps", 230,
              "--run-dir", tmp_path / "fork", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.json["result"]["step"] == 230
    assert read(tmp_path / "fork" / "meta.json")["forked_from"] == str(tmp_path / "run")
    train = [row for row in rows(tmp_path / "fork" / "metrics.jsonl") if row.get("kind") == "train"]
    assert train[0]["step"] > 200
    assert digest_of(tmp_path / "run") == digest_of(whole)  # left as it was


def test_another_network_does_not_fit_a_fork(whole, capsys, tmp_path):
    ran = run(capsys, "train", "--resume", whole, "--fork", "--net-arch", "[8]", "--run-dir", tmp_path / "fork", "--steps", 230)
    refused(ran, 5, "does not fit")
    assert not (tmp_path / "fork").exists()


def test_init_from_takes_the_weights_and_nothing_that_counts(whole, capsys, tmp_path):
    from rlox.checkpoint import load

    ran = run(capsys, *SAC, "--steps", 60, "--learning-starts", 59, "--eval-freq", 0, "--init-from",
              whole / "checkpoints" / "last.pt", "--run-dir", tmp_path / "run", "--no-tensorboard", "--json")  # fmt: skip
    assert ran.code == 0 and ran.json["result"]["step"] == 60
    old, _ = load(whole / "checkpoints" / "last.pt")
    new, manifest = load(tmp_path / "run" / "checkpoints" / "last.pt")
    assert manifest["n_updates"] == 1  # close to where it began
    for name, value in old["learner"]["actor"].items():
        assert (value - new["learner"]["actor"][name]).abs().max() < 1e-2
    ran = run(capsys, *SAC, "--steps", 60, "--init-from", whole / "nothing.pt", "--run-dir", tmp_path / "other")
    refused(ran, 3, "nothing.pt")
    assert not (tmp_path / "other").exists()


def test_without_the_buffer_going_on_is_said_not_to_be_exact(capsys, tmp_path):
    words = (*SAC, *OFTEN, "--run-dir", tmp_path / "run", "--no-save-buffer")
    assert run(capsys, *words, "--steps", 100).code == 0
    info = run(capsys, "checkpoint", "info", tmp_path / "run" / "checkpoints" / "last.pt", "--json").json["result"]
    assert info["exact_resume"] is False and "the replay buffer was not saved" in info["exact_resume_why"]
    assert not list((tmp_path / "run" / "resume").glob("*rows*"))
    ran = run(capsys, "train", "--resume", tmp_path / "run", "--steps", 170)
    assert ran.code == 0 and "exact_resume: no: the replay buffer was not saved" in ran.err


def test_the_checkpoint_of_a_run_says_that_it_can_be_gone_on_from_exactly(whole, capsys):
    info = run(capsys, "checkpoint", "info", whole / "checkpoints" / "last.pt", "--json").json["result"]
    assert info["exact_resume"] is True


def test_other_threads_are_said(whole, capsys, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    ran = run(capsys, "train", "--resume", tmp_path / "run", "--steps", 210, "--threads", 2)
    assert ran.code == 0 and "exact_resume: no: threads was 1, is 2" in ran.err


def test_a_damaged_newest_generation_falls_back_to_the_one_before(whole, capsys, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    newest = json.loads((tmp_path / "run" / "resume" / "manifest.json").read_text())
    parts = newest["parts"]
    name = next(p["file"] for p in (parts.values() if isinstance(parts, dict) else parts) if "state" in p["file"])
    target = tmp_path / "run" / "resume" / name
    target.write_bytes(target.read_bytes()[:-1] + b"x")
    (tmp_path / "run" / "status.json").unlink()
    ran = run(capsys, "train", "--resume", tmp_path / "run")
    assert ran.code == 0 and "warning:" in ran.err and name in ran.err
    assert digest_of(tmp_path / "run") == digest_of(whole)


def test_a_run_in_use_is_refused(whole, capsys, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    held = Run.reopen(tmp_path / "run")
    try:
        ran = run(capsys, "train", "--resume", tmp_path / "run", "--steps", 300)
        refused(ran, 6, f"locked by pid {os.getpid()}")
    finally:
        held.close()


def test_what_is_no_run_is_refused(capsys, tmp_path):
    refused(run(capsys, "train", "--resume", tmp_path / "none"), 3, "no run at")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    refused(run(capsys, *SAC, "--steps", 200, "--run-dir", tmp_path / "photos", "--resume", "auto"), 6, "is no run directory")
    refused(run(capsys, *SAC, "--resume", "auto"), 2, "--run-dir")
    refused(run(capsys, *SAC, "--fork"), 2, "--resume RUN")
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_an_existing_run_directory_is_refused_with_the_way_on(whole, capsys):
    refused(run(capsys, *SAC, "--steps", 200, "--run-dir", whole), 6, "exists already", "--resume auto")


def test_an_environment_of_the_users_own_is_asked_for_again(capsys, tmp_path):
    words = ["own_envs:Walk" if w == "Pendulum-v1" else w for w in SAC]
    assert run(capsys, *words, *OFTEN, "--steps", 80, "--run-dir", tmp_path / "run").code == 0
    refused(run(capsys, "train", "--resume", tmp_path / "run", "--steps", 120), 5, "own_envs:Walk", "named again")
    ran = run(capsys, "train", "--resume", tmp_path / "run", "--steps", 120, "--env", "own_envs:Walk")
    assert ran.code == 0, ran.err


def test_a_torn_last_line_of_the_metrics_is_cut(whole, capsys, tmp_path):
    killed_at(130, tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    assert run(capsys, "train", "--resume", tmp_path / "run").code == 0
    assert digest_of(tmp_path / "run") == digest_of(whole)


def test_a_replay_from_a_saved_state_is_the_same_twice(whole, capsys):
    ran = run(capsys, "checkpoint", "verify", whole / "checkpoints" / "last.pt", "--replay", 30, "--json")
    assert ran.code == 0, ran.err
    (row,) = ran.json["result"]["replays"]
    assert row["equal"] is True and row["steps"] == 30 and row["not_exact_because"] == ""


def test_a_replay_that_differs_is_a_check_that_said_no(capsys, tmp_path):
    (tmp_path / "moody.py").write_text(
        "import os, gymnasium as gym, numpy as np\n"
        "class Moody(gym.Env):\n"
        "    observation_space = gym.spaces.Box(0, 1, (3,)); action_space = gym.spaces.Box(-1, 1, (1,))\n"
        "    def _obs(self): return np.frombuffer(os.urandom(6), np.uint16).astype(np.float32) / 65536\n"
        "    def reset(self, *, seed=None, options=None): return self._obs(), {}\n"
        "    def step(self, action): return self._obs(), 0.0, False, False, {}\n"
    )
    words = ["moody.py:Moody" if w == "Pendulum-v1" else w for w in SAC]
    assert run(capsys, *words, "--steps", 60, "--eval-freq", 0, "--run-dir", tmp_path / "run", "--max-time", "1h",
               "--no-tensorboard", "--save-freq", 60).code in (0, 7)  # fmt: skip
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    refused(run(capsys, "checkpoint", "verify", last, "--replay", 5), 5, "moody.py:Moody", "named again")
    ran = run(capsys, "checkpoint", "verify", last, "--replay", 5, "--env", "moody.py:Moody")
    refused(ran, 9, "goes on differently twice", "buffer_rows")


def test_a_model_without_its_state_cannot_be_replayed_and_says_why(whole, capsys, tmp_path):
    shutil.copy(whole / "checkpoints" / "last.pt", tmp_path / "last.pt")
    refused(run(capsys, "checkpoint", "verify", tmp_path / "last.pt", "--replay", 5), 5, "no state to go on from")
    info = run(capsys, "checkpoint", "info", tmp_path / "last.pt", "--json").json["result"]
    assert info["exact_resume"] is False and "the rest of its state is not in" in info["exact_resume_why"][0]
    refused(run(capsys, "checkpoint", "verify", tmp_path / "last.pt", "--replay", 0), 2, "replay is 0")


def test_an_offline_run_is_replayed_from_its_dataset(capsys, tmp_path):
    from kill_runs import dataset

    path = dataset(tmp_path)
    assert run(capsys, "offline", "bc", "--dataset", path, "--preset", "none", "--steps", 40, "--net-arch", "[8]", "--env",
               "Pendulum-v1", "--eval-episodes", 1, "--run-dir", tmp_path / "run", "--no-tensorboard").code == 0  # fmt: skip
    assert run(capsys, "checkpoint", "verify", "checkpoints/last.pt", "--replay", 20).code == 0  # through the link
    info = run(capsys, "checkpoint", "info", "checkpoints/last.pt", "--json").json["result"]
    assert info["exact_resume"] is True
    path.unlink()
    refused(run(capsys, "checkpoint", "verify", "checkpoints/last.pt", "--replay", 20), 3, "data.h5")


def test_a_fork_with_nothing_left_to_do_is_refused(whole, capsys, tmp_path):
    ran = run(capsys, "train", "--resume", whole, "--fork", "--gamma", 0.5, "--run-dir", tmp_path / "fork")
    refused(ran, 2, "is at step 200 of 200", "--steps 400")
    assert not (tmp_path / "fork").exists()


@pytest.mark.parametrize("changed", [("--n-envs", 2), ("--buffer-size", 500)])
def test_a_fork_of_another_shape_is_refused_with_what_would_do(whole, capsys, tmp_path, changed):
    ran = run(capsys, "train", "--resume", whole, "--fork", *changed, "--run-dir", tmp_path / "fork", "--steps", 230)
    refused(ran, 5, "hint: a fork keeps networks, n_envs and buffer_size; `--init-from CKPT`")
    assert not (tmp_path / "fork").exists()


def test_a_fork_takes_another_dataset(capsys, tmp_path):
    for seed, name in enumerate(("data.h5", "other.h5")):
        assert run(capsys, "dataset", "collect", "--env", "Pendulum-v1", "--steps", 300, "--seed", seed, "-o", name).code == 0
    words = ("--preset", "none", "--net-arch", "[8]", "--run-dir", tmp_path / "run", "--no-tensorboard", "--no-link")
    assert run(capsys, "offline", "bc", "--dataset", "data.h5", *words, "--eval-freq", 0, "--steps", 20).code == 0
    on = ("offline", "--resume", tmp_path / "run", "--dataset", "other.h5", "--steps", 30)
    refused(run(capsys, *on), 5, "sha256", "--fork")
    ran = run(capsys, *on, "--fork", "--run-dir", tmp_path / "fork", "--json")
    assert ran.code == 0 and ran.json["result"]["step"] == 30
    assert read(tmp_path / "fork" / "meta.json")["dataset"]["path"] == "other.h5"


def test_auto_with_init_from_takes_the_weights_only_where_the_run_is_new(whole, capsys, tmp_path):
    first = whole / "checkpoints" / "last.pt"
    words = (*SAC, *OFTEN, "--steps", 60, "--run-dir", tmp_path / "run", "--resume", "auto")
    assert run(capsys, *words, "--init-from", first).code == 0
    made = digest_of(tmp_path / "run")
    assert "is finished at step 60" in run(capsys, *words, "--init-from", first).err
    refused(run(capsys, *words, "--init-from", tmp_path / "run" / "checkpoints" / "last.pt"), 5, f"other weights, of {first}")
    for name in ("resume", "checkpoints"):  # as if it had been killed before its first checkpoint
        shutil.rmtree(tmp_path / "run" / name)
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "status.json").unlink()
    refused(run(capsys, *words), 5, "other weights")
    ran = run(capsys, *words, "--init-from", first)
    assert ran.code == 0, ran.err
    assert digest_of(tmp_path / "run") == made


def test_only_what_would_work_is_named_as_the_next_command(whole, capsys, tmp_path):
    ran = run(capsys, *SAC, *OFTEN, "--steps", 100, "--run-dir", tmp_path / "run", "--stop-at", -1e6)
    assert ran.code == 0 and "evaluate it: " in ran.err and "--steps 200" not in ran.err
    ran = run(capsys, "offline", "cql", "--dataset", "data.h5", "--resume", whole)
    refused(ran, 5, f"`rlox train sac --resume {whole}`")
