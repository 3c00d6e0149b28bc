"""``rlox eval``: figures, flags, and every bad input that concerns it."""

import importlib.util
import json
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from cli_files import BROKEN_CHECKPOINTS, write_checkpoint, write_environments, write_nonfinite
from cli_run import environment, refused, run, spawn

SHORT = ("--episodes", "2", "--max-episode-steps", "20")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("eval") / "good.pt")


@pytest.fixture(scope="module")
def envs(tmp_path_factory):
    return write_environments(tmp_path_factory.mktemp("envs"))


@pytest.fixture(scope="module")
def own(envs):
    """A checkpoint of an environment of the user's own."""
    return write_checkpoint(envs.parent / "own.pt", f"{envs}:Good")


def result(capsys, *argv):
    ran = run(capsys, "eval", *argv, "--json")
    assert ran.code == 0, ran.err
    return ran.json["result"]


# --- what it reports ---


def test_one_checkpoint_is_a_record(capsys, good):
    ran = run(capsys, "eval", good, *SHORT)
    told = dict(line.split("\t") for line in ran.out.splitlines())
    assert ran.code == 0 and ran.err == ""
    assert told["checkpoint"] == str(good) and told["algorithm"] == "sac" and told["env"] == "Pendulum-v1"
    assert told["n_episodes"] == "2" and told["length_mean"] == "20.0" and told["seed"] == "0"
    low, mean, high = (float(told[k]) for k in ("return_low", "return_mean", "return_high"))
    assert low <= mean <= high and "bootstrap" in told["interval"]


def test_several_checkpoints_are_one_row_each(capsys, good, tmp_path):
    other = write_checkpoint(tmp_path / "other.pt", seed=1)
    ran = run(capsys, "eval", good, other, *SHORT)
    rows = [line.split("\t") for line in ran.out.splitlines()]
    assert [row[0] for row in rows] == ["checkpoint", str(good), str(other)]
    assert len({len(row) for row in rows}) == 1
    found = result(capsys, good, other, *SHORT)["checkpoints"]
    assert found[0]["return_mean"] != found[1]["return_mean"]
    assert found[0]["return_mean"] == result(capsys, good, *SHORT)["return_mean"]


def test_json_has_the_list_of_checkpoints_for_one_too(capsys, good):
    found = result(capsys, good, *SHORT)
    (row,) = found.pop("checkpoints")
    assert row == found and row["checkpoint"] == str(good)


def test_a_path_inside_the_working_folder_is_shown_from_there(capsys, good, monkeypatch):
    monkeypatch.chdir(good.parent.parent)
    inside = f"{good.parent.name}/{good.name}"
    assert f"checkpoint\t{inside}\n" in run(capsys, "eval", good, *SHORT).out
    table = run(capsys, "eval", good, good, *SHORT).out
    assert [line.split("\t")[0] for line in table.splitlines()] == ["checkpoint", inside, inside]


def test_links_are_resolved(capsys, good, tmp_path):
    (tmp_path / "checkpoints").symlink_to(good.parent)
    assert result(capsys, tmp_path / "checkpoints" / "good.pt", *SHORT)["checkpoint"] == str(good)


def test_the_return_is_that_of_the_policy_played_by_hand(capsys, good):
    from rlox.algorithm import load_algorithm
    from rlox.seeding import derive

    algo, env = load_algorithm(good), gym.make("Pendulum-v1")
    total = 0.0
    obs, _ = env.reset(seed=derive(5, "eval", 0))
    for _ in range(200):
        obs, reward, _, truncated, _ = env.step(algo.predict(obs))
        total += float(reward)
    assert truncated
    assert result(capsys, good, "--episodes", "1", "--seed", "5")["return_mean"] == pytest.approx(total, rel=1e-5)


# --- flags: each changes something ---


def test_seed_changes_the_episodes_and_nothing_else_does(capsys, good):
    first = result(capsys, good, *SHORT)
    assert result(capsys, good, *SHORT) == first
    assert result(capsys, good, *SHORT, "--seed", "1")["return_mean"] != first["return_mean"]
    assert result(capsys, good, *SHORT, "--n-envs", "2")["return_mean"] == pytest.approx(first["return_mean"], rel=1e-6)


