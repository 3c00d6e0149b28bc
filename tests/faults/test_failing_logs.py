"""Loggers that lose their files, raise, or are cut off, in whole runs: training and checkpoints do not notice."""

from __future__ import annotations

import pytest
from fault_runs import goes_on_exactly, train
from run_digest import differing, generation_state, rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlox.checkpoint.generation import Generations


def trained_the_same(folder, whole):
    ours, theirs = (generation_state(Generations(f / "resume").newest()) for f in (folder, whole.folder))
    assert differing(ours, theirs) == []


def logged_steps(folder):
    """Return the steps of each scalar in the event files of a run, as a reader of TensorBoard sees them."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_event_files_that_are_deleted_in_mid_run_are_made_again(runs, undisturbed, folder):
    ended = train(runs, folder, quiet=False, fault="lose_events", step=70)
    assert ended.code == 0, ended.err
    assert ended.err.count("warning:") == 1 and "TensorBoard's folder" in ended.err
    trained_the_same(folder, undisturbed())
    assert rows(folder / "metrics.jsonl") == rows(undisturbed().folder / "metrics.jsonl")
    assert logged_steps(folder)["train/actor_loss"] == [80, 100, 120]


def test_a_tracker_that_raises_is_switched_off_with_one_warning(runs, undisturbed, folder):
    ended = train(runs, folder, "--wandb", quiet=False, fault="break_wandb", after=3)
    assert ended.code == 0, ended.err
    assert ended.err.count("warning:") == 1 and "WandbLogger is switched off" in ended.err
    trained_the_same(folder, undisturbed())
    assert rows(folder / "metrics.jsonl") == rows(undisturbed().folder / "metrics.jsonl")


@pytest.mark.parametrize("step", [67, 93, 119])
def test_logs_of_a_killed_run_have_every_step_once(runs, undisturbed, folder, step):
    assert train(runs, folder, fault="kill", where="step", step=step).code < 0
    goes_on_exactly(runs, folder, undisturbed())
    expected = logged_steps(undisturbed().folder)
    assert logged_steps(folder) == expected and expected["train/actor_loss"] == [60, 80, 100, 120]
    steps = [row["step"] for row in rows(folder / "metrics.jsonl") if row.get("kind") == "train"]
    assert steps == [20, 40, 60, 80, 100, 120]
