"""The probe environments themselves: their answers hold, and they keep gymnasium's contract."""

import numpy as np
import probes
import pytest

from rlox.envs import EnvSource, vectorize

ALL = ["Constant", "ObsDependent", "Delayed", "Swap", "SwapBothFlags", "ActionScale", "Endless", "Echo", "OneOrNine",
       "Reach", "Noisy"]  # fmt: skip


def values(name, gamma, n_episodes):
    """Return the mean discounted return per first observation, bootstrapping truncations by fixed-point iteration."""
    with vectorize(EnvSource.of(getattr(probes, name)), 1, seed=0) as envs:
        obs, rows = envs.reset(), []
        while n_episodes:
            step = envs.step(np.zeros((1, envs.act_space.dim), np.float32))
            rows.append((tuple(obs[0]), float(step.rewards[0]), step.terminated[0], tuple(step.next_obs[0])))
            obs = step.obs
            n_episodes -= len(step.episodes)
    value = dict.fromkeys([row[0] for row in rows] + [row[3] for row in rows], 0.0)
    for _ in range(200):
        new = {s: [] for s in value}
        for s, reward, terminated, successor in rows:
            new[s].append(reward + gamma * (0 if terminated else value[successor]))
        value = {s: float(np.mean(targets)) if targets else 0.0 for s, targets in new.items()}
    return value


@pytest.mark.parametrize("name, gamma, expected", [
    ("Constant", 0.99, {(0.0,): 1}),
    ("ObsDependent", 0.99, {(-1.0,): -1, (1.0,): 1}),
    ("Delayed", 0.99, {(0.0,): 0.99, (0.5,): 1}),
    ("Swap", 0.5, {(1.0, 0.0): 2 / 3, (0.0, 1.0): 4 / 3}),
    ("SwapBothFlags", 0.5, {(1.0, 0.0): 0, (0.0, 1.0): 1}),
    ("Endless", 0.9, {(0.0,): 10}),
])  # fmt: skip
def test_values_are_what_the_probe_promises(name, gamma, expected):
    value = values(name, gamma, 40)
    assert {s: value[s] for s in expected} == pytest.approx(expected, abs=1e-6)


def test_action_scale_is_best_at_its_optimum_only():
    env = probes.ActionScale()
    env.reset(seed=0)
    assert env.step(env.best)[1] == 0
    assert env.step(np.array([0.5, 1.0]))[1] == pytest.approx(-1.44)


@pytest.mark.parametrize("name", ALL)
def test_spaces_are_kept_at_every_step(name):
    env = getattr(probes, name)()
    generator = np.random.default_rng(0)
    low, high = env.action_space.low, env.action_space.high
    assert env.observation_space.contains(env.reset(seed=1)[0])
    for seed in range(60):
        obs, reward, terminated, truncated, _ = env.step(generator.uniform(low, high).astype(np.float32))
        assert env.observation_space.contains(obs) and np.isfinite(reward)
        if terminated or truncated:
            env.reset(seed=seed)
