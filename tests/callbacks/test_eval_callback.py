import math

import numpy as np
import pytest
from fake_algorithm import CountdownEnv, Events, FakeAlgorithm, Run

from rlox.callbacks import Callback, EvalCallback
from rlox.errors import ConfigError, WriteError
from rlox.logging import ConsoleLogger


class EvalHooks(Callback):
    def __init__(self):
        self.calls = []

    def on_eval(self, **kwargs):
        del kwargs["algo"]
        self.calls.append(kwargs)


def quiet(**kwargs):
    return EvalCallback(**{"verbose": False, "n_eval_episodes": 2, **kwargs})


def test_constructor_arguments_are_attributes():
    callback = EvalCallback("Env-v0", 7, 3, "best.pt", False, eval_seed=5, n_eval_envs=2, deterministic=False)
    assert (callback.eval_env, callback.eval_freq, callback.n_eval_episodes) == ("Env-v0", 7, 3)
    assert (callback.best_model_path, callback.verbose) == ("best.pt", False)
    assert (callback.eval_seed, callback.n_eval_envs, callback.deterministic) == (5, 2, False)
    assert callback.best_return == -math.inf and callback.best_step is None and callback.eval_results == []


def test_evaluations_happen_when_the_period_is_crossed_and_at_the_end():
    callback = quiet(eval_freq=10)
    FakeAlgorithm(callback).train(25, stride=4)
    assert callback.eval_results == [(12, 1.5), (20, 1.5), (28, 1.5)]


def test_a_last_step_that_was_evaluated_is_not_evaluated_again():
    callback = quiet(eval_freq=10)
    FakeAlgorithm(callback).train(20)
    assert [step for step, _ in callback.eval_results] == [10, 20]


def test_a_frequency_of_zero_evaluates_only_at_the_end():
    callback = quiet(eval_freq=0)
    FakeAlgorithm(callback).train(20)
    assert [step for step, _ in callback.eval_results] == [20]


@pytest.mark.parametrize(
    "reason, n", [("finished", 1), ("stopped", 1), ("interrupted", 0), ("diverged", 0), ("failed", 0)]
)
def test_the_final_evaluation_depends_on_the_reason(reason, n):
    callback = quiet(eval_freq=0)
    FakeAlgorithm(callback).train(5, reason=reason)
    assert len(callback.eval_results) == n


def test_a_second_training_goes_on_counting():
    callback = quiet(eval_freq=10)
    algo = FakeAlgorithm(callback)
    algo.train(5)
    algo.train(10)
    assert [step for step, _ in callback.eval_results] == [5, 10, 15]


def test_a_training_that_counts_from_its_own_beginning_is_followed():
    callback = quiet(eval_freq=10)
    algo = FakeAlgorithm(callback)
    algo.train(20)
    algo.step = 0
    algo.train(10)
    assert [step for step, _ in callback.eval_results] == [10, 20, 10]


def test_every_episode_fires_a_hook_and_every_evaluation_reaches_the_loggers_once():
    hooks, events = EvalHooks(), Events()
    FakeAlgorithm([hooks, quiet(eval_freq=10, n_eval_episodes=3)], logger=events).train(10)
    assert [call["episode"] for call in hooks.calls] == [1, 2, 3]
    assert hooks.calls[-1] == {
        "step": 10,
        "episode": 3,
        "n_episodes": 3,
        "episode_return": 1.5,
        "episode_length": 3,
        "return_mean": 1.5,
        "return_std": 0.0,
    }
    [(step, metrics)] = events.evals
    assert step == 10 and events.flushed == 1
    assert metrics["return_mean"] == 1.5 and metrics["return_std"] == 0.0 and metrics["length_mean"] == 3.0


