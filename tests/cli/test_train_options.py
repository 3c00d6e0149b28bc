"""Every option that ``rlox train sac --help`` shows changes something that can be seen."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path

import pytest
from cli_run import refused, run, spawn_on_terminal
from own_envs import Walk
from train_runs import parameters, read, rows, the_run, train

PARAMETERS = {  # flags after which the trained parameters differ
    "--env": "Pendulum-v1", "--env-kwarg": "goal=5.0", "--n-envs": 2, "--seed": 1, "--set": "gamma=0.5",
    "--learning-rate": 1e-2, "--gamma": 0.5, "--batch-size": 8, "--buffer-size": 50, "--learning-starts": 120,
    "--tau": 0.5, "--train-freq": 5, "--gradient-steps": 2, "--ent-coef": 0.5, "--target-entropy": -5, "--n-critics": 3,
    "--target-update-interval": 7, "--net-arch": "[8, 8]", "--activation": "tanh", "--layer-norm": None,
    "--dropout": 0.3, "--optimizer": "sgd", "--weight-decay": 0.5, "--normalize-obs": None,
}  # fmt: skip
# Flags with a test of their own, by the start of its name.
OWN_TESTS = {
    "--steps": "test_steps", "--max-time": "test_max_time", "--stop-at": "test_stop_at", "--patience": "test_patience",
    "--preset": "test_preset", "--config": "test_config", "--runs-dir": "test_runs_dir", "--run-dir": "test_run_dir",
    "--name": "test_name", "--tag": "test_name", "--import": "test_import", "--print-path": "test_print_path",
    "--dry-run": "test_dry_run", "--toml": "test_toml", "--eval-freq": "test_eval_freq",
    "--eval-episodes": "test_eval_episodes", "--n-eval-envs": "test_n_eval_envs", "--save-freq": "test_save_freq",
    "--eval-env-kwarg": "test_evaluation_options", "--deterministic": "test_evaluation_options",
    "--keep-last": "test_save_freq", "--link": "test_no_link", "--log-interval": "test_log_interval",
    "--tensorboard": "test_tensorboard", "--wandb": "test_wandb", "--wandb-project": "test_wandb",
    "--progress": "test_progress", "--video": "test_video", "--device": "test_device", "--threads": "test_threads",
    "--max-memory": "test_max_memory", "--vec": "test_vec", "--env-timeout": "test_env_timeout",
}  # fmt: skip
# Flags with a test in another file.
ELSEWHERE = {
    "--resume": "test_resume_command", "--fork": "test_resume_command", "--init-from": "test_resume_command",
    "--save-buffer": "test_resume_command", "--seeds": "test_seeds_command", "--jobs": "test_seeds_command",
}  # fmt: skip
COMMON = {"--help", "--json", "--quiet", "--verbose", "--debug", "--color"}  # tested with the command tree


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLOX_RUNS_DIR", raising=False)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The parameters after the tiny training, without any further option."""
    from train_runs import TINY

    from rlox.cli.main import main

    folder = tmp_path_factory.mktemp("plain")
    argv = ["train", "sac", "--env", "own_envs:Walk", *TINY, "--runs-dir", folder, "--no-link"]
    assert main([str(a) for a in argv]) == 0
    return parameters(the_run(folder) / "checkpoints" / "last.pt")


def last() -> str:
    return parameters(the_run() / "checkpoints" / "last.pt")


def test_every_option_in_the_help_has_a_test(capsys):
    shown = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", run(capsys, "train", "sac", "--help").out, re.MULTILINE)
    assert set(shown) | COMMON == set(PARAMETERS) | set(OWN_TESTS) | set(ELSEWHERE) | COMMON
    for flag, module in ELSEWHERE.items():
        assert flag.removeprefix("--") in (Path(__file__).parent / f"{module}.py").read_text(), flag
    for name in OWN_TESTS.values():
        assert any(test.startswith(name) for test in globals()), name


@pytest.mark.parametrize("flag", PARAMETERS)
def test_this_option_changes_the_trained_parameters(capsys, plain, flag):
    value = PARAMETERS[flag]
    ran = train(capsys, flag, *([] if value is None else [value]))
    assert ran.code == 0, ran.err
    assert last() != plain


def test_the_same_command_trains_the_same_parameters(capsys, plain):
    assert train(capsys).code == 0
    assert last() == plain


