"""``rlox offline``: registered algorithms, classes of the user's, and what is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from cli_run import refused, run, spawn
from train_runs import OFFLINE, parameters, read, rows, the_run

BC = {
    "--seed": 1, "--batch-size": 8, "--learning-rate": 1e-2, "--net-arch": "[8, 8]", "--activation": "tanh",
    "--layer-norm": None, "--dropout": 0.3, "--optimizer": "sgd", "--weight-decay": 0.5, "--normalize-obs": None,
    "--keys": "obs=next_observations",
}  # fmt: skip
CQL = {
    "--actor-learning-rate": 1e-2, "--gamma": 0.5, "--tau": 0.5, "--cql-alpha": 0.5, "--n-actions": 3, "--ent-coef": 0.5,
    "--target-entropy": -5, "--n-critics": 3,
}  # fmt: skip
OWN_TESTS = {
    "--dataset": "test_dataset", "--env": "test_env_", "--env-kwarg": "test_env_kwarg", "--steps": "test_steps",
    "--action-low": "test_action_bounds", "--action-high": "test_action_bounds", "--storage": "test_storage", "--max-memory": "test_max_memory",
}  # fmt: skip
MINE = '''
"""A user's algorithm."""
from dataclasses import dataclass
import torch
from torch import nn
from rlox.config import BCConfig, option
from rlox.offline.base import OfflineAlgorithm
from rlox.offline.configured import ConfiguredOfflineAlgorithm


class Mine(OfflineAlgorithm):
    """Regress ``actor`` onto the actions."""

    def __init__(self, dataset, **kwargs):
        super().__init__(dataset, **kwargs)
        self.actor = nn.Sequential(nn.Linear(self.obs_dim, 8), nn.Tanh(), nn.Linear(8, self.act_dim), nn.Tanh())
        self.optimizer = torch.optim.Adam(self.actor.parameters(), lr=1e-2)

    def _update(self, batch):
        loss = (self.actor(batch["obs"]) - batch["actions"]).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss}


class Strict(Mine):
    def __init__(self, dataset, batch_size=256):
        super().__init__(dataset, batch_size=batch_size)


class NoAlgorithm:
    pass


@dataclass(frozen=True, kw_only=True)
class TunedConfig(BCConfig):
    pull: float = option(0.5, "Pull of actions towards zero", ge=0)


class Tuned(ConfiguredOfflineAlgorithm):
    """Regress onto smaller actions."""

    config_class = TunedConfig

    def _build(self):
        self.actor = nn.Sequential(nn.Linear(self.obs_dim, self.act_dim), nn.Tanh())
        self.optimizer = torch.optim.Adam(self.actor.parameters(), lr=self.config.learning_rate)

    def _update(self, batch):
        loss = (self.actor(batch["obs"]) - self.config.pull * batch["actions"]).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss}