def test_the_best_is_tracked_and_saved_and_parents_are_created(tmp_path):
    path = tmp_path / "deep" / "best.pt"
    callback = quiet(eval_freq=10, best_model_path=path)
    events = Events()
    algo = FakeAlgorithm(callback, logger=events)
    for action in (0.1, 0.9, 0.2):
        algo.action = action
        algo.train(10)
    assert callback.best_step == 20 and callback.best_return == pytest.approx(2.7)
    assert path.read_text() == "model at 20" and algo.saves == [path, path]
    assert [event[:2] for event in events.events] == [(10, "checkpoint"), (20, "checkpoint")]
    assert events.events[0][2] == {"path": str(path), "best": True}


def test_an_equal_return_is_not_better():
    callback = quiet(eval_freq=10)
    FakeAlgorithm(callback).train(30)
    assert callback.best_step == 10


def test_a_nan_score_is_never_the_best(tmp_path):
    class Result:
        return_mean = return_std = length_mean = math.nan

        def summary(self):
            return {"return_mean": math.nan}

    callback = quiet(eval_freq=10, best_model_path=tmp_path / "best.pt")
    algo = FakeAlgorithm(callback)
    callback._record(algo, 10, Result())
    assert callback.best_return == -math.inf and callback.best_step is None and algo.saves == []
    assert math.isnan(callback.eval_results[0][1])


def test_its_environment_comes_from_the_argument_when_given():
    callback = quiet(eval_env=lambda: CountdownEnv(length=7), eval_freq=10)
    FakeAlgorithm(callback, env=None).train(10)
    assert callback.eval_results == [(10, 3.5)]


def test_an_environment_object_of_its_own_is_used_as_it_is():
    callback = quiet(eval_env=CountdownEnv(length=4), eval_freq=5)
    FakeAlgorithm(callback).train(10)
    assert callback.eval_results == [(5, 2.0), (10, 2.0)]


def test_greedy_or_sampled_actions_are_asked_for():
    for deterministic in (True, False):
        algo = FakeAlgorithm(quiet(eval_freq=1, deterministic=deterministic))
        algo.train(1)
        assert {asked for _, asked in algo.acted} == {deterministic}


def test_environments_run_beside_each_other_and_the_result_is_the_same():
    one, two = quiet(eval_freq=1, n_eval_episodes=4), quiet(eval_freq=1, n_eval_episodes=4, n_eval_envs=2)
    algo = FakeAlgorithm([one])
    algo.train(1)
    wide = FakeAlgorithm([two])
    wide.train(1)
    assert {n for n, _ in algo.acted} == {1} and {n for n, _ in wide.acted} == {2}
    assert one.eval_results == two.eval_results


def test_the_evaluation_seed_chooses_the_episodes():
    class Noisy(CountdownEnv):
        def step(self, action):
            obs, _, terminated, truncated, info = super().step(action)
            return obs, float(self.np_random.normal()), terminated, truncated, info

    def result(seed):
        callback = quiet(eval_freq=1, eval_seed=seed)
        FakeAlgorithm(callback, env=Noisy).train(1)
        return callback.eval_results

    assert result(1) == result(1) != result(2)


def test_an_algorithm_with_predict_alone_can_be_evaluated():
    class PredictOnly(FakeAlgorithm):
        policy = None

        def predict(self, obs, deterministic=True):
            return np.full((len(obs), 1), 1.0, np.float32)

    callback = quiet(eval_freq=1)
    PredictOnly(callback).train(1)
    assert callback.eval_results == [(1, 3.0)]


class NoPolicy(FakeAlgorithm):
    policy = None
    predict = None


class NoSave(FakeAlgorithm):
    save = None


