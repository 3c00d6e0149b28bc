"""What ``rlox train`` refuses: one clear line, a hint, the exit code, and nothing written."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from cli_run import environment, refused, run, spawn
from train_runs import TINY, read, the_run, train


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLOX_RUNS_DIR", raising=False)


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["sacc"], 2, ["unknown algorithm 'sacc'", "did you mean 'sac'? known: sac"]),
        (["--env", "Pendulum-v1"], 2, ["no algorithm is named before '--env'", "name an algorithm: sac"]),
        (["zzz"], 2, ["unknown algorithm 'zzz'", "known: sac"]),
        (["cql"], 2, ["unknown algorithm 'cql'"]),
        (["sac"], 2, ["--env is missing", "rlox train sac --env Pendulum-v1"]),
        (["sac", "--evn", "Pendulum-v1"], 2, ["unknown option '--evn'", "did you mean '--env'?"]),
        (["sac", "--env", "Pendulm-v1"], 3, ["Pendulm-v1", "did you mean 'Pendulum-v1'?"]),
        (["sac", "--env", "Pendulum-v9"], 3, ["Pendulum-v9", "Pendulum-v1"]),
        (["sac", "--env", ""], 3, ["empty"]),
        (["sac", "--env", "no_such_module:Env-v0"], 3, ["no_such_module"]),
        (["sac", "--env", "gone.py:Env"], 3, ["gone.py"]),
        (["sac", "--env", "CartPole-v1"], 5, ["sac needs Box actions", "Discrete(2)"]),
        (["sac", "--env", "own_envs:Unbounded"], 5, ["inf"]),
        (["sac", "--env", "own_envs:Text"], 5, ["Text"]),
        (["sac", "--env", "Pendulum-v1", "--env-kwarg", "gravity=3"], 2, ["gravity"]),
        (["sac", "--env", "Pendulum-v1", "--env-kwarg", "g=nan"], 2, ["--env-kwarg g is nan", "`--env-kwarg 'g=\"nan\"'`"]),
        (["sac", "--env", "Pendulum-v1", "--eval-env-kwarg", "g=inf"], 2, ["--eval-env-kwarg g is inf"]),
        (["sac", "--env", "Pendulum-v1", "--set", "run.env_kwarg.g=nan"], 2, ["--env-kwarg g is nan"]),
        (["sac", "--env", "Pendulum-v1", "--env-kwarg", "g"], 2, ["--env-kwarg is 'g', must be KEY=VALUE"]),
        (["sac", "--env", "Pendulum-v1", "--gamma", "1.2"], 2, ["gamma is 1.2, must be in [0, 1]"]),
        (["sac", "--env", "Pendulum-v1", "--gamma", "-1"], 2, ["gamma is -1"]),
        (["sac", "--env", "Pendulum-v1", "--gamma", "nan"], 2, ["gamma is nan"]),
        (["sac", "--env", "Pendulum-v1", "--tau", "0"], 2, ["tau is 0, must be in (0, 1]"]),
        (["sac", "--env", "Pendulum-v1", "--learning-rate", "inf"], 2, ["learning_rate is inf"]),
        (["sac", "--env", "Pendulum-v1", "--steps", "1e30"], 2, ["steps is"]),
        (["sac", "--env", "Pendulum-v1", "--steps", "1.5"], 2, ["steps is 1.5", "integer"]),
        (["sac", "--env", "Pendulum-v1", "--n-envs", "0"], 2, ["n_envs is 0, must be in [1, 4096]"]),
        (["sac", "--env", "Pendulum-v1", "--eval-freq", "-1"], 2, ["eval_freq is -1"]),
        (["sac", "--env", "Pendulum-v1", "--batch-size", "512", "--buffer-size", "256"], 2, ["512", "256"]),
        (["sac", "--env", "Pendulum-v1", "--steps", "50"], 2, ["learning_starts is 100, must be below steps 50", "`--learning-starts 5`"]),
        (["sac", "--env", "Pendulum-v1", "--buffer-size", "1e14"], 2, ["needs", "free", "--buffer-size"]),
        (["sac", "--env", "Pendulum-v1", "--seed", "-1"], 2, ["seed is -1, must be in [0, 4294967295]"]),
        (["sac", "--env", "Pendulum-v1", "--seed", "4294967296"], 2, ["seed is 4294967296"]),
        (["sac", "--env", "Pendulum-v1", "--seed", "one"], 2, ["seed is 'one'"]),
        (["sac", "--env", "Pendulum-v1", "--set", "gama=1"], 2, ["unknown key 'gama'", "algo.gamma"]),
        (["sac", "--env", "Pendulum-v1", "--config", "gone.toml"], 3, ["gone.toml does not exist"]),
        (["sac", "--env", "Pendulum-v1", "--config", "."], 3, ["is a folder"]),
        (["sac", "--env", "Pendulum-v1", "--preset", "fast"], 2, ["preset is 'fast'"]),
        (["sac", "--env", "Pendulum-v1", "--device", "foo"], 2, ["device is 'foo'", "cuda:N"]),
        (["sac", "--env", "Pendulum-v1", "--device", "cuda:x"], 2, ["cuda:x"]),
        (["sac", "--env", "Pendulum-v1", "--threads", "0"], 2, ["threads is 0, must be in [1, 1024]"]),
        (["sac", "--env", "Pendulum-v1", "--max-time", "soon"], 2, ["max_time is 'soon'", "30m"]),
        (["sac", "--env", "Pendulum-v1", "--vec", "threads"], 2, ["vec is 'threads'", "sync, async"]),
        (["sac", "--env", "Pendulum-v1", "--import", "no_such_module"], 3, ["no module 'no_such_module'"]),
        (["sac", "--env", "Pendulum-v1", "--eval-env-kwarg", "gravity=3"], 2, ["gravity"]),
        (["sac", "--env", "\x1b[31m[/x]\n"], 3, ["\\x1b[31m[/x]"]),
    ],
    ids=lambda value: " ".join(value).encode("ascii", "replace").decode()[:60] if isinstance(value, list) else None,
)
@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry-run"])
def test_a_bad_input_is_refused_and_nothing_is_written(capsys, argv, code, words, dry):
    refused(run(capsys, "train", *argv, *(["--dry-run"] if dry and argv[0] == "sac" else [])), code, *words)
    assert os.listdir() == []


def test_a_missing_package_names_the_extra(capsys):
    pytest.importorskip("gymnasium")
    try:
        import mujoco  # noqa: F401
    except ImportError:
        refused(run(capsys, "train", "sac", "--env", "HalfCheetah-v5"), 8, "rlox[mujoco]")
        assert os.listdir() == []
    else:
        pytest.skip("mujoco is installed")


def test_usage_is_checked_before_existence(capsys):
    refused(run(capsys, "train", "sac", "--env", "Pendulm-v1", "--gamma", 2), 2, "gamma is 2")


def test_code_named_in_a_file_is_never_run(capsys):
    Path("evil.py").write_text("open('canary', 'w').close()\n")
    Path("evil.toml").write_text("[run]\nenv = 'evil.py:Env'\n")
    refused(run(capsys, "train", "sac", "--config", "evil.toml"), 2, "evil.toml:2", "--env evil.py:Env")
    typed = "g=__import__('os').system('touch canary')"
    ran = run(capsys, "train", "sac", "--env", "Pendulum-v1", "--env-kwarg", typed, "--dry-run", "--json")
    assert {"key": "run.env_kwarg.g", "value": typed.removeprefix("g="), "origin": "flag --env-kwarg"} in ran.json[
        "result"
    ]["rows"]
    assert not Path("canary").exists()


def test_an_import_that_raises_is_said_in_one_line(capsys):
    Path("broken_envs.py").write_text("raise ValueError('no [/red] display')\n")
    refused(train(capsys, "--import", "broken_envs"), 7, "broken_envs", "no [/red] display")
    refused(run(capsys, "train", "sac", "--env", "broken_envs:Env"), 7, "no [/red] display")


def test_an_environment_without_a_version_is_resolved_with_a_warning(capsys):
    ran = run(capsys, "train", "sac", "--env", "Pendulum", "--dry-run")
    assert ran.code == 0
    assert ran.err.count("'Pendulum' has no version, 'Pendulum-v1' is used") == 1
    assert "run.steps\t20000\tpreset sac/Pendulum-v1\n" in ran.out


def test_more_threads_than_cores_and_odd_variables_are_warnings(capsys, monkeypatch):
    ran = train(capsys, "--threads", 1000, "--dry-run")
    assert ran.code == 0
    assert "--threads 1000 is more than the" in ran.err
    monkeypatch.setenv("OMP_NUM_THREADS", "lots")
    ran = train(capsys, "--dry-run")
    assert ran.code == 0
    assert "OMP_NUM_THREADS is 'lots'" in ran.err


def test_one_thread_is_used_unless_more_are_asked_for(capsys):
    assert "threads: 1 " in train(capsys, "--net-arch", "[512]", "--dry-run").err
    assert "threads: 2 " in train(capsys, "--threads", 2, "--dry-run").err


def test_a_flag_that_a_set_contradicts_loses_with_a_warning(capsys):
    ran = train(capsys, "--gamma", 0.5, "--set", "gamma=0.25", "--dry-run")
    assert "warning: --set algo.gamma = 0.25 wins over --gamma 0.5" in ran.err
    assert "algo.gamma\t0.25\t--set\n" in ran.out


def test_what_cannot_be_written_is_refused_before_training(capsys):
    Path("file").write_text("")
    for argv in (["--runs-dir", "file"], ["--run-dir", "file"], ["--run-dir", "x" * 300], ["--run-dir", "a\0b"]):
        refused(train(capsys, *argv), 6)
    os.symlink("loop", "loop")
    refused(train(capsys, "--run-dir", "loop/run"), 6, "loop")
    assert sorted(os.listdir()) == ["file", "loop"]


def test_an_environment_that_raises_ends_the_run_with_its_traceback_kept(capsys):
    ran = train(capsys, env="own_envs:Failing")
    refused_tail = ran.err[ran.err.index("error:") :]
    assert ran.code == 7 and "the motor [/red] is hot" in refused_tail and "Traceback" not in ran.err
    path = the_run()
    assert "the motor [/red] is hot" in (path / "crash.log").read_text()
    assert f"the traceback is in {path}/crash.log" in refused_tail
    status = read(path / "status.json")
    assert (status["status"], status["exit_code"], status["reason"]) == ("failed", 7, "failed")
    assert status["algorithm"] == "sac" and 140 <= status["step"] < 160 and status["n_updates"] > 0
    assert "the motor [/red] is hot" in status["error"]


def test_a_reward_that_is_not_finite_ends_the_run(capsys):
    ran = train(capsys, env="own_envs:Endless")
    assert ran.code == 7 and "reward" in ran.err and "nan" in ran.err


def test_a_loss_that_diverges_ends_the_run_and_names_the_last_good_checkpoint(capsys):
    ran = train(capsys, "--set", "learning_rate=1e10", "--save-freq", 100, "--steps", 5000)
    assert ran.code == 7
    assert "loss" in ran.err and "last.pt" in ran.err and f"the traceback is in {the_run()}/crash.log" in ran.err
    assert "DivergedError" in (the_run() / "crash.log").read_text()
    status = read(the_run() / "status.json")
    assert (status["status"], status["reason"]) == ("diverged", "diverged") and status["error"].startswith("DivergedError: ")


def test_a_bug_is_exit_1_with_its_traceback_in_the_run(capsys, monkeypatch):
    from rlox.algorithms.sac import SAC

    def broken(self, n):
        raise RuntimeError("a bug")

    monkeypatch.setattr(SAC, "train", broken)
    ran = train(capsys)
    assert ran.code == 1 and "Traceback" not in ran.err
    assert "a bug" in (the_run() / "crash.log").read_text()
    assert read(the_run() / "status.json")["exit_code"] == 1


def test_a_constructor_that_fails_leaves_nothing(capsys, monkeypatch):
    from rlox.algorithms.sac import SAC
    from rlox.errors import ConfigError

    def refuse(self, *args, **kwargs):
        raise ConfigError("no")

    monkeypatch.setattr(SAC, "__init__", refuse)
    refused(train(capsys), 2, "no")
    assert list(Path().rglob("*.json")) == []


@pytest.mark.parametrize(("signal", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129), ("SIGUSR1", 143)])
def test_a_signal_ends_the_run_after_a_checkpoint(capsys, signal, code):
    ran = train(capsys, "--env-kwarg", f"signal={signal}", env="own_envs:Signalling")
    assert ran.code == code, ran.err
    assert "reason\tinterrupted\n" in ran.out and f"stopped_by\t{signal}\n" in ran.out
    status = read(the_run() / "status.json")
    assert (status["status"], status["exit_code"], status["step"]) == ("interrupted", code, 120)
    assert (the_run() / "checkpoints" / "last.pt").is_file()
    assert not (the_run() / "checkpoints" / "best.pt").exists()
    assert "rlox eval checkpoints/last.pt" in ran.err


def test_an_early_ctrl_c_says_that_nothing_is_kept(capsys, monkeypatch):
    from rlox.algorithms.sac import SAC

    def interrupted(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(SAC, "__init__", interrupted)
    ran = train(capsys)
    assert ran.code == 130 and ran.err.splitlines()[-1] == "stopped: no checkpoint written"
    assert not Path("runs").exists()


def test_quiet_says_nothing_but_the_result(capsys):
    ran = train(capsys, "-q")
    assert ran.code == 0 and ran.err == "" and "return_mean\t" in ran.out


def test_little_room_on_the_disk_is_a_warning(capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(total=1000, used=0, free=1000))
    ran = train(capsys)
    assert ran.code == 0 and "1.0 kB are free for checkpoints of" in ran.err


def test_a_file_that_may_not_grow_ends_the_run_with_what_was_saved_intact(tmp_path):
    argv = ["train", "sac", "--env", "Pendulum-v1", *map(str, TINY), "--net-arch", "[64]"]
    command = ["sh", "-c", 'ulimit -f 20; exec "$@"', "sh", sys.executable, "-m", "rlox", *argv]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 6, done.stderr
    assert "File too large" in done.stderr and "Traceback" not in done.stderr
    path = the_run(tmp_path / "runs")
    assert read(path / "status.json")["exit_code"] == 6
    assert list((path / "checkpoints").iterdir()) == []


def test_a_closed_stdout_leaves_a_finished_run_finished(capsys, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

        def fileno(self):
            raise OSError

    monkeypatch.setattr(sys, "stdout", Closed())
    from rlox.cli.main import main

    assert main(["train", "sac", "--env", "own_envs:Walk", *map(str, TINY)]) == 141
    assert read(the_run() / "status.json")["status"] == "finished"


def test_a_deleted_working_folder_and_no_home_do_not_matter(tmp_path):
    text = "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); from rlox.cli.main import main; sys.exit(main(sys.argv[2:]))"
    gone = tmp_path / "gone"
    gone.mkdir()
    env = {k: v for k, v in environment().items() if k != "HOME"}
    argv = ["train", "sac", "--env", "Pendulum-v1", *map(str, TINY), "--runs-dir", str(tmp_path / "far")]
    done = subprocess.run([sys.executable, "-c", text, str(gone), *argv], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"best\t{tmp_path}/far/sac/Pendulum-v1/" in done.stdout


def test_the_whole_command_in_a_process_of_its_own(tmp_path):
    ran = spawn("train", "sac", "--env", "Pendulum-v1", *TINY, cwd=tmp_path)
    assert ran.code == 0, ran.err
    keys = [line.split("\t")[0] for line in ran.out.splitlines()]
    assert keys == ["algorithm", "run", "reason", "step", "n_updates", "best", "best_step", "last", "evaluated", "return_mean",
                    "return_std", "n_episodes", "seconds"]  # fmt: skip
    first = ran.err.splitlines()[0]
    for word in ("run: runs/sac/Pendulum-v1/", "steps: 160", "device: cpu", "threads: 1", "preset: sac/Pendulum-v1", "memory: "):
        assert word in first
    assert ran.err.splitlines()[-1] == "evaluate it: rlox eval checkpoints/best.pt"
    evaluated = spawn("eval", "checkpoints/best.pt", "--episodes", 1, cwd=tmp_path)
    assert evaluated.code == 0, evaluated.err
