"""SAC in environments whose values are known: each wrong number would point to one fault."""

from __future__ import annotations

import numpy as np
import probes
import pytest

from rlox import SAC
from rlox.evaluation import evaluate

# Almost no entropy bonus, so that the values are those of the rewards alone.
FAST = dict(net_arch=[32], batch_size=64, learning_rate=3e-3, ent_coef=1e-4, buffer_size=4000, tau=0.1)
TOLERANCE = 0.02
# name, gamma, steps, observations, their values
PROBES = {
    "Constant": (0.99, 800, [[0]], [1]),
    "ObsDependent": (0.99, 800, [[-1], [1]], [-1, 1]),
    "Delayed": (0.99, 1500, [[0], [0.5]], [0.99, 1]),
    "Swap": (0.5, 1000, [[1, 0], [0, 1]], [2 / 3, 4 / 3]),
    "SwapBothFlags": (0.5, 800, [[1, 0], [0, 1]], [0, 1]),
    "Endless": (0.9, 2000, [[0]], [10]),
}
REACH = dict(
    net_arch=[64, 64], batch_size=128, learning_rate=1e-3, ent_coef=0.01, tau=0.02, gamma=0.5, learning_starts=1000,
    buffer_size=20_000,
)  # fmt: skip
EVERY_WAY = [(1, "sync"), (4, "sync"), (4, "async")]


def check_values(name, n_envs, vec):
    gamma, steps, obs, values = PROBES[name]
    algo = SAC(getattr(probes, name), n_envs=n_envs, vec=vec, gamma=gamma, **FAST)
    algo.train(steps)
    algo.close()
    np.testing.assert_allclose(algo.value(np.array(obs, np.float32)), values, atol=TOLERANCE)


def check_action(n_envs, vec):
    options = {**FAST, "net_arch": [64, 64], "learning_rate": 2e-3, "learning_starts": 300, "ent_coef": 1e-3}
    algo = SAC(probes.ActionScale, n_envs=n_envs, vec=vec, **options)
    algo.train(1500)
    algo.close()
    np.testing.assert_allclose(algo.predict([0.0]), [0.5, 4.0], atol=0.1)


@pytest.mark.parametrize(("name", "n_envs"), [*((name, 1) for name in PROBES), ("Delayed", 4), ("Swap", 4)])
def test_values_are_those_of_the_probe(name, n_envs):
    check_values(name, n_envs, "sync")


def test_the_best_action_is_found_in_a_box_of_other_bounds_per_dimension():
    check_action(1, "sync")


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize(("n_envs", "vec"), EVERY_WAY)
def test_values_do_not_depend_on_how_environments_are_stepped(name, n_envs, vec):
    check_values(name, n_envs, vec)


@pytest.mark.slow
@pytest.mark.parametrize(("n_envs", "vec"), EVERY_WAY)
def test_the_best_action_is_found_however_environments_are_stepped(n_envs, vec):
    check_action(n_envs, vec)


@pytest.mark.slow
@pytest.mark.parametrize(("n_envs", "vec"), EVERY_WAY)
def test_asymmetric_bounds_dict_observations_and_a_time_limit_reach_the_optimum(n_envs, vec):
    algo = SAC(probes.Reach, n_envs=n_envs, vec=vec, **REACH)
    algo.train(10_000)
    algo.close()
    played = evaluate(algo.policy(), algo.env_source, 1)
    assert played.return_mean > -0.15  # the optimum is 0, standing still gives -25, overshooting -100
