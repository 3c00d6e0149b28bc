import math

import pytest
from fake_algorithm import Events, FakeAlgorithm

from rlox.callbacks import CallbackList, EarlyStoppingCallback, EvalCallback
from rlox.errors import ConfigError


def episodes(*returns):
    return [{"return": r, "length": 5, "env": 0} for r in returns]


def test_patience_alone_is_counted_in_rewards():
    callback = EarlyStoppingCallback(patience=3)
    assert [callback.on_step(reward=1.0) for _ in range(4)] == [True, True, True, False]
    assert callback.best == 1.0 and callback.wait == 3
    assert callback.reason == "no improvement over 1 in 3 rewards"


def test_an_improvement_starts_patience_again():
    callback = EarlyStoppingCallback(patience=2)
    assert [callback.on_step(reward=r) for r in (1.0, 1.0, 1.5, 1.4, 1.5)] == [True, True, True, True, False]


def test_min_delta_is_what_an_improvement_must_exceed():
    callback = EarlyStoppingCallback(patience=2, min_delta=1.0)
    assert [callback.on_step(reward=r) for r in (0.0, 1.0, 0.5)] == [True, True, False]
    assert callback.best == 0.0 and callback.min_delta == 1.0


def test_calls_without_a_reward_are_no_observation():
    callback = EarlyStoppingCallback(patience=1)
    callback.on_training_start()
    assert all(callback.on_step() for _ in range(5))
    assert callback.on_step(step=6, reward=2.0) and not callback.on_step(reward=2.0)


def test_nan_is_never_the_best_and_uses_up_patience():
    callback = EarlyStoppingCallback(patience=2)
    assert [callback.on_step(reward=r) for r in (math.nan, -5.0, math.nan, math.nan)] == [True, True, True, False]
    assert callback.best == -5.0


def test_alone_evaluations_count_too():
    callback = EarlyStoppingCallback(patience=1)
    callback.on_eval(return_mean=3.0)
    callback.on_eval(return_mean=2.0)
    assert callback.on_step() is False and callback.reason == "no improvement over 3 in 1 evaluations"


def test_only_the_last_episode_of_an_evaluation_is_an_observation():
    callback = EarlyStoppingCallback(patience=1)
    for mean in (3.0, 2.0):
        for episode in (1, 2, 3):
            callback.on_eval(episode=episode, n_episodes=3, return_mean=mean if episode == 3 else 100.0)
    assert callback.best == 3.0 and callback.wait == 1


def test_in_a_training_with_evaluations_these_are_watched():
    stopping = EarlyStoppingCallback(patience=2)
    events = Events()
    algo = FakeAlgorithm(
        [EvalCallback(eval_freq=10, n_eval_episodes=2, verbose=False), CallbackList([stopping])], logger=events
    )
    assert algo.train(100, episodes=episodes(*range(50))) == 30
    assert stopping.best == 1.5 and stopping.reason == "no improvement over 1.5 in 2 evaluations"
    assert (30, "warning", {"message": f"stopped early: {stopping.reason}"}) in events.events


def test_in_a_training_without_evaluations_windows_of_ten_episodes_are_watched():
    stopping = EarlyStoppingCallback(patience=2)
    algo = FakeAlgorithm(stopping)
    assert algo.train(100, episodes=episodes(1.0, 3.0)) == 15
    assert stopping.best == 2.0 and stopping.reason == "no improvement over 2 in 2 windows of 10 episodes"


def test_a_final_evaluation_alone_does_not_replace_episodes():
    stopping = EarlyStoppingCallback(patience=2)
    algo = FakeAlgorithm([EvalCallback(eval_freq=0, n_eval_episodes=1, verbose=False), stopping])
    assert algo.train(100, episodes=episodes(*[1.0] * 10)) == 3


def test_in_a_training_the_reward_of_a_step_is_no_observation():
    stopping = EarlyStoppingCallback(patience=1)
    assert FakeAlgorithm(stopping).train(50, episodes=[]) is None
    assert stopping.best == -math.inf


def test_evaluations_of_another_make_take_over_from_episodes():
    stopping = EarlyStoppingCallback(patience=3)
    algo = FakeAlgorithm(stopping)
    algo.train(10, episodes=episodes(100.0))
    assert stopping.best == 100.0
    stopping.on_eval(algo=algo, return_mean=1.0)
    assert stopping.best == 1.0 and stopping.wait == 0


def test_another_training_after_the_stop_gets_its_own_patience():
    stopping = EarlyStoppingCallback(patience=1)
    algo = FakeAlgorithm(stopping)
    assert algo.train(100, episodes=episodes(*[1.0] * 10)) == 2
    assert algo.train(100, episodes=episodes(*[1.0] * 10)) == 3


@pytest.mark.parametrize("kwargs", [{"patience": 0}, {"patience": 1.5}, {"min_delta": -1.0}, {"min_delta": math.nan}])
def test_bad_arguments_are_refused_by_name(kwargs):
    with pytest.raises(ConfigError, match=next(iter(kwargs))):
        EarlyStoppingCallback(**kwargs)


def test_state_goes_on_from_where_it_was():
    algo = FakeAlgorithm(EarlyStoppingCallback(patience=2))
    algo.train(3, episodes=episodes(*[1.0] * 5))
    resumed = EarlyStoppingCallback(patience=2)
    resumed.load_state_dict(next(iter(algo.callbacks)).state_dict())
    assert resumed.best == 1.0
    again = FakeAlgorithm(resumed)
    again.step = 3
    assert again.train(100, episodes=episodes(*[1.0] * 5)) == 6
