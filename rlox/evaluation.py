"""Evaluation: a fixed number of episodes per environment, on seeds of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .envs.make import vectorize
from .envs.slot import EpisodePlan
from .envs.source import EnvSource
from .envs.vector import VectorEnv
from .errors import ConfigError, EnvError
from .seeding import check_seed, derive

ENDLESS = 100_000  # steps after which an episode without --max-episode-steps is taken to have no end
CHECK_EVERY = 1000
RESAMPLES = 10_000


class Policy(Protocol):
    """What evaluation needs of a policy."""

    def act(self, obs: NDArray[np.float32], deterministic: bool) -> NDArray[Any]:
        """Return (N, act_dim) or (N,) actions in the environment's units for (N, dim) encoded observations."""
        ...

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Forget what is carried from step to step, in the environments where ``mask`` is True."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """The episodes of one evaluation, in the order of their numbers.

    Attributes
    ----------
    returns : (n,) float64 array
        Undiscounted, of the environment's own rewards.
    lengths : (n,) int64 array
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]

    @property
    def return_mean(self) -> float:
        return float(self.returns.mean())

    @property
    def return_std(self) -> float:
        """Standard deviation over the episodes (divided by n)."""
        return float(self.returns.std())

    @property
    def length_mean(self) -> float:
        return float(self.lengths.mean())

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the percentile bootstrap interval of the mean return, from a fixed seed."""
        generator = np.random.default_rng(derive(0, "bootstrap"))
        n = len(self.returns)
        means = np.concatenate([
            self.returns[generator.integers(n, size=(100, n))].mean(axis=1) for _ in range(RESAMPLES // 100)
        ])
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def summary(self) -> dict[str, float]:
        """Return mean, std, extremes, 95 % bootstrap interval, mean length and number of episodes."""
        low, high = self.interval()
        return {
            "return_mean": self.return_mean,
            "return_std": self.return_std,
            "return_min": float(self.returns.min()),
            "return_max": float(self.returns.max()),
            "return_low": low,
            "return_high": high,
            "length_mean": self.length_mean,
            "n_episodes": len(self.returns),
        }


def evaluate(
    policy: Policy,
    source: EnvSource,
    n_episodes: int,
    *,
    seed: int = 0,
    n_envs: int = 1,
    deterministic: bool = True,
    max_episode_steps: int | None = None,
    on_episode: Callable[[int, float, int], object] | None = None,
    vec: Literal["sync", "async"] = "sync",
    timeout_s: float = 60.0,
) -> Evaluation:
    """Play ``n_episodes`` episodes with a policy in environments of their own.

    Episode k is reset with seed ``derive(seed, "eval", k)`` and played in environment k mod n_envs. Every environment
    has a fixed number of episodes, so short ones are not favoured, and with a deterministic policy the result does
    not depend on ``n_envs``.

    Parameters
    ----------
    policy : object with ``act`` and ``reset``
        Acts in ``min(n_envs, n_episodes)`` environments at once.
    source : EnvSource
    n_episodes : int
        At least 1.
    seed : int
        In 0…2³²−1.
    max_episode_steps : int, optional
        Cut episodes there (truncated).
    vec, timeout_s
        As :func:`rlox.envs.vectorize` takes them.
    on_episode : callable, optional
        Called as ``on_episode(k, episode_return, episode_length)`` once per episode, in the order of k.

    Raises
    ------
    ConfigError
        ``n_episodes``, ``n_envs`` or ``max_episode_steps`` below 1.
    EnvError
        An environment fails, or an episode does not end within 100,000 steps and ``max_episode_steps`` is not given.
    """
    for name, value in (("n_episodes", n_episodes), ("n_envs", n_envs), ("max_episode_steps", max_episode_steps)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name} is {value!r}, must be an integer of at least 1", param=name, value=value)
    n_envs = min(n_envs, n_episodes)
    plan = EpisodePlan(check_seed(seed), n_envs, "eval", n_episodes, max_episode_steps)
    played = _Played(n_envs, n_episodes, on_episode)
    with vectorize(source, n_envs, seed=seed, vec=vec, timeout_s=timeout_s, plan=plan) as envs:
        _play(policy, envs, played, deterministic, may_be_endless=max_episode_steps is None)
    return Evaluation(played.returns, played.lengths)


def _play(policy: Policy, envs: VectorEnv, played: _Played, deterministic: bool, may_be_endless: bool) -> None:
    obs = envs.reset()
    policy.reset(np.ones(envs.n_envs, np.bool_))
    calls = 0
    while not played.complete:
        step = envs.step(policy.act(obs, deterministic))
        obs = step.obs
        calls += 1
        if step.episodes:
            policy.reset(step.terminated | step.truncated)
            for episode in step.episodes:
                played.add(episode["env"], episode["return"], episode["length"])
        if may_be_endless and calls % CHECK_EVERY == 0 and max(envs.lengths) >= ENDLESS:
            raise EnvError(
                f"an evaluation episode has not ended after {ENDLESS} steps",
                hint="limit episodes with `--max-episode-steps N`",
            )


class _Played:
    """Episodes as they finish, reported in the order of their numbers."""

    def __init__(self, n_envs: int, n_episodes: int, report: Callable[[int, float, int], object] | None) -> None:
        self.returns: NDArray[np.float64] = np.zeros(n_episodes)
        self.lengths: NDArray[np.int64] = np.zeros(n_episodes, np.int64)
        self._next_of = list(range(n_envs))  # number of the episode that each environment plays
        self._n_envs = n_envs
        self._reported = 0
        self._report = report

    @property
    def complete(self) -> bool:
        return self._reported == len(self.lengths)

    def add(self, env: int, episode_return: float, length: int) -> None:
        k = self._next_of[env]
        self._next_of[env] += self._n_envs
        self.returns[k], self.lengths[k] = episode_return, length
        while self._reported < len(self.lengths) and self.lengths[self._reported] > 0:
            k, self._reported = self._reported, self._reported + 1
            if self._report is not None:
                self._report(k, float(self.returns[k]), int(self.lengths[k]))