def test_stochastic_samples_actions_repeatably(capsys, good):
    greedy, sampled = result(capsys, good, *SHORT), result(capsys, good, *SHORT, "--stochastic")
    assert greedy["return_mean"] != sampled["return_mean"] and sampled["deterministic"] is False
    assert result(capsys, good, *SHORT, "--stochastic") == sampled
    assert result(capsys, good, *SHORT, "--stochastic", "--deterministic") == greedy


def test_env_and_its_arguments_replace_the_recorded_ones(capsys, good, own, envs):
    plain = result(capsys, good, *SHORT)["return_mean"]
    assert result(capsys, good, *SHORT, "--env-kwarg", "g=2.0")["return_mean"] != plain
    once = result(capsys, own, "--env", f"{envs}:Good")
    assert once["env"] == f"{envs}:Good" and once["length_mean"] == 10
    scaled = result(capsys, own, "--env", f"{envs}:Good", "--env-kwarg", "scale=-3.0")
    assert scaled["return_mean"] == pytest.approx(-3 * once["return_mean"])


def test_recorded_arguments_of_the_users_environment_are_used_said_and_hinted(capsys, envs, tmp_path):
    def made(name, kwargs):
        recorded = {"id": None, "text": f"{envs}:Good", "kwargs": kwargs}
        return write_checkpoint(tmp_path / name, f"{envs}:Good", env=recorded)

    plain, doubled = made("plain.pt", {}), made("doubled.pt", {"scale": 2.0})
    refused(run(capsys, "eval", doubled), 5, f"--env {envs}:Good --env-kwarg scale=2.0`")
    once = result(capsys, plain, "--env", f"{envs}:Good")["return_mean"]
    ran = run(capsys, "eval", doubled, "--env", f"{envs}:Good", "--json")
    assert ran.json["result"]["return_mean"] == pytest.approx(2 * once)
    assert "was trained with scale=2.0, which is used" in ran.err
    typed = run(capsys, "eval", doubled, "--env", f"{envs}:Good", "--env-kwarg", "scale=3.0", "--json")
    assert typed.json["result"]["return_mean"] == pytest.approx(3 * once) and typed.err == ""
    other = run(capsys, "eval", doubled, "--env", f"{envs}:Endless", "--max-episode-steps", 3, "--json")
    assert other.code == 0 and other.err == ""


def test_a_recorded_argument_that_names_a_file_must_be_typed(capsys, envs, tmp_path):
    recorded = {"id": None, "text": f"{envs}:Good", "kwargs": {"scale": "/etc/passwd"}}
    path = write_checkpoint(tmp_path / "odd.pt", f"{envs}:Good", env=recorded)
    ran = run(capsys, "eval", path, "--env", f"{envs}:Good")
    assert ran.code == 0 and "'/etc/passwd'" in ran.err.replace('"', "'") and "not used" in ran.err


def test_min_return_is_a_gate_with_code_9(capsys, good):
    assert run(capsys, "eval", good, *SHORT, "--min-return", "-1e6").code == 0
    ran = run(capsys, "eval", good, *SHORT, "--min-return", "-1")
    refused(ran, 9, "-1", "return_mean")
    assert "return_mean\t-" in ran.out
    document = run(capsys, "eval", good, *SHORT, "--min-return", "-1", "--json").json
    assert document["error"]["kind"] == "check_failed" and document["result"]["return_mean"] < -1


def test_verbose_tells_each_episode(capsys, good):
    err = run(capsys, "eval", good, *SHORT, "-v").err
    assert "episode=1/2 return=-" in err and "episode=2/2" in err and "cpu" in err


def test_nonfinite_weights_need_a_flag(capsys, good, tmp_path):
    bad = write_nonfinite(tmp_path / "nan.pt", good)
    refused(run(capsys, "eval", bad, *SHORT), 4, "nan.pt", "NaN", "--allow-nonfinite")
    ran = run(capsys, "eval", bad, *SHORT, "--allow-nonfinite", "--json")
    assert "Traceback" not in ran.err and ran.json["exit_code"] in (0, 7)


