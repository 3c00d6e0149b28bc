"""One environment of a vector: seeded resets, checked outputs. The same code runs in-process and in a worker."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from ..errors import printable
from ..seeding import derive
from . import own_state
from .failure import EnvFailure
from .global_random import drawn_since, global_state
from .spaces import ActionSpace, Float32, ObsSpace
from .unfinished import Own, Unfinished

MAX_REWARD = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class EpisodePlan:
    """Which seed each episode is reset with, how many episodes there are, and how long they may be.

    Training: environment i, episode k has seed ``derive(seed, "env/i", k)``; k counts from ``first``. Evaluation
    (``shared`` is a stream's name): the episodes of all environments are numbered through, environment i plays i, i + N,
    i + 2N, …, so that episode number k has the same seed whatever N is.
    """

    seed: int
    n_envs: int
    shared: str | None = None
    n_episodes: int | None = None
    max_episode_steps: int | None = None
    first: int = 0

    def seed_of(self, env: int, episode: int) -> int:
        """Return the 64-bit reset seed of an environment's episode."""
        if self.shared is None:
            return derive(self.seed, f"env/{env}", episode)
        return derive(self.seed, self.shared, env + episode * self.n_envs)

    def quota(self, env: int) -> float:
        """Return how many episodes an environment plays; infinity when there is no end."""
        return math.inf if self.n_episodes is None else len(range(env, self.n_episodes, self.n_envs))


class Outcome(NamedTuple):
    """What one step of one environment gave, its next observation aside."""

    reward: float
    terminated: bool
    truncated: bool
    obs: Float32 | None  # reset observation of the next episode, where this one ended and another follows


class Slot:
    """An environment, its index, and the number of its episode.

    Raises EnvFailure from :meth:`reset` and :meth:`step` when the environment raises or breaks its contract.

    Attributes
    ----------
    drew : str or None
        Which global random state the environment was seen to draw from, in words.
    """

    def __init__(
        self, env: gym.Env[Any, Any], index: int, plan: EpisodePlan, obs_space: ObsSpace, act_space: ActionSpace
    ) -> None:
        self.env = env
        self.index = index
        self.episode = plan.first
        self.t = 0  # steps taken in this episode
        self.drew: str | None = None
        self._plan = plan
        self._quota = plan.quota(index)
        self._limit = plan.max_episode_steps or math.inf
        self._obs_space = obs_space
        self._discrete = act_space.discrete
        self._shape = act_space.shape
        # Becomes True once one step was checked against the spaces in full. Later ones are checked for structure, shape,
        # dtype and NaN only: sound environments leave their bounds now and then, BipedalWalker's hull angle when it falls.
        self._trusted = False

    def reset(self) -> Float32:
        """Start episode number ``self.episode`` with its own seed and return its first observation, encoded."""
        self.t = 0
        before = None if self._trusted else global_state()
        try:
            result = self.env.reset(seed=self._plan.seed_of(self.index, self.episode))
        except Exception as error:
            raise self._raised("reset", error) from error
        if before is not None:
            self.drew = self.drew or drawn_since(before)
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._fail(f"reset returned {_kind(result)}, must be (observation, info)")
        if not self._trusted:
            self._check_obs(result[0])
        obs = np.empty(self._obs_space.dim, np.float32)
        self._write(result[0], obs)
        return obs

    def step(self, action: Any, next_obs: Float32) -> Outcome:
        """Take one action in the environment's units; where the episode ends, start the next.

        Parameters
        ----------
        action : (act_dim,) array or integer
            In the dtype of the action space. The environment may keep or change it.
        next_obs : (dim,) float32 array, OUT
        """
        before = None if self._trusted else global_state()
        try:
            result = self.env.step(int(action) if self._discrete else action.reshape(self._shape))
        except Exception as error:
            raise self._raised("step", error) from error
        self.t += 1
        if before is not None:
            self.drew = self.drew or drawn_since(before)
            self._check_first(result)
        try:
            raw, reward, terminated, truncated, _ = result
            reward = float(reward)
        except (TypeError, ValueError) as error:
            raise self._bad_step(result, error) from error
        if not -MAX_REWARD <= reward <= MAX_REWARD:
            raise self._fail(f"reward is {reward}, must be finite in float32")
        self._write(raw, next_obs)
        if terminated:
            return Outcome(reward, True, False, self._next_episode())  # both flags: terminated wins
        if truncated or self.t >= self._limit:
            return Outcome(reward, False, True, self._next_episode())
        return Outcome(reward, False, False, None)

    def own(self) -> Own:
        """Return the state that the environment keeps of itself, a text why that cannot be used, or None."""
        taken = own_state.take(self.env)
        return np.frombuffer(taken, np.uint8) if isinstance(taken, bytes) else taken

    def restore(self, saved: Unfinished) -> tuple[Float32, str | None]:
        """Go on with an unfinished episode, or else start the next one.

        Returns
        -------
        observation : (dim,) float32 array
            To act on now.
        reason : str or None
            Why the next episode was started.
        """
        before = global_state()
        reason = self._restore(saved)
        self.drew = self.drew or drawn_since(before)
        if reason is None:
            return saved["obs"], None
        self.episode = saved["episode"] + 1
        return self.reset(), f"{reason}; it draws from {self.drew}" if self.drew else reason

    def _restore(self, saved: Unfinished) -> str | None:
        """Return why the episode does not go on; None when it does."""
        own, reasons = saved["own"], []
        try:
            if own is not None:
                reason = own if isinstance(own, str) else self._load(saved["episode"], saved["length"], own.tobytes())
                if reason is None:
                    return None
                reasons.append(reason)
            reason = self._replay(saved)
        except EnvFailure as failure:
            reason = f"it failed while its episode was played again: {failure.message}"
        return None if reason is None else "; ".join([*reasons, reason])

    def _load(self, episode: int, length: int, own: bytes) -> str | None:
        self.episode = episode
        self.reset()
        self.t = length
        return own_state.restore(self.env, own)

    def _replay(self, saved: Unfinished) -> str | None:
        """Reset with the episode's seed, take its actions, and compare what comes out bit for bit."""
        actions, n = saved["actions"], saved["length"]
        if actions is None:
            return f"its episode of {n} steps is too long to be played again"
        if len(actions) != n:
            return f"there are {len(actions)} actions of its episode of {n} steps"
        self.episode = saved["episode"]
        obs = self.reset()
        total = 0.0
        for t, action in enumerate(actions.copy(), 1):  # the environment may write into what it is given
            reward, terminated, truncated, _ = self.step(action, obs)
            total += reward
            if terminated or truncated:
                return f"played again, its episode ends after {t} steps, it had {n} and went on"
        for i in np.flatnonzero(obs.view(np.uint32) != saved["obs"].view(np.uint32))[:1]:
            entry = self._obs_space.entry(int(i))
            return f"played again, its episode comes to {entry} {obs[i]} after {n} steps, it was {saved['obs'][i]}"
        if total != saved["return"]:
            return f"played again, its episode has a return of {total!r} after {n} steps, it was {saved['return']!r}"
        return None

    def _next_episode(self) -> Float32 | None:
        self.episode += 1
        return self.reset() if self.episode < self._quota else None

    def _write(self, raw: Any, out: Float32) -> None:
        try:
            self._obs_space.write(raw, out)
        except (ValueError, TypeError, IndexError) as error:
            raise self._fail(str(error)) from error
        if np.count_nonzero(np.isfinite(out)) != out.size:  # half the price of .all()
            wrong = int(np.flatnonzero(~np.isfinite(out))[0])
            raise self._fail(f"observation entry {wrong} is {out[wrong]}, must be finite in float32")

    def _check_obs(self, raw: Any) -> None:
        self._write(raw, np.empty(self._obs_space.dim, np.float32))  # says NaN before it says "outside its space"
        try:
            self._obs_space.check(raw)
        except (ValueError, TypeError) as error:
            raise self._fail(str(error)) from error

    def _check_first(self, result: Any) -> None:
        """Check what is checked once only: containment of the observation and the types of the flags."""
        if not isinstance(result, tuple) or len(result) != 5:
            raise self._bad_step(result, None)
        self._check_obs(result[0])
        for name, flag in (("terminated", result[2]), ("truncated", result[3])):
            if not isinstance(flag, bool | np.bool_ | int | np.integer):
                raise self._fail(f"{name} is {_kind(flag)}, must be a bool")
        self._trusted = True

    def _bad_step(self, result: Any, error: Exception | None) -> EnvFailure:
        if isinstance(result, tuple) and len(result) == 5:
            return self._fail(f"reward is {_kind(result[1])}, must be a number: {error}")
        hint = "wrap an environment of the old gym interface first" if _kind(result) == "4 values" else None
        need = "(observation, reward, terminated, truncated, info)"
        return self._fail(f"step returned {_kind(result)}, must be {need}", hint=hint)

    def _raised(self, call: str, error: Exception) -> EnvFailure:
        return self._fail(f"{call} raised {type(error).__name__}: {printable(error)}")

    def _fail(self, reason: str, hint: str | None = None) -> EnvFailure:
        where = f"environment {self.index}, episode {self.episode}, step {self.t}"
        return EnvFailure(f"{where}: {reason}", env=self.index, hint=hint)


def _kind(value: object) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} values"
    return f"{type(value).__name__} {printable(value, 60)}"
