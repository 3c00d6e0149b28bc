"""Runs put together by what distinguishes them, and the number that each is judged by."""

from __future__ import annotations

import pytest
from run_folders import make_run

from rlox.errors import ConfigError
from rlox.runs.groups import group_runs, score, unknown_metric
from rlox.runs.reading import open_run


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def runs(*kwargs):
    return [open_run(make_run(f"runs/{i}", **{"seed": i, **given})) for i, given in enumerate(kwargs)]


def labels(grouping):
    return [(group.label, group.task, [run.seed for run in group.runs]) for group in grouping.groups]


def test_runs_that_differ_in_their_seed_alone_are_one_group():
    found = group_runs(runs({}, {}, {}))
    assert labels(found) == [("sac", "Pendulum-v1", [0, 1, 2])] and found.notes == ()


def test_a_group_is_named_by_what_distinguishes_it():
    found = group_runs(runs({"learning_rate": 0.001}, {"learning_rate": 0.0003}, {"learning_rate": 0.001}))
    assert labels(found) == [("learning_rate=0.001", "Pendulum-v1", [0, 2]), ("learning_rate=0.0003", "Pendulum-v1", [1])]


def test_several_differences_are_all_named():
    found = group_runs(runs({}, {"gamma": 0.9, "run__n_envs": 4}))
    assert [g.label for g in found.groups] == ["n_envs=1 gamma=0.99", "n_envs=4 gamma=0.9"]
    assert found.groups[1].values == {"run.n_envs": 4, "algo.gamma": 0.9}


@pytest.mark.parametrize(
    "aside",
    [{"hardware__threads": 2}, {"checkpoint__save_freq": 5}, {"log__log_interval": 7}, {"eval__eval_freq": 1},
     {"run__max_time": "1h"}, {"eval__n_eval_envs": 4}],
    ids=str,
)  # fmt: skip
def test_what_changes_no_result_makes_no_group(aside):
    assert len(group_runs(runs({}, aside)).groups) == 1


@pytest.mark.parametrize("apart", [{"eval__eval_episodes": 50}, {"run__patience": 3}, {"total": 7}, {"net_arch": [64]}], ids=str)
def test_what_changes_a_result_makes_a_group(apart):
    assert len(group_runs(runs({}, apart)).groups) == 2


def test_algorithms_are_named_where_there_are_several_and_have_differences_of_their_own():
    found = group_runs(runs({}, {"algorithm": "td3", "gamma": 0.9}, {"gamma": 0.95}))
    assert [g.label for g in found.groups] == ["sac gamma=0.99", "td3", "sac gamma=0.95"]


def test_what_differs_only_between_tasks_is_no_difference():
    found = group_runs(runs({}, {"env": "HalfCheetah-v5", "learning_rate": 0.0003}))
    assert [(g.label, g.task) for g in found.groups] == [("sac", "Pendulum-v1"), ("sac", "HalfCheetah-v5")]


def test_two_datasets_of_one_name_are_two_tasks():
    a, b = ("x/data.h5", "aaaaaaaaaaaa"), ("y/data.h5", "bbbbbbbbbbbb")
    found = group_runs(runs({"dataset": a}, {"dataset": b}, {"dataset": a}))
    assert [(g.task, len(g.runs)) for g in found.groups] == [("data@aaaaaaaa", 2), ("data@bbbbbbbb", 1)]


def test_a_dataset_evaluated_in_two_environments_makes_two_groups():
    data = ("data.h5", "aa")
    found = group_runs(runs({"dataset": data}, {"dataset": data, "env": "Pendulum-v0"}))
    assert [g.label for g in found.groups] == ["env=Pendulum-v1", "env=Pendulum-v0"]


def test_groups_can_be_made_by_chosen_keys_and_what_else_differs_is_said():
    given = runs({"gamma": 0.9}, {"gamma": 0.9, "batch_size": 64}, {"gamma": 0.5})
    for name in ("gamma", "algo.gamma"):
        found = group_runs(given, [name])
        assert [(g.label, len(g.runs)) for g in found.groups] == [("gamma=0.9", 2), ("gamma=0.5", 1)]
        assert found.notes == ("gamma=0.9 on Pendulum-v1: its runs differ in batch_size",)


def test_groups_can_be_made_by_name_tags_and_version():
    given = runs({"meta": {"name": "a", "tags": ["t"]}}, {"meta": {"name": "b", "versions": {"rlox": "9"}}})
    assert [g.label for g in group_runs(given, ["name"]).groups] == ["name=a", "name=b"]
    assert [g.label for g in group_runs(given, ["tag"]).groups] == ["tags=t", "tags=none"]
    assert [g.label for g in group_runs(given, ["rlox"]).groups] == ["rlox=0.1.0", "rlox=9"]


def test_an_unknown_key_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="no run has the key 'learing_rate'") as error:
        group_runs(runs({}), ["learing_rate"])
    assert error.value.suggestions == ("learning_rate",)


def test_a_seed_that_is_there_twice_is_said():
    found = group_runs(runs({"seed": 3}, {"seed": 3}, {"seed": 4}))
    assert found.notes == ("sac on Pendulum-v1: seed 3 more than once: equal seeds are no independent runs",)


def test_runs_of_different_code_are_said():
    found = group_runs(runs({}, {"meta": {"git": {"commit": "fedcba9876543210"}}}))
    assert found.notes == ("the runs were made by different code: rlox 0.1.0 commit 01234567, rlox 0.1.0 commit fedcba98",)


def test_labels_hold_no_control_characters():
    found = group_runs(runs({}, {"activation": "\x1b[31mred\nx"}))
    assert found.groups[1].label == "activation=\\x1b[31mred\\nx"


def test_the_score_is_the_last_value_or_the_highest():
    run = runs({"returns": {5000: -100.0, 10000: -50.0, 15000: -70.0}})[0]
    assert (score(run, "eval/return_mean").value, score(run, "eval/return_mean").step) == (-70.0, 15000)
    assert (score(run, "eval/return_mean", "best").value, score(run, "eval/return_mean", "best").step) == (-50.0, 10000)


def test_a_last_value_that_is_nan_is_no_score_and_no_earlier_one_stands_in():
    run = runs({"returns": {5000: -100.0, 10000: None}})[0]
    found = score(run, "eval/return_mean")
    assert (found.value, found.step) == (None, 10000) and found.why == "eval/return_mean is NaN or infinite at step 10000"
    assert score(run, "eval/return_mean", "best").value == -100.0


def test_a_missing_metric_is_no_score():
    run = runs({"returns": [1.0]})[0]
    assert score(run, "eval/x").why == "has no eval/x"
    error = unknown_metric("return_mean", [run], "--metric")
    assert error.hint == "did you mean 'eval/return_mean'?" and error.exit_code == 2
