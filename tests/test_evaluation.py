"""Evaluation: fixed episodes on fixed seeds, whatever the number of environments."""

import numpy as np
import pytest
from probes import Delayed, Echo, Noisy, OneOrNine, Probe, Reach, vector

from rlox.envs import EnvSource
from rlox.errors import ConfigError, EnvError
from rlox.evaluation import Evaluation, evaluate
from rlox.seeding import derive


class Still:
    """Do nothing, and note what evaluation asks for."""

    def __init__(self, act_dim=1):
        self.act_dim = act_dim
        self.resets, self.asked = [], []

    def act(self, obs, deterministic):
        self.asked.append((obs.shape, deterministic))
        return np.zeros((len(obs), self.act_dim), np.float32)

    def reset(self, mask):
        self.resets.append(mask.tolist())


class Reacher:
    """The optimum of Reach: move to the target at once, then stand still."""

    def act(self, obs, deterministic):
        phase, position, target = obs[:, 1:2], obs[:, 2:4], obs[:, 4:6]
        return (1 - phase) * (target - position)

    def reset(self, mask):
        pass


def test_known_optimum_is_reached_in_asymmetric_bounds():
    result = evaluate(Reacher(), EnvSource.of(Reach), 3, n_envs=2)
    assert result.returns.tolist() == [0, 0, 0] and result.lengths.tolist() == [5, 5, 5]
    assert evaluate(Still(2), EnvSource.of(Reach), 1).returns.tolist() == [-25]


@pytest.mark.parametrize("n_episodes", [1, 4, 7])
def test_result_does_not_depend_on_the_number_of_environments(n_episodes):
    one = evaluate(Still(2), EnvSource.of(Noisy), n_episodes, seed=3)
    for n_envs in (2, 3, 10):
        other = evaluate(Still(2), EnvSource.of(Noisy), n_episodes, seed=3, n_envs=n_envs)
        assert one.returns.tobytes() == other.returns.tobytes()
        assert one.lengths.tobytes() == other.lengths.tobytes()
    assert len(set(one.returns)) == n_episodes


def test_workers_give_the_same_result():
    one = evaluate(Still(2), EnvSource.of(Noisy), 3, seed=3)
    two = evaluate(Still(2), EnvSource.of(Noisy), 3, seed=3, n_envs=2, vec="async")
    assert one.returns.tobytes() == two.returns.tobytes()


def test_first_episodes_are_the_same_when_more_are_asked_for():
    few, many = (evaluate(Still(2), EnvSource.of(Noisy), n, n_envs=2) for n in (3, 8))
    assert few.returns.tolist() == many.returns[:3].tolist()
    other = evaluate(Still(2), EnvSource.of(Noisy), 3, seed=1)
    assert not set(few.returns) & set(other.returns)


def test_every_episode_has_its_own_seed_and_none_is_started_in_vain():
    seeds = []

    class Recording(OneOrNine):
        def reset(self, *, seed=None, options=None):
            seeds.append(seed)
            return super().reset(seed=seed)

    evaluate(Still(), EnvSource.of(Recording), 7, seed=5, n_envs=3)
    assert sorted(seeds) == sorted(derive(5, "eval", k) for k in range(7))


def test_short_episodes_are_not_favoured():
    means = [evaluate(Still(), EnvSource.of(OneOrNine), 10, seed=s, n_envs=10).return_mean for s in range(60)]
    assert abs(np.mean(means) - 5) < 0.5  # the first ten to finish would give 2.4


def test_environments_that_have_played_their_share_are_left_alone():
    class Counting(OneOrNine):
        steps = 0

        def step(self, action):
            Counting.steps += 1
            return super().step(action)

    result = evaluate(Still(), EnvSource.of(Counting), 5, n_envs=5)
    assert Counting.steps == result.lengths.sum()


def test_policy_is_reset_where_episodes_end():
    policy = Still()
    evaluate(policy, EnvSource.of(Delayed), 3, n_envs=2, deterministic=False)
    assert policy.resets == [[True, True], [True, True], [True, False]]
    assert set(policy.asked) == {((2, 1), False)}


def test_episodes_are_reported_once_each_in_order():
    reported = []
    result = evaluate(
        Still(), EnvSource.of(OneOrNine), 12, n_envs=4, on_episode=lambda *episode: reported.append(episode)
    )
    assert reported == [(k, r, n) for k, (r, n) in enumerate(zip(result.returns, result.lengths, strict=True))]
    assert {1, 9} == set(result.lengths.tolist())


class Forever(Probe):
    def step(self, action):
        return vector(0.0), 1.0, False, False, {}


def test_episodes_are_cut_at_max_episode_steps():
    result = evaluate(Still(), EnvSource.of(Forever), 3, n_envs=2, max_episode_steps=7)
    assert result.lengths.tolist() == [7, 7, 7] and result.returns.tolist() == [7, 7, 7]
    assert evaluate(Still(), EnvSource.of(Echo), 1, max_episode_steps=7).lengths.tolist() == [3]


def test_environment_that_never_ends_is_an_error_with_the_option_to_use(monkeypatch):
    monkeypatch.setattr("rlox.evaluation.ENDLESS", 2000)
    with pytest.raises(EnvError, match="not ended after 2000 steps") as caught:
        evaluate(Still(), EnvSource.of(Forever), 1)
    assert "--max-episode-steps" in caught.value.hint and caught.value.exit_code == 7


@pytest.mark.parametrize("options, words", [
    ({"n_episodes": 0}, "n_episodes is 0"), ({"n_episodes": -1}, "n_episodes is -1"),
    ({"n_envs": 0}, "n_envs is 0"), ({"max_episode_steps": 0}, "max_episode_steps is 0"),
    ({"n_episodes": 1.5}, r"n_episodes is 1\.5"), ({"seed": -1}, "seed is -1"),
])  # fmt: skip
def test_counts_below_one_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        evaluate(Still(), EnvSource.of(Echo), **{"n_episodes": 1, **options})


def test_instance_is_evaluated_and_given_back():
    source = EnvSource.of(Echo())
    for _ in range(2):
        assert evaluate(Still(), source, 2).returns.tolist() == [6, 6]


def test_summary_is_hand_computed_and_the_interval_repeats():
    result = Evaluation(np.array([1.0, 2.0, 3.0, 6.0]), np.array([1, 1, 2, 4]))
    summary = result.summary()
    assert (summary["return_mean"], summary["length_mean"], summary["n_episodes"]) == (3, 2, 4)
    assert summary["return_std"] == pytest.approx(3.5**0.5)
    assert (summary["return_min"], summary["return_max"]) == (1, 6)
    assert 1 <= summary["return_low"] < 3 < summary["return_high"] <= 6
    assert result.summary() == summary


def test_interval_covers_about_two_standard_errors():
    returns = np.random.default_rng(0).normal(10, 2, size=400)
    low, high = Evaluation(returns, np.ones(400, np.int64)).interval()
    assert (high - low) / 2 == pytest.approx(1.96 * returns.std() / 20, rel=0.1)


def test_interval_of_one_episode_is_a_point():
    assert Evaluation(np.array([4.0]), np.array([2])).interval() == (4, 4)
