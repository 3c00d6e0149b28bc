"""NaN and infinity in gradients, losses, rewards and observations: the run stops before anything is made of them."""

from __future__ import annotations

import pytest
from fault_runs import ENV, TINY, checkpoints, fault, goes_on_exactly, status, step_of, train
from run_server import HERE


def has_diverged(ended, folder, *words):
    """Assert that a run stopped with the step, the quantity and the last good checkpoint, and kept nothing non-finite."""
    assert ended.code == 7, ended.err
    for word in (*words, "the last good checkpoint is run/checkpoints/last.pt"):
        assert word in ended.err, (word, ended.err)
    assert "Traceback" not in ended.err and len(ended.err.splitlines()) <= 6
    found = status(folder)
    assert (found["status"], found["exit_code"]) == ("diverged", 7)
    for path in (folder / "checkpoints").iterdir():
        assert step_of(path) <= found["step"]  # and its numbers are finite


# Step 60 is evaluated before its update, step 80 is saved after it; the first update is that of step 51.
@pytest.mark.parametrize("step", [59, 70, 80])
@pytest.mark.parametrize(
    ("optimizer", "what"),
    [("actor_optimizer", "of SquashedGaussianActor is not finite"), ("critic_optimizer", "actor_loss is nan"),
     ("temperature_optimizer", "is n")],
)  # fmt: skip
def test_a_nan_in_one_gradient_stops_the_run_before_anything_is_kept_of_it(
    runs, undisturbed, folder, optimizer, what, step
):
    ended = train(runs, folder, fault="poison_gradient", optimizer=optimizer, update=step - 51)
    has_diverged(ended, folder, what)
    found = [f"at step {at}, update {n}" in ended.err for at, n in ((step, step - 50), (step + 1, step - 50), (step + 1, step - 49))]
    assert sum(found) == 1, ended.err
    assert checkpoints(folder) == ["step_000000040.pt"]
    if step == 80:
        goes_on_exactly(runs, folder, undisturbed())


def test_a_gradient_whose_square_overflows_stops_the_run_where_it_would_be_kept(runs, undisturbed, folder):
    ended = train(runs, folder, fault="poison_gradient", optimizer="critic_optimizer", update=70 - 51, value=1e25)
    has_diverged(ended, folder, "critic_optimizer", "exp_avg_sq is not finite at step 80, update 30")
    assert checkpoints(folder) == ["step_000000040.pt"]
    goes_on_exactly(runs, folder, undisturbed())


def test_losses_that_overflow_stop_the_run(runs, folder):
    ended = train(runs, folder, "--set", "algo.learning_rate=1e10", "--steps", 3000, "--eval-freq", 0)
    has_diverged(ended, folder, "at step ", "update ")


@pytest.mark.parametrize(
    ("kind", "vec", "words"),
    [
        ("nan reward", "sync", ["reward is nan"]),
        ("nan obs", "sync", ["observation", "nan"]),
        pytest.param("nan obs", "async", ["observation", "nan"], marks=pytest.mark.slow),
        ("wrong shape", "sync", ["position", "(3,)", "(2,)"]),
    ],
)
def test_what_an_environment_gives_is_checked_as_it_arrives(runs, undisturbed, tmp_path, folder, kind, vec, words):
    two = ("--n-envs", 2)
    ended = train(runs, folder, *two, "--vec", vec, env=fault(tmp_path, kind, 45))
    assert ended.code == 7, ended.err
    for word in (*words, "environment ", "episode ", "step ", "last.pt"):
        assert word in ended.err, (word, ended.err)
    assert status(folder)["status"] == "failed" and status(folder)["step"] == 88
    assert step_of(folder / "checkpoints" / "last.pt") == 88
    goes_on_exactly(runs, folder, undisturbed(*two), *two)


def test_constant_rewards_and_observations_train_on(runs, folder):
    words = [f"{HERE / 'fault_envs.py'}:Constant" if word == ENV else word for word in TINY]
    ended = runs.run(*words, "--normalize-obs", "--run-dir", folder, cwd=folder.parent)
    assert ended.code == 0, ended.err
    assert step_of(folder / "checkpoints" / "last.pt") == 120 == status(folder)["step"]
