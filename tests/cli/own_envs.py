"""Environments that a user could have written, for tests of the command line."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box


class Walk(gym.Env):
    """One number that the action moves; reward is minus its distance from ``goal``; ten steps."""

    observation_space = Box(-10.0, 10.0, (2,), np.float32)
    action_space = Box(-1.0, 3.0, (1,), np.float32)
    made: list[int] = []  # noqa: RUF012

    def __init__(self, goal: float = 1.0, render_mode: str | None = None) -> None:
        self.goal = goal
        self.render_mode = render_mode
        Walk.made.append(os.getpid())

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, float(self.np_random.uniform(-1, 1))
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        self.x = float(np.clip(self.x + 0.1 * float(action[0]), -10, 10))
        return self._obs(), -abs(self.x - self.goal), False, self.t == 10, {}

    def _obs(self):
        return np.array([self.x, self.t / 10], np.float32)


class Hanging(Walk):
    """Never returns from its third step."""

    def step(self, action):
        if self.t == 2:
            threading.Event().wait()
        return super().step(action)


class Failing(Walk):
    """Raises in its 150th step."""

    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 150:
            raise ValueError("the motor [/red] is hot")
        return super().step(action)


class Signalling(Walk):
    """Sends this process the signal named in ``signal`` in its 120th step."""

    steps = 0

    def __init__(self, signal: str = "SIGTERM", **kwargs) -> None:
        super().__init__(**kwargs)
        self.signal = signal

    def step(self, action):
        import signal

        self.steps += 1
        if self.steps == 120:
            os.kill(os.getpid(), getattr(signal, self.signal))
        return super().step(action)


class Endless(Walk):
    """A reward that is not finite in its 130th step."""

    steps = 0

    def step(self, action):
        self.steps += 1
        obs, reward, *rest = super().step(action)
        return obs, float("nan") if self.steps == 130 else reward, *rest


class Discrete(Walk):
    action_space = gym.spaces.Discrete(3)


class Unbounded(Walk):
    action_space = Box(-np.inf, np.inf, (1,), np.float32)


class Text(Walk):
    observation_space = gym.spaces.Text(5)


def touch(path: str) -> gym.Env:
    """Leave a file behind when it is called."""
    Path(path).touch()
    return Walk()


gym.register("OwnWalk-v0", entry_point=Walk)