@pytest.mark.parametrize(
    ("alias", "flag"), [("-n", "run.steps"), ("--total-timesteps", "run.steps"), ("--n-timesteps", "run.steps"),
                        ("--num-envs", "run.n_envs"), ("--lr", "algo.learning_rate"),
                        ("--n-eval-episodes", "eval.eval_episodes")],
)  # fmt: skip
def test_a_second_spelling_means_the_same(capsys, alias, flag):
    shown = run(capsys, "train", "sac", "--env", "own_envs:Walk", alias, 777, "--dry-run", "--json").json["result"][
        "rows"
    ]
    assert next(float(r["value"]) for r in shown if r["key"] == flag) == 777


def test_steps_are_the_steps_made_and_the_last_of_a_repeated_flag_wins(capsys):
    result = train(capsys, "--steps", 130, "--steps", 140, "--json").json["result"]
    assert (result["step"], result["n_updates"]) == (140, 40)


def test_max_time_ends_the_run_as_a_normal_end(capsys):
    ran = train(capsys, "--max-time", "0.001s", "--json")
    assert ran.code == 0
    assert (ran.json["result"]["reason"], ran.json["result"]["stopped_by"]) == ("stopped", "max_time")
    assert ran.json["result"]["step"] < 160


def test_stop_at_ends_the_run_at_the_first_evaluation_that_reaches_it(capsys):
    ran = train(capsys, "--stop-at", -1000, "--eval-freq", 20, "--json")
    assert ran.code == 0
    assert (ran.json["result"]["stopped_by"], ran.json["result"]["step"]) == ("stop_at", 20)
    assert train(capsys, "--stop-at", 1000, "--eval-freq", 20, "--json").json["result"]["reason"] == "finished"


def test_patience_ends_the_run_after_evaluations_without_a_better_one(capsys):
    ran = train(capsys, "--patience", 2, "--eval-freq", 10, "--learning-rate", 1e-12, "--json")
    assert ran.code == 0
    assert (ran.json["result"]["stopped_by"], ran.json["result"]["step"]) == ("patience", 30)


def test_preset_none_turns_the_tuned_values_off(capsys):
    argv = ("train", "sac", "--env", "Pendulum-v1", "--dry-run", "--json")
    rows_of = {p: run(capsys, *argv, "--preset", p).json["result"]["rows"] for p in ("auto", "none", "smoke")}
    steps = {p: next(r for r in found if r["key"] == "run.steps") for p, found in rows_of.items()}
    assert steps["auto"] == {"key": "run.steps", "value": 20_000, "origin": "preset sac/Pendulum-v1"}
    assert steps["none"] == {"key": "run.steps", "value": 1_000_000, "origin": "default"}
    assert steps["smoke"] == {"key": "run.steps", "value": 600, "origin": "preset smoke"}


def test_config_files_give_values_below_flags(capsys):
    Path("a.toml").write_text("[run]\nenv = 'Pendulum-v1'\nsteps = 300\n[algo]\ngamma = 0.5\n")
    ran = run(capsys, "train", "sac", "--config", "a.toml", "--gamma", 0.25, "--dry-run")
    assert ran.code == 0, ran.err
    assert "run.steps\t300\tfile a.toml:3\n" in ran.out
    assert "algo.gamma\t0.25\tflag --gamma\n" in ran.out


def test_runs_dir_holds_the_run_and_the_flag_wins_over_the_variable(capsys, monkeypatch):
    monkeypatch.setenv("RLOX_RUNS_DIR", "elsewhere")
    assert train(capsys).code == 0
    assert the_run("elsewhere").parent == Path("elsewhere/sac/own_envs-Walk")
    assert train(capsys, "--runs-dir", "here").code == 0
    assert the_run("here").is_dir() and not Path("runs").exists()


def test_run_dir_is_the_exact_folder_and_must_be_new(capsys):
    assert train(capsys, "--run-dir", "a/b").code == 0
    before = sorted(Path("a/b").rglob("*"))
    refused(train(capsys, "--run-dir", "a/b"), 6, "a/b exists already", "--run-dir")
    assert sorted(Path("a/b").rglob("*")) == before


def test_name_and_tags_are_kept(capsys):
    assert train(capsys, "--name", "first try/[x]", "--tag", "a", "--tag", "b").code == 0
    path = the_run()
    assert path.name.endswith("-first-try--x-")
    assert read(path / "meta.json")["name"] == "first try/[x]"
    assert read(path / "meta.json")["tags"] == ["a", "b"]