def test_import_runs_a_package_that_registers_environments(capsys, tmp_path, monkeypatch, envs):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_registry.py").write_text(
        f"import gymnasium, runpy\nGood = runpy.run_path({str(envs)!r})['Good']\n"
        "gymnasium.register('CliEval/Good-v3', entry_point=Good)\n"
    )
    from rlox.user_code import import_module

    try:
        import_module("my_registry")
        path = write_checkpoint(tmp_path / "x.pt", "CliEval/Good-v3")
        del gym.registry["CliEval/Good-v3"], sys.modules["my_registry"]
        refused(run(capsys, "eval", path), 4, "CliEval/Good-v3", "--env")
        assert result(capsys, path, "--import", "my_registry")["env"] == "CliEval/Good-v3"
    finally:
        gym.registry.pop("CliEval/Good-v3", None)
        sys.modules.pop("my_registry", None)


def test_algo_names_a_class_of_the_users_own(capsys, good, tmp_path):
    source = tmp_path / "mine.py"
    source.write_text(
        "from rlox.algorithms.sac import SAC\n\nclass Mine(SAC):\n    name = ''\n\nclass Other:\n    pass\n"
    )
    path = write_checkpoint(tmp_path / "x.pt", algorithm=f"{source}:Mine")
    refused(run(capsys, "eval", path), 5, "Mine", f"--algo {source}:Mine")
    assert result(capsys, path, "--algo", f"{source}:Mine", *SHORT)["n_episodes"] == 2
    refused(run(capsys, "eval", path, "--algo", f"{source}:Other"), 2, "Other")
    refused(run(capsys, "eval", path, "--algo", f"{source}:Mind"), 3, "'Mind'", "'Mine'")
    refused(run(capsys, "eval", path, "--algo", "nowhere.py:Mine"), 3, "nowhere.py")
    refused(run(capsys, "eval", path, "--algo", "Mine"), 3, "'Mine'", "file.py:Class")
    source.write_text("1 / 0")
    sys.modules.pop(next(name for name in sys.modules if name.endswith("mine_py")))
    refused(run(capsys, "eval", path, "--algo", f"{source}:Mine"), 7, "ZeroDivisionError")


def test_video_needs_its_extra(capsys, good, tmp_path):
    if importlib.util.find_spec("imageio") is None:
        refused(run(capsys, "eval", good, *SHORT, "--video", tmp_path / "v"), 8, "rlox[video]")
        assert not (tmp_path / "v").exists()
    else:
        video = result(capsys, good, *SHORT, "--video", tmp_path / "v")["video"]
        assert video.endswith(".mp4") and (tmp_path / "v" / "1-good").is_dir()


# --- bad input ---


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--episodes", "0"], ["episodes is 0", "[1, inf)"]),
        (["--episodes", "1.5"], ["episodes is 1.5"]),
        (["--episodes", "1e30"], ["1e+30", "2**53"]),
        (["--episodes", "many"], ["'many'", "integer"]),
        (["--seed", "-1"], ["seed is -1", "4294967295"]),
        (["--seed", "4294967296"], ["4294967296"]),
        (["--seed", "x"], ["'x'"]),
        (["--n-envs", "0"], ["n_envs is 0"]),
        (["--max-episode-steps", "0"], ["max_episode_steps is 0"]),
        (["--min-return", "nan"], ["min_return", "nan"]),
        (["--env-kwarg", "g"], ["'g'", "KEY=VALUE"]),
        (["--env-kwarg", "g=1", "--env-kwarg", "g=2"], ["'g'", "twice"]),
        (["--device", "foo"], ["'foo'", "cuda:N"]),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_values_out_of_range_are_usage_errors(capsys, good, flags, words):
    refused(run(capsys, "eval", good, *flags), 2, *words)


def test_a_device_that_is_not_there_is_code_8(capsys, good):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA devices")
    refused(run(capsys, "eval", good, "--device", "cuda"), 8, "cuda", "cpu")


@pytest.mark.parametrize("kind", BROKEN_CHECKPOINTS)
def test_broken_and_hostile_files_are_refused_and_nothing_in_them_runs(capsys, good, tmp_path, kind):
    canary, path = tmp_path / "canary", tmp_path / "bad.pt"
    BROKEN_CHECKPOINTS[kind](path, canary, good)
    refused(run(capsys, "eval", path), 4, "bad.pt")
    assert not canary.exists()


def test_a_broken_file_among_sound_ones_is_found_before_anything_is_played(capsys, good, tmp_path):
    (tmp_path / "bad.pt").write_text("hello")
    ran = run(capsys, "eval", good, tmp_path / "bad.pt", "-v")
    refused(ran, 4, "bad.pt")
    assert "episode=" not in ran.err and ran.out == ""


