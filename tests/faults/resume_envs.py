"""Environments and a run of a script's own for the tests that kill runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rlox import SAC
from rlox.callbacks import CheckpointCallback
from rlox.logging import JSONLLogger


class RandomLengths(gym.Env):
    """Dict observations, and episodes whose length and end the environment draws from its own generator."""

    observation_space = gym.spaces.Dict(
        {"position": gym.spaces.Box(-9.0, 9.0, (2,), np.float32), "mode": gym.spaces.Discrete(3)}
    )
    action_space = gym.spaces.Box(np.array([-1.0, -3.0], np.float32), np.array([2.0, 1.0], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 25))
        self.position = self.np_random.normal(size=2)
        return self._obs(), {}

    def step(self, action):
        self.left -= 1
        self.position = np.clip(self.position + 0.1 * action + 0.05 * self.np_random.normal(size=2), -9, 9)
        over = self.left == 0
        terminated = over and bool(self.np_random.random() < 0.5)
        return self._obs(), -float(np.square(self.position).sum()), terminated, over and not terminated, {}

    def _obs(self):
        mode = int(self.np_random.integers(3))
        return {"position": self.position.astype(np.float32), "mode": mode}


class OwnActor(nn.Module):
    """A stochastic actor that knows no generator but torch's global one."""

    def __init__(self, obs_dim=3, act_dim=1):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(obs_dim, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 2 * act_dim))

    def sample(self, obs):
        mean, log_std = self.body(obs).chunk(2, -1)
        std = log_std.clamp(-5, 1).exp()
        raw = mean + std * torch.randn_like(mean)
        actions = raw.tanh()
        density = torch.distributions.Normal(mean, std).log_prob(raw) - torch.log(1 - actions.square() + 1e-6)
        return actions, density.sum(-1)

    def deterministic(self, obs):
        return self.body(obs).chunk(2, -1)[0].tanh()


def own_run(folder: Path, steps: int) -> None:
    """Train with a script's own actor up to ``steps``, going on where an earlier process was killed."""
    torch.manual_seed(3)  # the actor's first weights, drawn outside of rlox
    kept, log = folder / "last.pt", JSONLLogger(folder / "metrics.jsonl", log_interval=50)
    saver = CheckpointCallback(100, folder, verbose=False, keep_last=2, resume=True)
    if kept.exists():
        algo = SAC.from_checkpoint(kept, actor=OwnActor(), callbacks=saver, logger=log)
    else:  # killed before there was anything to go on from: the log starts over too
        (folder / "metrics.jsonl").unlink(missing_ok=True)
        algo = SAC("Pendulum-v1", actor=OwnActor(), callbacks=saver, logger=log, net_arch=[32, 32], batch_size=32,
                   buffer_size=5000, learning_starts=100)  # fmt: skip
    (folder / "pid.json").write_text(json.dumps({"pid": os.getpid()}))
    algo.train(steps - algo.step)


if __name__ == "__main__":
    torch.set_num_threads(1)
    own_run(Path(sys.argv[1]), int(sys.argv[2]))
