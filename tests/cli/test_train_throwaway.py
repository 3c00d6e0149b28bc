"""One learner, one config and one registry line make a whole algorithm of the command line."""

from __future__ import annotations

from pathlib import Path

import own_envs  # noqa: F401  (registers OwnWalk-v0)
import pytest
from cli_run import refused, run
from train_runs import parameters, read, rows, the_run

from rlox.callbacks import Callback
from rlox.registry import ALGORITHMS, AlgorithmSpec, register


@pytest.fixture(autouse=True)
def throwaway(tmp_path, monkeypatch):
    """The registry line, for one test, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLOX_RUNS_DIR", raising=False)
    register(AlgorithmSpec("throwaway", "online", "own_config:ThrowawayConfig", "own_algorithm:Throwaway", ("Box",),
                           "Learns one action"))  # fmt: skip
    yield
    del ALGORITHMS["throwaway"]


def test_the_command_and_its_help_appear(capsys):
    assert "  throwaway  Learns one action\n" in run(capsys, "train", "--help").out
    shown = run(capsys, "train", "throwaway", "--help").out
    assert "Action that the policy is pulled to [-1, 1]" in " ".join(shown.split())
    assert "--goal, --aim X" in shown and "--gamma X" in shown and "--ent-coef" not in shown
    assert "throwaway\tLearns one action\tOwnWalk-v0\n" in run(capsys, "train", "--list").out
    refused(run(capsys, "train", "throwawy"), 2, "did you mean 'throwaway'?")


def test_presets_set_and_dry_run_know_its_options(capsys):
    ran = run(capsys, "train", "throwaway", "--env", "OwnWalk-v0", "--set", "goal=0.5", "--dry-run")
    assert ran.code == 0, ran.err
    assert "run.steps\t170\tpreset throwaway/OwnWalk-v0\n" in ran.out
    assert "algo.goal\t0.5\t--set\n" in ran.out
    smoke = run(capsys, "train", "throwaway", "--env", "OwnWalk-v0", "--preset", "smoke", "--dry-run").out
    assert "algo.learning_starts\t100\tpreset smoke\n" in smoke and "algo.goal\t0.25\tdefault\n" in smoke
    refused(run(capsys, "train", "throwaway", "--env", "OwnWalk-v0", "--goal", 2), 2, "goal is 2, must be in [-1, 1]")
    refused(run(capsys, "train", "throwaway", "--env", "OwnWalk-v0", "--set", "gaol=1"), 2, "algo.goal")


def test_it_trains_saves_and_evaluates(capsys, monkeypatch):
    seen = []

    class Witness(Callback):
        def on_train_batch(self, **kwargs):
            seen.append(dict(kwargs["metrics"]))

    from rlox.runs import equipment

    plain = equipment._limits
    monkeypatch.setattr(equipment, "_limits", lambda resolved: {**plain(resolved), "witness": Witness()})
    ran = run(capsys, "train", "throwaway", "--env", "OwnWalk-v0", "--log-interval", 50)
    assert ran.code == 0, ran.err
    assert len(seen) == 120 and seen[-1]["goal_loss"] < seen[0]["goal_loss"]
    assert "train/goal_loss" in rows(the_run(), "train")[-1]["metrics"]
    evaluated = run(capsys, "eval", "checkpoints/best.pt", "--episodes", 2, "--json")
    assert evaluated.code == 0, evaluated.err
    assert evaluated.json["result"]["algorithm"] == "throwaway"
    info = run(capsys, "checkpoint", "info", "checkpoints/last.pt", "--json").json["result"]
    assert info["algorithm"] == "throwaway" and info["config"]["goal"] == 0.75


def test_the_written_config_trains_the_same_again(capsys):
    assert run(capsys, "train", "throwaway", "--env", "OwnWalk-v0", "--run-dir", "a").code == 0
    again = run(capsys, "train", "throwaway", "--config", "a/config.toml", "--preset", "none", "--run-dir", "b")
    assert again.code == 0, again.err
    assert parameters(Path("a/checkpoints/last.pt")) == parameters(Path("b/checkpoints/last.pt"))
    assert read(Path("b/meta.json"))["preset"] is None


def test_an_option_cannot_take_a_spelling_that_is_taken(capsys, monkeypatch):
    import own_config

    from rlox.config.fields import Option
    from rlox.config.resolve import Schema

    plain = Schema.__init__

    def clashing(self, *args):
        plain(self, *args)
        self.options["algo.x"] = Option("x", "int", 1, "Clashes", aliases=("--tag",))

    assert own_config
    monkeypatch.setattr(Schema, "__init__", clashing)
    refused(run(capsys, "train", "throwaway", "--env", "OwnWalk-v0"), 2, "--tag")