def test_import_registers_environments_of_the_users_own(capsys, monkeypatch):
    Path("lonely_envs.py").write_text(
        "import gymnasium as gym\ngym.register('Lonely-v0', entry_point='own_envs:Walk')\n"
    )
    refused(train(capsys, env="Lonely-v0"), 3, "Lonely-v0")
    ran = train(capsys, "--import", "lonely_envs", env="Lonely-v0")
    assert ran.code == 0, ran.err
    assert "rlox eval checkpoints/best.pt --import lonely_envs" in ran.err


def test_print_path_writes_the_path_of_best_pt_alone(capsys):
    ran = train(capsys, "--print-path")
    assert ran.code == 0
    assert Path(ran.out.removesuffix("\n")) == the_run() / "checkpoints" / "best.pt"
    assert Path(ran.out.strip()).is_file()


def test_dry_run_writes_nothing_and_checks_everything(capsys):
    ran = train(capsys, "--dry-run")
    assert ran.code == 0
    assert "run.steps\t160\tflag --steps\n" in ran.out
    assert "memory: " in ran.err
    found = train(capsys, "--dry-run", "--json").json["result"]
    assert found["memory_bytes"] > 1000 * (2 + 1 + 1) * 4 and (found["device"], found["threads"]) == ("cpu", 1)
    refused(train(capsys, "--dry-run", env="own_envs:Discrete"), 5, "Discrete")
    assert list(Path().iterdir()) == []


def test_a_dry_run_shows_what_is_made_of_threads_and_of_the_environments_name(capsys):
    out = run(capsys, "train", "sac", "--env", "Pendulum", "--dry-run", "--threads", "1").out
    assert "run.env\tPendulum-v1\tflag --env\n" in out and "hardware.threads\t1\tflag --threads\n" in out
    ran = train(capsys, "--dry-run")
    assert "hardware.threads\t1\tdefault\n" in ran.out and "steps: 160" in ran.err


def test_a_summary_says_what_was_evaluated(capsys):
    ran = train(capsys, "--eval-episodes", 2)
    assert "evaluated\tbest.pt, 2 fresh episodes\nreturn_mean\t" in ran.out
    found = train(capsys, "--json").json["result"]
    assert found["evaluated"] == "best.pt, 1 fresh episode" and "return_mean" in found


def test_toml_of_a_dry_run_is_a_config_of_the_same_run(capsys):
    first = train(capsys, "--gamma", 0.5, "--dry-run", "--toml")
    Path("same.toml").write_text(first.out)
    again = run(capsys, "train", "sac", "--config", "same.toml", "--env", "own_envs:Walk", "--dry-run", "--toml")
    assert again.out == first.out
    refused(train(capsys, "--toml"), 2, "--toml needs --dry-run")


def test_eval_freq_sets_when_it_evaluates_and_changes_no_parameter(capsys, plain):
    assert train(capsys, "--eval-freq", 60).code == 0
    assert [r["step"] for r in rows(the_run(), "eval")] == [60, 120, 160]
    assert last() == plain


def test_eval_episodes_are_the_episodes_of_each_evaluation(capsys):
    assert train(capsys, "--eval-episodes", 3, "--json").json["result"]["n_episodes"] == 3


def test_n_eval_envs_evaluate_together_with_the_same_result(capsys):
    returns = []
    for n in (1, 3):
        Walk.made.clear()
        returns.append(train(capsys, "--eval-episodes", 3, "--n-eval-envs", n, "--json").json["result"]["return_mean"])
        made = len(Walk.made)
    assert returns[0] == returns[1]
    assert made >= 1 + 3 + 3  # training, the final evaluation, best.pt again


@pytest.mark.parametrize("option", [("--eval-env-kwarg", "goal=9.0"), ("--stochastic",)])
def test_evaluation_options_change_the_evaluation_and_nothing_else(capsys, plain, option):
    before = train(capsys, "--json").json["result"]["return_mean"]
    assert train(capsys, *option, "--json").json["result"]["return_mean"] != before
    assert last() == plain


def test_save_freq_and_keep_last_set_what_is_kept(capsys):
    assert train(capsys, "--save-freq", 40).code == 0
    saved = sorted(p.name for p in (the_run() / "checkpoints").iterdir())
    assert saved == ["best.pt", "last.pt", "step_000000080.pt", "step_000000120.pt", "step_000000160.pt"]
    assert train(capsys, "--save-freq", 40, "--keep-last", 1).code == 0
    assert sorted(p.name for p in (the_run() / "checkpoints").iterdir()) == ["best.pt", "last.pt", "step_000000160.pt"]


