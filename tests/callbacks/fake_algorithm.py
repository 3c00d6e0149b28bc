"""A small algorithm and environment for tests of callbacks: no training, only what callbacks look at."""

import gymnasium as gym
import numpy as np

from rlox.callbacks import CallbackList, PhaseTimer
from rlox.envs import EnvSource
from rlox.logging import LoggerCallback, LoggerList


class CountdownEnv(gym.Env):
    """Episodes of ``length`` steps; each step's reward is ``scale`` times the action."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    made = 0

    def __init__(self, length=3, scale=1.0, render_mode=None):
        self.length, self.scale, self.render_mode = length, scale, render_mode
        type(self).made += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = self.length
        return self._obs(), {}

    def step(self, action):
        self.left -= 1
        return self._obs(), float(np.asarray(action).item()) * self.scale, self.left == 0, False, {}

    def render(self):
        return np.full((5, 8, 3), self.left, np.uint8)

    def _obs(self):
        return np.array([self.left, 0.5], np.float32)


class FixedPolicy:
    def __init__(self, algo, n_envs):
        self.algo, self.n_envs = algo, n_envs

    def act(self, obs, deterministic=True):
        self.algo.acted.append((len(obs), deterministic))
        return np.full((len(obs), 1), self.algo.action, np.float32)

    def reset(self, mask=None):
        pass


class Events(LoggerCallback):
    """Keeps everything that loggers are told."""

    def __init__(self):
        self.evals, self.events, self.flushed = [], [], 0

    def on_eval(self, step, metrics):
        self.evals.append((step, dict(metrics)))

    def on_event(self, step, kind, fields):
        self.events.append((step, kind, dict(fields)))

    def flush(self):
        self.flushed += 1


class Run:
    def __init__(self, path):
        self.path = path
        self.checkpoints = path / "checkpoints"


class FakeAlgorithm:
    def __init__(self, callbacks=None, *, env=CountdownEnv, logger=None, run=None, action=0.5):
        self.env_source = None if env is None else EnvSource.of(env)
        self.seed, self.step, self.action, self.run = 3, 0, action, run
        self.acted, self.saves = [], []
        self.phases = PhaseTimer()
        self.loggers = LoggerList(logger)
        self.callbacks = CallbackList(callbacks)
        self.callbacks.on_attach(self)

    def policy(self, n_envs=1):
        return FixedPolicy(self, n_envs)

    def predict(self, obs, deterministic=True):
        return self.policy().act(obs, deterministic)

    def save(self, path):
        path.write_text(f"model at {self.step}")
        self.saves.append(path)

    def train(self, steps, stride=1, reason="finished", **hooks):
        """Fire the hooks of a training and return the step at which a callback voted to stop, or None."""
        end = self.step + steps
        self.phases.switch("other")
        self.callbacks.on_training_start(algo=self, step=self.step, total_timesteps=end)
        stopped = None
        while self.step < end and stopped is None:
            self.step += stride
            if not self.callbacks.on_step(algo=self, step=self.step, reward=0.0, metrics={}, **hooks):
                stopped, reason = self.step, "stopped"
        self.callbacks.on_training_end(algo=self, step=self.step, metrics={}, reason=reason)
        self.phases.switch(None)
        return stopped
