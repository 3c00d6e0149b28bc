"""Make the datasets of this folder: ``python datasets/make.py`` (about six minutes on one core).

random        uniform actions
expert        the final policy of SAC with its preset, sampled
medium-replay everything that SAC saw, in order, until an evaluation reached the half-way point between the random
              and the expert policy; one update per four transitions, so that the way there is long

D4RL layout with ``next_observations``. The same machine and versions give the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rlox.algorithms.sac import SAC
from rlox.callbacks import EvalCallback
from rlox.data import OfflineDatasetBuffer, write_d4rl
from rlox.data.collect import collect
from rlox.envs import EnvSource, space_to_json

HERE = Path(__file__).parent
ENV = "Pendulum-v1"
ROWS = 20_000
MAX_REPLAY = 40_000


class Recording(gym.Wrapper):
    """Keeps every transition, in order."""

    def __init__(self, env: gym.Env, log: dict[str, list[Any]]) -> None:
        super().__init__(env)
        self.log, self._obs = log, None

    def reset(self, **kwargs: Any) -> Any:
        self._obs, info = self.env.reset(**kwargs)
        return self._obs, info

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        row = (self._obs, action, reward, terminated, truncated, obs)
        for key, value in zip(("obs", "actions", "rewards", "terminated", "truncated", "next_obs"), row, strict=True):
            self.log.setdefault(key, []).append(np.array(value))
        self._obs = obs
        return obs, reward, terminated, truncated, info


class StopAtReturn(EvalCallback):
    """Ends training once an evaluation reaches a return."""

    def __init__(self, bar: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bar = bar

    def on_step(self, **kwargs: Any) -> bool:
        super().on_step(**kwargs)
        return self.best_return < self.bar


def make_medium_replay(bar: float, seed: int) -> None:
    """Write the replay of a run up to the return ``bar``."""
    log: dict[str, list[Any]] = {}
    stop = StopAtReturn(bar, eval_env=ENV, eval_freq=1_000, n_eval_episodes=20, verbose=False)
    algo = SAC(
        lambda: Recording(gym.make(ENV), log),
        seed=seed,
        learning_rate=3e-4,
        learning_starts=1_000,
        train_freq=4,
        callbacks=stop,
    )
    algo.train(MAX_REPLAY)
    columns = {key: np.stack(values) for key, values in log.items()}
    meta = {
        "env_id": ENV,
        "seed": seed,
        "behaviour": "medium-replay",
        "stopped_at": stop.best_return,
        "observation_space": space_to_json(algo.obs_space.space),
        "action_space": space_to_json(algo.act_space.space),
    }
    write_d4rl(path("medium-replay"), columns, meta)


def make_random(seed: int) -> None:
    collect(EnvSource.of(ENV), None, n_steps=ROWS, seed=seed, out=path("random"), behaviour="random")


def make_expert(seed: int) -> None:
    algo = SAC(ENV, seed=seed, learning_rate=1e-3)
    algo.train(20_000)
    policy = algo.policy(seed=seed)
    collect(EnvSource.of(ENV), policy, n_steps=ROWS, seed=seed + 1, out=path("expert"), behaviour="expert")


def path(quality: str) -> Path:
    return HERE / f"pendulum-{quality}.h5"


def stats(quality: str) -> dict[str, float]:
    return OfflineDatasetBuffer.open(path(quality)).stats()


def main() -> None:
    qualities = ("random", "expert", "medium-replay")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("qualities", nargs="*", help=f"default: {' '.join(qualities)}")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for quality in args.qualities or qualities:
        if quality == "random":
            make_random(args.seed)
        elif quality == "expert":
            make_expert(args.seed)
        else:
            make_medium_replay((stats("random")["return_mean"] + stats("expert")["return_mean"]) / 2, args.seed)
        print(quality, stats(quality), flush=True)


if __name__ == "__main__":
    main()