def test_no_link_leaves_the_working_folder_alone(capsys):
    assert train(capsys, "--no-link").code == 0
    assert sorted(p.name for p in Path().iterdir()) == ["runs"]
    assert train(capsys, "--link").code == 0
    assert Path("checkpoints").resolve() == (the_run() / "checkpoints").resolve()


def test_log_interval_sets_when_it_logs(capsys):
    ran = train(capsys, "--log-interval", 40)
    assert re.findall(r"^step=(\d+)/160 ", ran.err, re.MULTILINE) == ["40", "80", "120", "160"]


def test_tensorboard_writes_events_unless_it_is_off(capsys):
    assert train(capsys, "--tensorboard").code == 0
    assert len(list(the_run().glob("events.out.tfevents*"))) == 1
    assert train(capsys, "--no-tensorboard").code == 0
    assert list(the_run().glob("events.out.tfevents*")) == []


def test_wandb_starts_a_run_in_the_project(capsys, monkeypatch):
    seen = []
    fake = types.SimpleNamespace(
        init=lambda **kwargs: (
            seen.append(kwargs) or types.SimpleNamespace(id="1", log=lambda *a, **k: None, finish=lambda: None)
        )
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert train(capsys, "--wandb", "--wandb-project", "mine").code == 0
    assert [s["project"] for s in seen] == ["mine"]


def test_wandb_that_is_missing_is_said_before_anything_is_written(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    for more in ([], ["--dry-run"]):
        refused(train(capsys, "--wandb", *more), 8, "rlox[wandb]")
        assert not Path("runs").exists()
    assert list(Path().rglob("status.json")) == []


def test_progress_is_lines_or_a_panel_as_asked(capsys, tmp_path):
    argv = ("train", "sac", "--env", "Pendulum-v1", "--preset", "smoke", "--steps", 150, "--log-interval", 50)
    on_terminal = spawn_on_terminal(*argv, "--no-progress", cwd=tmp_path)
    assert on_terminal.code == 0
    assert "step=50/150" in on_terminal.out and "╭" not in on_terminal.out
    piped = train(capsys, "--progress")
    assert piped.code == 0
    assert "step=50/160" not in piped.err and "╭" in piped.err


def test_video_needs_its_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio", None)
    for more in ([], ["--dry-run"]):
        refused(train(capsys, "--video", 1, *more, env="Pendulum-v1"), 8, "rlox[video]")
        assert not Path("runs").exists()
    assert list(Path().rglob("status.json")) == []


def test_device_that_is_not_there_is_refused(capsys):
    ran = train(capsys, "--device", "cuda:99")
    refused(ran, 8, "cuda:99", "cpu")
    assert train(capsys, "--device", "cpu").code == 0
    assert read(the_run() / "meta.json")["device"] == "cpu"


def test_threads_are_recorded_and_given_back(capsys):
    import torch

    before = torch.get_num_threads()
    assert train(capsys, "--threads", 2, "--steps", 105).code == 0
    assert read(the_run() / "meta.json")["threads"] == 2
    assert torch.get_num_threads() == before


def test_max_memory_is_checked_before_anything_is_allocated(capsys):
    refused(train(capsys, "--max-memory", "1kB"), 2, "buffer_size 1000 needs", "--max-memory is 1kB")
    assert list(Path().iterdir()) == []


def test_vec_async_trains_the_same_in_processes_of_its_own(capsys):
    trained = {}
    for vec in ("sync", "async"):
        Walk.made.clear()
        assert train(capsys, "--vec", vec, "--n-envs", 2).code == 0
        trained[vec] = (last(), len(Walk.made))
    assert trained["sync"][0] == trained["async"][0]
    assert trained["sync"][1] == trained["async"][1] + 2  # the two of training were made elsewhere


def test_env_timeout_ends_a_run_whose_environment_hangs(capsys):
    ran = train(capsys, "--vec", "async", "--env-timeout", 0.5, env="own_envs:Hanging")
    refused(ran, 7, "0.5")
    assert read(the_run() / "status.json")["status"] == "failed"


def test_json_is_one_document_with_the_same_figures(capsys):
    ran = train(capsys, "--json")
    document = json.loads(ran.out)
    assert (document["schema"], document["ok"], document["exit_code"]) == ("rlox.train/1", True, 0)
    assert document["result"]["best"] == "checkpoints/best.pt"
    assert document["result"]["step"] == 160
