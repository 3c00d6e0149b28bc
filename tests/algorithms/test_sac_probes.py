"""SAC in environments whose values are known: each wrong number would point to one fault."""

from __future__ import annotations

import numpy as np
import probes
import pytest

from rlox import SAC
from rlox.evaluation import evaluate

FAST = dict(net_arch=[32], batch_size=64, learning_rate=3e-3, ent_coef=1e-3, buffer_size=3000, tau=0.1)


@pytest.mark.parametrize(
    ("name", "n_envs", "gamma", "steps", "obs", "values", "tolerance"),
    [
        ("Constant", 1, 0.99, 800, [[0]], [1], 0.02),
        ("ObsDependent", 1, 0.99, 800, [[-1], [1]], [-1, 1], 0.02),
        ("Delayed", 1, 0.99, 1200, [[0], [0.5]], [0.99, 1], 0.02),
        ("Delayed", 4, 0.99, 1200, [[0], [0.5]], [0.99, 1], 0.02),
        ("Swap", 1, 0.5, 1000, [[1, 0], [0, 1]], [2 / 3, 4 / 3], 0.02),
        ("Swap", 4, 0.5, 1000, [[1, 0], [0, 1]], [2 / 3, 4 / 3], 0.02),
        ("SwapBothFlags", 1, 0.5, 800, [[1, 0], [0, 1]], [0, 1], 0.02),
        ("Endless", 1, 0.9, 1200, [[0]], [10], 0.15),
    ],
)
def test_values_are_those_of_the_probe(name, n_envs, gamma, steps, obs, values, tolerance):
    algo = SAC(getattr(probes, name), n_envs=n_envs, gamma=gamma, **FAST)
    algo.train(steps)
    np.testing.assert_allclose(algo.value(np.array(obs, np.float32)), values, atol=tolerance)


def test_the_best_action_is_found_in_a_box_of_other_bounds_per_dimension():
    algo = SAC(probes.ActionScale, **{**FAST, "net_arch": [64, 64], "learning_rate": 2e-3, "learning_starts": 300})
    algo.train(1500)
    np.testing.assert_allclose(algo.predict([0.0]), [0.5, 4.0], atol=0.1)


@pytest.mark.slow
def test_the_target_is_reached_from_dict_observations_with_a_time_limit():
    options = {"net_arch": [64, 64], "batch_size": 64, "learning_starts": 1000, "buffer_size": 10_000}
    algo = SAC(probes.Reach, ent_coef=0.01, learning_rate=1e-3, tau=0.01, gamma=0.9, **options)
    algo.train(5000)
    played = evaluate(algo.policy(), algo.env_source, 5)
    assert played.return_mean > -5  # the best is 0, going nowhere -25, going too far beyond -100