def test_a_missing_best_names_the_last_beside_it(capsys, good, tmp_path):
    refused(run(capsys, "eval", tmp_path / "best.pt"), 3, "best.pt")
    (tmp_path / "last.pt").write_bytes(good.read_bytes())
    refused(run(capsys, "eval", tmp_path / "best.pt"), 3, f"hint: the run was not evaluated yet; use {tmp_path / 'last.pt'}")


@pytest.mark.parametrize(
    ("env", "code", "words"),
    [
        ("Pendulm-v1", 3, ["'Pendulm-v1'", "'Pendulum-v1'"]),
        ("Pendulum-v9", 3, ["Pendulum-v1"]),
        ("", 3, ["empty"]),
        ("no_such_module_zzz:Env-v0", 3, ["no_such_module_zzz"]),
        ("nofile.py:Env", 3, ["nofile.py"]),
        ("%:Goood", 3, ["'Goood'"]),
        ("%:not_an_env", 3, ["int"]),
        ("CartPole-v1", 5, ["CartPole-v1", "(4,)", "(2,)"]),
        ("%:Wider", 5, ["(7,)", "(2,)"]),
        ("%:Text", 5, ["Text"]),
        ("%:Unbounded", 5, ["inf"]),
        ("%:Raises", 7, ["the arm fell off", "3"]),
        ("%:NotANumber", 7, ["nan"]),
        ("%:WrongShape", 7, ["(3,)"]),
        ("%:OldStyle", 7, ["4"]),
        ("%:Endless", 7, ["--max-episode-steps"]),
    ],
)
def test_environments_that_do_not_work_are_refused(capsys, own, envs, monkeypatch, env, code, words):
    monkeypatch.setattr("rlox.evaluation.ENDLESS", 500)
    ran = run(capsys, "eval", own, "--env", env.replace("%", str(envs)), "--episodes", "1")
    refused(ran, code, *words)
    assert ran.out == ""


def test_an_endless_environment_is_cut_where_asked(capsys, own, envs):
    assert result(capsys, own, "--env", f"{envs}:Endless", *SHORT)["length_mean"] == 20


def test_a_module_that_raises_on_import_is_code_7(capsys, own, tmp_path):
    (tmp_path / "broken.py").write_text("raise KeyError('spring')")
    refused(run(capsys, "eval", own, "--env", f"{tmp_path / 'broken.py'}:Env"), 7, "KeyError", "spring")


