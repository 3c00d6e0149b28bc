"""Probe environments: each has an answer known in closed form, and gives another for one known fault.

All have continuous actions. Where the action does not matter it is a Box of one dimension.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

UNIT = Box(-1.0, 1.0, (1,), np.float32)


def vector(*values):
    return np.array(values, np.float32)


class Probe(gym.Env):
    """An environment of one observation number and one action that does not matter."""

    observation_space = Box(-10.0, 10.0, (1,), np.float32)
    action_space = UNIT

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.start(), {}

    def start(self):
        return vector(0.0)


class Constant(Probe):
    """Probe 1: obs 0, reward 1, one step. V = Q = 1."""

    def step(self, action):
        return vector(0.0), 1.0, True, False, {}


class ObsDependent(Probe):
    """Probe 2: obs −1 or 1 at random, reward = obs, one step. V(−1) = −1, V(1) = 1."""

    def start(self):
        self.sign = 1.0 if self.np_random.random() < 0.5 else -1.0
        return vector(self.sign)

    def step(self, action):
        return vector(self.sign), self.sign, True, False, {}


class Delayed(Probe):
    """Probe 3: obs 0 then 0.5, rewards 0 then 1, two steps. With gamma 0.99, V(0) = 0.99 and V(0.5) = 1."""

    def step(self, action):
        self.t += 1
        return vector(0.5 * self.t), float(self.t - 1), self.t == 2, False, {}


class Swap(Probe):
    """Probe 6: two one-hot states, each step moves to the other, reward 1 on leaving state 1, truncated every step.

    With gamma 0.5, V = (2/3, 4/3). As terminal it would be (0, 1); with the reset observation as next_obs (.5, 1.5).
    """

    observation_space = Box(0.0, 1.0, (2,), np.float32)
    both_flags = False

    def start(self):
        self.state = int(self.np_random.integers(2))
        return np.eye(2, dtype=np.float32)[self.state]

    def step(self, action):
        reward = float(self.state)
        self.state = 1 - self.state
        return np.eye(2, dtype=np.float32)[self.state], reward, self.both_flags, True, {}


class SwapBothFlags(Swap):
    """Probe 8: as Swap with both flags set: terminated wins, V = (0, 1)."""

    both_flags = True


class ActionScale(Probe):
    """Probe 7: Box low (−1, 0), high (1, 5), reward −Σ((a − a*) / half range)², a* = (.5, 4), one step.

    The action learnt is (.5, 4), stored as (.5, .6) in [−1, 1].
    """

    action_space = Box(vector(-1.0, 0.0), vector(1.0, 5.0))
    best = vector(0.5, 4.0)
    half_range = vector(1.0, 2.5)

    def step(self, action):
        error = (np.asarray(action, np.float64) - self.best) / self.half_range
        return vector(0.0), -float(np.sum(error * error)), True, False, {}


class Endless(Probe):
    """Probe 9: one state, reward 1, truncated after 5 steps. With gamma 0.9, V = 10; as terminal 3.571."""

    def step(self, action):
        self.t += 1
        return vector(0.0), 1.0, False, self.t == 5, {}


class Echo(Probe):
    """Probe 12: obs (episode, t), reward t, truncated at t = 3; every return is 6, every length 3.

    In every stored row obs[0] equals next_obs[0], and no reward is 0.
    """

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self):
        self.episode = -1

    def start(self):
        self.episode += 1
        return vector(self.episode, 0)

    def step(self, action):
        self.t += 1
        return vector(self.episode, self.t), float(self.t), False, self.t == 3, {}


class OneOrNine(Probe):
    """Probe 14: an episode has 1 or 9 steps at random, reward 1 each. The mean return is 5, for the first to end 2.4."""

    def start(self):
        self.length = 1 if self.np_random.random() < 0.5 else 9
        return vector(0.0)

    def step(self, action):
        self.t += 1
        return vector(0.0), 1.0, self.t == self.length, False, {}


class Reach(gym.Env):
    """Steer to a target with asymmetric bounds, observed as a Dict, with a time limit.

    The position starts at 0 and moves by the action, which lies in [−0.5, 1.5] × [0, 4]; the target is (1, 2). The
    reward of a step is −|position − target|². Going there in the first step and then standing still is the best:
    return 0 over the 5 steps, truncated; the best first action is (1, 2), later ones (0, 0). The agent sees position,
    target and which of two phases it is in (a Discrete that says whether the target was reached).
    """

    action_space = Box(vector(-0.5, 0.0), vector(1.5, 4.0))
    observation_space = Dict({
        "position": Box(-100.0, 100.0, (2,), np.float64),
        "phase": Discrete(2),
        "target": Box(-100.0, 100.0, (2,), np.float32),
    })
    target = np.array([1.0, 2.0])
    limit = 5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.t = np.zeros(2), 0
        return self.obs(), {}

    def obs(self):
        reached = int(np.abs(self.position - self.target).max() < 1e-3)
        return {"position": self.position.copy(), "phase": reached, "target": self.target.astype(np.float32)}

    def step(self, action):
        self.position = self.position + action
        self.t += 1
        reward = -float(np.sum((self.position - self.target) ** 2))
        return self.obs(), reward, False, self.t == self.limit, {}


class Noisy(gym.Env):
    """Random walk in the environment's own generator; terminates outside [−2, 2], is truncated after 20 steps."""

    observation_space = Box(-100.0, 100.0, (3,), np.float64)
    action_space = Box(vector(-1.0, -2.0), vector(1.0, 3.0))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.normal(size=3) * 0.1, 0
        return self.x, {}

    def step(self, action):
        self.x += 0.3 * self.np_random.normal(size=3) + 0.1 * float(action.sum())  # one array, handed out every time
        action *= 0  # an environment may write into its action
        self.t += 1
        return self.x, np.float32(self.x[0]), bool(np.abs(self.x).max() > 2), self.t == 20, {}
