"""Make the datasets of this folder: ``python datasets/make.py`` (about ten minutes on one core).

random        uniform actions
expert        the final policy of SAC with its preset, sampled
medium-replay everything that SAC saw, in order, until an evaluation reached the half-way point between the random
              and the expert policy; one update per eight transitions, so that the way there is long

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
from rlox.data import write_d4rl
from rlox.data.collect import collect
from rlox.envs import EnvSource, space_to_json
from rlox.evaluation import evaluate

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


def make_medium_replay(bar: float, seed: int) -> int:
    """Write the replay of a run up to the return ``bar`` and return its rows."""
    log: dict[str, list[Any]] = {}
    stop = StopAtReturn(bar, eval_env=ENV, eval_freq=1_000, n_eval_episodes=20, verbose=False)
    algo = SAC(
        lambda: Recording(gym.make(ENV), log),
        seed=seed,
        learning_rate=1e-3,
        learning_starts=1_000,
        train_freq=8,
        callbacks=stop,
    )
    algo.train(MAX_REPLAY)
    columns = {key: np.stack(values) for key, values in log.items()}
    meta = {
        "env_id": ENV,
        "seed": seed,
        "behaviour": "medium-replay",
        "stopped_at": stop.best_return,
        "spaces": {"observation": space_to_json(algo.obs_space.space), "action": space_to_json(algo.act_space.space)},
    }
    write_d4rl(HERE / "pendulum-medium-replay.h5", columns, meta)
    return len(columns["rewards"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    source = EnvSource.of(ENV)
    made = collect(source, None, n_steps=ROWS, seed=seed, out=HERE / "pendulum-random.h5", behaviour="random")
    print("random", made)
    expert = SAC(ENV, seed=seed, learning_rate=1e-3)
    expert.train(20_000)
    expert_return = evaluate(expert.policy(), source, 100).return_mean
    made = collect(source, expert.policy(seed=seed), n_steps=ROWS, seed=seed + 1, out=HERE / "pendulum-expert.h5",
                   behaviour="expert")  # fmt: skip
    print("expert", expert_return, made)
    from rlox.data import OfflineDatasetBuffer

    random_return = OfflineDatasetBuffer.open(HERE / "pendulum-random.h5").stats()["return_mean"]
    rows = make_medium_replay((random_return + expert_return) / 2, seed)
    print("medium-replay", rows, OfflineDatasetBuffer.open(HERE / "pendulum-medium-replay.h5").stats())


if __name__ == "__main__":
    main()