def test_import_of_a_module_that_is_absent_or_raises(capsys, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raises_on_import.py").write_text("raise KeyError('spring')")
    refused(run(capsys, "eval", good, "--import", "no_such_module_zzz"), 3, "no_such_module_zzz")
    refused(run(capsys, "eval", good, "--import", "raises_on_import"), 7, "raises_on_import", "spring")
    refused(run(capsys, "eval", good, "--import", ""), 3, "module")


def test_an_environment_without_version_is_resolved_with_a_warning(capsys, good):
    ran = run(capsys, "eval", good, "--env", "Pendulum", *SHORT, "--json")
    assert ran.code == 0 and ran.json["result"]["env"] == "Pendulum-v1"
    assert any("Pendulum-v1" in text for text in ran.json["warnings"]) and ran.err.startswith("warning: ")


def test_a_package_that_is_absent_names_its_extra(capsys, good):
    if importlib.util.find_spec("mujoco") is not None:
        pytest.skip("mujoco is installed")
    refused(run(capsys, "eval", good, "--env", "HalfCheetah-v5"), 8, "rlox[mujoco]")


def test_an_argument_that_the_environment_does_not_take(capsys, good):
    refused(run(capsys, "eval", good, "--env-kwarg", "gravity=3"), 2, "gravity")


@pytest.mark.parametrize(
    "env",
    [{"id": "evil_module:X-v0"}, {"id": "os:system"}, {"id": 7}, {"id": "Nowhere-v0"}, {"id": "Pendulum-v1", "kwargs": {"g": [1]}},
     {"id": "Pendulum-v1", "kwargs": 3}, {"entry_point": "os:system"},
     {"id": "Pendulum-v1", "kwargs": {"env_id": "evil_module:X-v0"}}, {"id": "Pendulum-v1", "kwargs": {"xml_file": "/etc/passwd"}}],
    ids=str,
)  # fmt: skip
def test_environment_ids_in_a_file_are_data(capsys, tmp_path, monkeypatch, env):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_module.py").write_text("open('canary', 'w')")
    path = write_checkpoint(tmp_path / "x.pt", env=env)
    refused(run(capsys, "eval", path), 4, "--env")
    assert not (tmp_path / "canary").exists() and "evil_module" not in sys.modules


def test_an_environment_of_the_users_own_must_be_named_again(capsys, own, envs):
    refused(run(capsys, "eval", own), 5, f"{envs}:Good", f"rlox eval {own} --env {envs}:Good")


def test_a_checkpoint_without_environment_asks_for_one(capsys, tmp_path):
    path = write_checkpoint(tmp_path / "x.pt", env=None)
    refused(run(capsys, "eval", path), 5, "--env")
    assert result(capsys, path, "--env", "Pendulum-v1", *SHORT)["n_episodes"] == 2


def test_a_state_that_does_not_fit_its_config_is_refused(capsys, good, tmp_path):
    from rlox import checkpoint

    state, manifest = checkpoint.load(good)
    for change, word in (({"net_arch": [9]}, "9"), ({"gamma": 7}, "gamma"), ({"gama": 0.5}, "gama")):
        checkpoint.save(tmp_path / "x.pt", state, {**manifest, "config": {**manifest["config"], **change}})
        refused(run(capsys, "eval", tmp_path / "x.pt"), 4, word)
    del state["learner"]
    checkpoint.save(tmp_path / "x.pt", state, manifest)
    refused(run(capsys, "eval", tmp_path / "x.pt"), 4, "learner")


def test_an_unknown_algorithm_asks_for_its_class(capsys, tmp_path):
    path = write_checkpoint(tmp_path / "x.pt", algorithm="magic")
    refused(run(capsys, "eval", path), 5, "magic", "--algo")


def test_a_newer_format_is_code_5(capsys, good, tmp_path):
    from checkpoint_files import forge, pickled_dict, tensor_opcodes

    path = tmp_path / "x.pt"
    forge(path, pickled_dict(tensor_opcodes()), manifest={"format": 99, "algorithm": "sac"})
    refused(run(capsys, "eval", path), 5, "99")


def test_a_missing_extension_names_the_rebuild_command(capsys, good, monkeypatch):
    import builtins

    imported = builtins.__import__

    def no_extension(name, *args, **kwargs):
        if name.endswith("rows") or (args and len(args) > 2 and args[2] and "rows" in args[2]):
            raise ImportError("No module named rlox._ext.rows")
        return imported(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.startswith(("rlox._ext", "rlox.buffers", "rlox.online", "rlox.algorithms"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", no_extension)
    refused(run(capsys, "eval", good, *SHORT), 8, "pip install -e .")


# --- a real process ---


def test_a_real_process_evaluates(good, tmp_path):
    ran = spawn("eval", good, *SHORT, "--json", cwd=tmp_path)
    assert ran.code == 0 and ran.err == ""
    assert np.isfinite(json.loads(ran.out)["result"]["return_mean"])
    assert list(tmp_path.iterdir()) == []


def test_a_config_of_networks_that_the_file_does_not_hold_is_refused_before_they_are_made(capsys, tmp_path, monkeypatch):
    import torch

    def allocate(*args, **kwargs):
        raise AssertionError("a network was made")

    path = write_checkpoint(tmp_path / "wide.pt", config={"net_arch": [40_000, 40_000]})
    monkeypatch.setattr(torch.nn.Module, "__init__", allocate)
    refused(run(capsys, "eval", path), 4, "wide.pt", "its config describes networks of", "the file holds")


def test_a_file_whose_content_does_not_fit_is_named(capsys, good, tmp_path):
    path = write_checkpoint(tmp_path / "spaces.pt", spaces=None)
    refused(run(capsys, "eval", good, path), 4, str(path), "'spaces' in its manifest is missing")


def test_evaluating_works_where_the_working_directory_is_gone(good, tmp_path):
    code = "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); " + (
        "from rlox.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "eval", str(good), "--episodes", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "") and "return_mean" in done.stdout