class CannotAct(FakeAlgorithm):
    can_act = False


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: NoPolicy(quiet()), r"needs an algorithm with predict\(\), NoPolicy has none"),
        (lambda: CannotAct(quiet()), "needs an algorithm that can act, CannotAct cannot"),
        (lambda: NoSave(quiet(best_model_path="best.pt")), r"needs an algorithm with save\(\)"),
        (lambda: FakeAlgorithm(quiet(), env=None), "EvalCallback has no environment"),
        (lambda: FakeAlgorithm(quiet(), env=CountdownEnv()), "cannot be made again"),
        (lambda: FakeAlgorithm(quiet(eval_env=CountdownEnv(), n_eval_envs=2)), "cannot be made again"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_when_attached(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_training_environment_itself_is_refused_as_eval_env():
    env = CountdownEnv()
    with pytest.raises(ConfigError, match="environment of its own"):
        FakeAlgorithm(quiet(eval_env=env), env=env)


def test_a_folder_as_best_model_path_is_refused_when_attached(tmp_path):
    with pytest.raises(ConfigError, match="best_model_path is the folder"):
        FakeAlgorithm(quiet(best_model_path=tmp_path))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"eval_freq": -1},
        {"eval_freq": 2.5},
        {"n_eval_episodes": 0},
        {"n_eval_envs": 0},
        {"eval_seed": -1},
        {"n_eval_episodes": True},
    ],
)
def test_bad_arguments_are_refused_by_name(kwargs):
    with pytest.raises(ConfigError, match=next(iter(kwargs))):
        EvalCallback(**kwargs)


def test_best_is_not_written_through_a_link_into_another_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other, mine = tmp_path / "other", tmp_path / "mine"
    for run in (other, mine):
        (run / "checkpoints").mkdir(parents=True)
        (run / "meta.json").write_text("{}")
    (tmp_path / "checkpoints").symlink_to("other/checkpoints")
    FakeAlgorithm(quiet(eval_freq=1, best_model_path="checkpoints/best.pt"), run=Run(mine)).train(1)
    assert (mine / "checkpoints" / "best.pt").exists()
    with pytest.raises(WriteError, match=r"checkpoints is a link to .* which belongs to another run"):
        FakeAlgorithm(quiet(eval_freq=1, best_model_path="checkpoints/best.pt")).train(1)
    assert list((other / "checkpoints").iterdir()) == []


def test_verbose_says_each_result_on_stderr_and_quiet_says_nothing(capsys):
    FakeAlgorithm(quiet(eval_freq=1)).train(1)
    assert capsys.readouterr() == ("", "")
    FakeAlgorithm(quiet(eval_freq=1, verbose=True)).train(2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "step=1 eval_return=1.50 eval_std=0.00 eval_length=3 (best so far)",
        "step=2 eval_return=1.50 eval_std=0.00 eval_length=3",
    ]


def test_a_console_logger_speaks_in_its_place(capsys):
    FakeAlgorithm(quiet(eval_freq=1, verbose=True), logger=ConsoleLogger()).train(1)
    assert capsys.readouterr().err == "step=1 eval_return=1.5 eval_std=0 best=1.5\n"


def test_its_time_counts_as_evaluation_and_as_saving(tmp_path):
    algo = FakeAlgorithm(quiet(eval_freq=1, best_model_path=tmp_path / "best.pt"), logger=Events())
    algo.train(1)
    assert algo.phases.seconds["eval"] > 0 and algo.phases.seconds["save"] > 0 and algo.phases.seconds["log"] > 0
    assert algo.phases.phase is None


def test_hooks_work_alone_and_count_for_themselves():
    callback = EvalCallback(eval_freq=2)
    assert callback.on_step() is None and callback.on_step(reward=1.0) is None
    callback.on_training_start()
    callback.on_training_end()
    assert callback.eval_results == []


def test_an_algorithm_given_to_a_hook_is_enough():
    callback = quiet(eval_freq=2)
    algo = FakeAlgorithm()
    for _ in range(4):
        callback.on_step(algo=algo)
    assert callback.eval_results == [(2, 1.5), (4, 1.5)]


def test_state_goes_on_from_where_it_was():
    callback = quiet(eval_freq=10)
    FakeAlgorithm(callback).train(14)
    resumed = quiet(eval_freq=10)
    resumed.load_state_dict(callback.state_dict())
    assert (resumed.best_return, resumed.best_step, resumed.eval_results) == (1.5, 10, [(10, 1.5), (14, 1.5)])
    algo = FakeAlgorithm(resumed)
    algo.step = 14
    algo.train(7)
    assert [step for step, _ in resumed.eval_results] == [10, 14, 20, 21]