'''


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A small dataset of OwnWalk-v0 by the random policy."""
    from own_envs import Walk

    from rlox.cli.main import main

    assert Walk is not None
    path = tmp_path_factory.mktemp("data") / "walk.h5"
    argv = ["dataset", "collect", "--env", "OwnWalk-v0", "--policy", "random", "--steps", "300", "-o", str(path)]
    assert main(argv) == 0
    return path


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLOX_RUNS_DIR", raising=False)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """The parameters that each algorithm has after the tiny training."""
    from rlox.cli.main import main

    found = {}
    for name in ("bc", "cql"):
        folder = tmp_path_factory.mktemp(name)
        argv = ["offline", name, "--dataset", data, "--env", "none", *OFFLINE, "--runs-dir", folder, "--no-link"]
        assert main([str(a) for a in argv]) == 0
        found[name] = parameters(the_run(folder) / "checkpoints" / "last.pt")
    return found


def offline(capsys, data, *argv, algo="bc"):
    return run(capsys, "offline", algo, "--dataset", data, *OFFLINE, *argv)


def test_every_option_in_the_help_has_a_test(capsys):
    shown = {
        name: set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", run(capsys, *argv, "--help").out, re.MULTILINE))
        for name, argv in {"sac": ("train", "sac"), "bc": ("offline", "bc"), "cql": ("offline", "cql")}.items()
    }
    assert shown["bc"] - shown["sac"] - set(BC) - set(OWN_TESTS) == set()
    assert shown["cql"] - shown["bc"] == set(CQL)
    for name in OWN_TESTS.values():
        assert any(test.startswith(name) for test in globals()), name


@pytest.mark.parametrize(("algo", "flag"), [*(("bc", f) for f in BC), *(("cql", f) for f in CQL)])
def test_this_option_changes_the_trained_parameters(capsys, data, plain, algo, flag):
    value = (BC if algo == "bc" else CQL)[flag]
    argv = (flag, *([] if value is None else [value]))
    ran = offline(capsys, data, "--env", "none", *argv, algo=algo)
    assert ran.code == 0, ran.err
    assert parameters(the_run() / "checkpoints" / "last.pt") != plain[algo]


def test_action_bounds_can_be_given_where_nothing_else_has_them(capsys, data):
    import h5py

    with h5py.File(data) as old, h5py.File("bare.h5", "w") as new:
        for key in ("observations", "actions", "rewards", "terminals", "timeouts"):
            new[key] = old[key][:]
    trained = set()
    for argv in ([], ["--action-low", -5, "--action-high", 5], ["--action-low", -4, "--action-high", 5]):
        ran = offline(capsys, "bare.h5", *argv)
        assert ran.code == 0, ran.err
        assert ("action bounds are unknown" in ran.err) == (not argv)
        trained.add(parameters(the_run() / "checkpoints" / "last.pt"))
    assert len(trained) == 3
    ran = offline(capsys, data, "--env", "none", "--action-low", -5, "--action-high", 5)
    assert "--action-low and --action-high are not used: the file has bounds" in ran.err


def test_dataset_and_algorithm_name_the_run_and_the_data_is_recorded(capsys, data):
    ran = offline(capsys, data, "--json")
    assert ran.code == 0
    path = the_run()
    assert path.parent == Path("runs/bc/walk")
    assert (ran.json["schema"], ran.json["result"]["step"]) == ("rlox.offline/1", 30)
    meta = read(path / "meta.json")
    assert re.fullmatch("[0-9a-f]{64}", meta["dataset"]["sha256"])
    assert read(path / "status.json")["status"] == "finished"


def test_steps_are_gradient_steps(capsys, data):
    result = offline(capsys, data, "--steps", 12, "--json").json["result"]
    assert (result["step"], result["n_updates"]) == (12, 12)


def test_a_dry_run_shows_the_environment_of_the_dataset_and_the_steps(capsys, data):
    ran = run(capsys, "offline", "bc", "--dataset", data, "--dry-run")
    assert "run.env\tOwnWalk-v0\tdataset\n" in ran.out and "steps: 1000000" in ran.err


def test_every_example_in_the_help_says_how_long(capsys):
    for argv in (["offline", "--help"], ["offline", "bc", "--help"]):
        shown = run(capsys, *argv).out
        examples = [line for line in shown.splitlines() if "--dataset" in line and line.startswith("    rlox")]
        assert len(examples) >= 2 and all("--steps" in line or "--dry-run" in line for line in examples)
    assert "none: no evaluation" in " ".join(shown.split())


def test_env_of_the_dataset_is_used_and_said(capsys, data):
    ran = offline(capsys, data)
    assert "evaluating in OwnWalk-v0, which the dataset names" in ran.err
    assert [r["step"] for r in rows(the_run(), "eval")] == [30]
    assert "return_mean" in ran.out


def test_env_none_gives_a_run_without_evaluation_whose_best_is_the_last(capsys, data):
    ran = offline(capsys, data, "--env", "none")
    assert ran.code == 0
    assert rows(the_run(), "eval") == [] and "return_mean" not in ran.out
    kept = the_run() / "checkpoints"
    assert (kept / "best.pt").read_bytes() == (kept / "last.pt").read_bytes()
    assert read(the_run() / "meta.json")["best_by"] == "none"
    assert "rlox eval checkpoints/best.pt --env ID" in ran.err


def test_env_that_is_typed_wins_over_the_one_of_the_dataset(capsys, data):
    ran = offline(capsys, data, "--env", "own_envs:Walk")
    assert ran.code == 0
    assert "rlox eval checkpoints/best.pt --env own_envs:Walk" in ran.err
    assert run(capsys, "eval", "checkpoints/best.pt", "--env", "own_envs:Walk", "--episodes", 1).code == 0


def test_env_kwarg_changes_the_evaluation(capsys, data):
    returns = {
        offline(capsys, data, "--json", *argv).json["result"]["return_mean"]
        for argv in ([], ["--env-kwarg", "goal=9.0"], ["--env", "OwnWalk-v0", "--env-kwarg", "goal=7.0"],
                     ["--eval-env-kwarg", "goal=5.0"])
    }  # fmt: skip
    assert len(returns) == 4


def test_arguments_of_the_recorded_environment_are_used(capsys, data):
    made = run(capsys, "dataset", "collect", "--env", "OwnWalk-v0", "--env-kwarg", "goal=9.0", "--policy", "random",
               "--steps", 300, "-o", "far.h5")  # fmt: skip
    assert made.code == 0, made.err
    near, far = (offline(capsys, d, "--json").json["result"]["return_mean"] for d in (data, "far.h5"))
    assert far < near - 10


def test_an_environment_that_is_not_registered_here_is_said(capsys, data, monkeypatch):
    import gymnasium as gym

    monkeypatch.delitem(gym.registry, "OwnWalk-v0")
    ran = offline(capsys, data)
    assert ran.code == 0 and rows(the_run(), "eval") == []
    assert "'OwnWalk-v0' is not registered here, so there is no evaluation" in ran.err


def test_storage_says_how_the_file_is_read_and_changes_no_parameter(capsys, data, plain):
    memory = {}
    for storage in ("ram", "mmap"):
        found = offline(capsys, data, "--storage", storage, "--dry-run", "--json").json["result"]
        memory[storage] = found["memory_bytes"]
        assert offline(capsys, data, "--storage", storage, "--env", "none").code == 0
        assert parameters(the_run() / "checkpoints" / "last.pt") == plain["bc"]
    assert memory["mmap"] < memory["ram"]
    refused(offline(capsys, data, "--storage", "disk"), 2, "storage is 'disk'", "auto, ram, mmap")


def test_max_memory_refuses_a_larger_dataset(capsys, data):
    refused(offline(capsys, data, "--max-memory", "1kB", "--storage", "ram"), 2, "1")


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["bc"], 2, ["--dataset is missing", "rlox offline bc --dataset"]),
        (["bcc", "--dataset", "DATA"], 2, ["unknown algorithm 'bcc'", "did you mean 'bc'? known: bc, cql"]),
        (["bc", "--dataset", "gone.h5"], 3, ["gone.h5", "`rlox dataset collect", "-o gone.h5`"]),
        (["bc", "--dataset", "texts.h5"], 3, ["texts.h5 does not exist", "there is `text.h5`"]),
        (["bc", "--dataset", "text.h5"], 4, ["text.h5"]),
        (["bc", "--dataset", "DATA", "--keys", "obs=states"], 4, ["states"]),
        (["bc", "--dataset", "DATA", "--env", "Pendulum-v1"], 5, ["Pendulum-v1"]),
        (["bc", "--dataset", "DATA", "--env", "CartPole-v1"], 5, ["Discrete"]),
        (["bc", "--dataset", "DATA", "--env", "Pendulm-v1"], 3, ["Pendulm-v1"]),
        (["bc", "--dataset", "DATA", "--batch-size", "1000"], 5, ["1000", "300"]),
        (["bc", "--dataset", "DATA", "--action-low", "-1"], 2, ["must be given together"]),
        (["bc", "--dataset", "DATA", "--n-envs", "2"], 2, ["unknown option '--n-envs'"]),
        (["bc", "--dataset", "DATA", "--env", "none", "--patience", "2"], 2, ["--patience needs an environment"]),
        (["bc", "--dataset", "DATA", "--env", "none", "--video", "1"], 2, ["--video needs an environment"]),
        (["gone.py:Mine", "--dataset", "DATA"], 3, ["gone.py"]),
        (["mine.py:Other", "--dataset", "DATA"], 3, ["has no class 'Other'"]),
        (["mine.py:NoAlgorithm", "--dataset", "DATA"], 2, ["no subclass of rlox.offline.base.OfflineAlgorithm"]),
        (["mine.py:Strict", "--dataset", "DATA"], 2, ["Strict does not take", "**kwargs"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_a_bad_input_is_refused_and_leaves_no_run(capsys, data, argv, code, words):
    Path("mine.py").write_text(MINE)
    Path("text.h5").write_text("observations\n")
    ran = run(capsys, "offline", *(data if a == "DATA" else a for a in argv))
    assert ran.code == code, ran.err
    tail = ran.err[ran.err.index("error:") :]
    assert "Traceback" not in ran.err and len(tail.splitlines()) <= 6
    for word in words:
        assert word in tail
    assert list(Path().rglob("status.json")) == [] and "checkpoints" not in os.listdir()


def test_a_class_of_the_users_gets_the_same_command(capsys, data):
    Path("mine.py").write_text(MINE)
    shown = run(capsys, "offline", "mine.py:Mine", "--help").out
    assert "Regress actor onto the actions" in shown and "--batch-size" in shown and "--eval-freq" in shown
    ran = run(capsys, "offline", "mine.py:Mine", "--dataset", data, "--steps", 20, "--batch-size", 8, "--eval-freq", 0)
    assert ran.code == 0, ran.err
    assert the_run().parent == Path("runs/mine.py-Mine/walk")
    assert "rlox eval checkpoints/best.pt --algo mine.py:Mine" in ran.err
    assert run(capsys, "eval", "checkpoints/best.pt", "--algo", "mine.py:Mine", "--episodes", 1).code == 0
    refused(run(capsys, "eval", "checkpoints/best.pt"), 5, "mine.py:Mine")


def test_a_fault_in_the_users_class_is_named_as_theirs_and_the_run_is_kept(capsys, data):
    Path("buggy.py").write_text(
        MINE.replace('return {"loss": loss}', 'return {"loss": {}["oops"]} if self.step == 12 else {"loss": loss}', 1)
    )
    line = next(n for n, text in enumerate(Path("buggy.py").read_text().splitlines(), 1) if "oops" in text)
    argv = ("offline", "buggy.py:Mine", "--dataset", data, *OFFLINE[:2], "--batch-size", 16, "--save-freq", 10)
    ran = run(capsys, *argv, "--no-tensorboard", "--env", "none")
    assert ran.code == 7 and f"error: Mine._update raised KeyError: 'oops' (buggy.py:{line})\n" in ran.err
    path = the_run()
    hint = ran.err.splitlines()[-1]
    assert f"the last good checkpoint is {path}/checkpoints/" in hint and f"the traceback is in {path}/crash.log" in hint
    assert "in _update" in (path / "crash.log").read_text()
    status = read(path / "status.json")
    assert status["error"].startswith("UserCodeError: Mine._update raised KeyError: 'oops'")
    found = {k: status[k] for k in ("status", "reason", "algorithm", "step", "n_updates", "exit_code")}
    assert found == {"status": "failed", "reason": "failed", "algorithm": "buggy.py:Mine", "step": 12, "n_updates": 12,
                     "exit_code": 7}  # fmt: skip


def test_a_fault_in_the_users_constructor_leaves_no_run_and_its_traceback_in_a_file(capsys, data, monkeypatch, tmp_path):
    (tmp_path / "crashes").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "crashes"))
    Path("unmade.py").write_text(MINE.replace("super().__init__(dataset, **kwargs)", "super().__init__(dataset, **kwargs); self.gone", 1))
    ran = run(capsys, "offline", "unmade.py:Mine", "--dataset", data, "--env", "none", "--steps", 5)
    assert ran.code == 7 and "error: Mine.__init__ raised AttributeError: 'Mine' object has no attribute 'gone'" in ran.err
    (log,) = (tmp_path / "crashes").iterdir()
    assert "AttributeError" in log.read_text() and log.name in ran.err
    assert not Path("runs").exists()


def test_an_update_that_returns_no_metrics_names_itself(capsys, data):
    Path("listed.py").write_text(MINE.replace('return {"loss": loss}', "return [loss]", 1))
    ran = run(capsys, "offline", "listed.py:Mine", "--dataset", data, "--env", "none", "--steps", 5)
    assert ran.code == 7 and "error: Mine._update returned a list, must be a dict of metrics" in ran.err
    assert (the_run() / "crash.log").is_file()


def test_a_fault_while_acting_is_named_by_eval_too(capsys, data):
    Path("acting.py").write_text(MINE.replace("    def _update(", "    def act(self, obs, deterministic, generator):\n        return {}['x']\n\n    def _update(", 1))
    argv = ("--dataset", data, "--env", "none", "--steps", 5, "--batch-size", 8, "--no-tensorboard")
    assert run(capsys, "offline", "acting.py:Mine", *argv).code == 0
    ran = run(capsys, "eval", "checkpoints/last.pt", "--algo", "acting.py:Mine", "--env", "OwnWalk-v0")
    refused(ran, 7, "Mine.act raised KeyError: 'x'", "acting.py:")


def test_a_class_with_a_config_of_its_own_gets_its_options(capsys, data):
    Path("mine.py").write_text(MINE)
    assert "Pull of actions towards zero [0, inf)" in " ".join(
        run(capsys, "offline", "mine.py:Tuned", "--help").out.split()
    )
    trained = set()
    for pull in (0.5, 0.25):
        ran = run(capsys, "offline", "mine.py:Tuned", "--dataset", data, *OFFLINE, "--pull", pull)
        assert ran.code == 0, ran.err
        trained.add(parameters(the_run() / "checkpoints" / "last.pt"))
    assert len(trained) == 2
    refused(run(capsys, "offline", "mine.py:Tuned", "--dataset", data, "--set", "pul=1"), 2, "algo.pull")


def test_listing_names_the_algorithms(capsys):
    assert "bc\tBehaviour cloning" in run(capsys, "offline", "--list").out
    names = [row["algorithm"] for row in run(capsys, "offline", "--list", "--json").json["result"]["algorithms"]]
    assert names[:2] == ["bc", "cql"]
    assert "sac" in run(capsys, "train", "--list").out and "Pendulum-v1" in run(capsys, "train", "--list").out


def test_the_whole_command_in_a_process_of_its_own(tmp_path):
    made = spawn("dataset", "collect", "--env", "Pendulum-v1", "--policy", "random", "--steps", 300, "-o", "p.h5",
                 cwd=tmp_path)  # fmt: skip
    assert made.code == 0, made.err
    ran = spawn("offline", "cql", "--dataset", "p.h5", "--env", "Pendulum-v1", *OFFLINE, cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert "run: runs/cql/p/" in ran.err.splitlines()[0]
    assert spawn("eval", "checkpoints/best.pt", "--episodes", 1, cwd=tmp_path).code == 0
