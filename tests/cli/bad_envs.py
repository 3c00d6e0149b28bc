"""Environments with one fault each, as a user's own file would have them."""

from __future__ import annotations

import os

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from own_envs import Walk


class TupleObs(Walk):
    observation_space = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)])


class GraphObs(Walk):
    observation_space = spaces.Graph(spaces.Discrete(2), None)


class Image(Walk):
    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)


class ManyActions(Walk):
    action_space = spaces.MultiDiscrete([2, 3])


class NoActions(Walk):
    action_space = spaces.Box(-1, 1, (0,), np.float32)


def _bounds(low: list[float], high: list[float]) -> spaces.Box:
    """Return a space with bounds that gymnasium itself would refuse."""
    box = spaces.Box(-1, 1, (2,), np.float32)
    box.low, box.high = np.float32(low), np.float32(high)
    return box


class Reversed(Walk):
    action_space = _bounds([-1, 2], [1, 1])


class NaNBound(Walk):
    action_space = _bounds([-1, -1], [1, np.nan])


class Late(Walk):
    """Has its fault in the 130th step."""

    steps = 0

    def step(self, action):
        self.steps += 1
        obs, reward, terminated, truncated, info = super().step(action)
        return self.fault(obs, reward, terminated, truncated, info) if self.steps == 130 else (obs, reward, terminated, truncated, info)


class LateShape(Late):
    def fault(self, obs, *rest):
        return np.zeros(3, np.float32), *rest


class LateText(Late):
    def fault(self, obs, *rest):
        return np.array(["a", "b"]), *rest


class LateNaN(Late):
    def fault(self, obs, *rest):
        return np.array([0.0, np.nan], np.float32), *rest


class LateReward(Late):
    def fault(self, obs, reward, *rest):
        return obs, "much", *rest


class LateOldStyle(Late):
    def fault(self, obs, reward, terminated, truncated, info):
        return obs, reward, terminated, info


class LateExit(Late):
    """Ends its process."""

    def fault(self, *rest):
        os._exit(3)


class Outside(Walk):
    """Its first observation lies outside its space."""

    def _obs(self):
        return np.array([99.0, 0.0], np.float32)


class RaisesInReset(Walk):
    def reset(self, *, seed=None, options=None):
        raise OSError("no [/red] camera")


class Needs(Walk):
    """Needs a package that is not there."""

    def __init__(self, **kwargs):
        raise gym.error.DependencyNotInstalled("no physics engine, run `pip install physics`")
