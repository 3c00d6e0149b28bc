"""Vector environments of another make behind our interface, by their autoreset mode."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv as GymAsync
from gymnasium.vector import AutoresetMode
from gymnasium.vector import SyncVectorEnv as GymSync
from numpy.typing import NDArray

from ..errors import EnvError, printable
from ..seeding import derive
from .failure import EnvFailure
from .spaces import Float32
from .vector import Episode, VecStep, VectorEnv


def adapt(vector_env: gym.vector.VectorEnv[Any, Any, Any], seed: int, first: int = 0) -> VectorEnv:
    """Return a foreign vector environment behind the interface of our own.

    Parameters
    ----------
    vector_env : gymnasium.vector.VectorEnv
        Its ``metadata["autoreset_mode"]`` says what happens at an episode's end; NEXT_STEP is assumed, with a
        warning, where it says nothing.
    seed : int
        Seeds its first reset; what it draws later is its own affair, so a run with it is not exact.
    first : int
        Number of the first episode; another number gives other seeds.

    Raises
    ------
    EnvError
        An autoreset mode that gymnasium does not have.
    """
    return AdaptedVectorEnv(vector_env, _mode_of(vector_env), seed, first)


def _mode_of(vector_env: gym.vector.VectorEnv[Any, Any, Any]) -> AutoresetMode:
    mode = (vector_env.metadata or {}).get("autoreset_mode")
    if mode is None:
        warnings.warn(
            f"{type(vector_env).__name__} does not say its autoreset_mode, NEXT_STEP is assumed",
            UserWarning,
            stacklevel=2,
        )
        return AutoresetMode.NEXT_STEP
    for known in AutoresetMode:
        if mode in (known, known.value, known.name):
            return known
    names = ", ".join(known.name for known in AutoresetMode)
    raise EnvError(f"{type(vector_env).__name__} has autoreset_mode {printable(mode)!r}, must be one of {names}")


class AdaptedVectorEnv(VectorEnv):
    """A foreign vector environment; see :func:`adapt`."""

    exact: str = "a vector environment that rlox did not make cannot be rebuilt"

    def __init__(
        self, vector_env: gym.vector.VectorEnv[Any, Any, Any], mode: AutoresetMode, seed: int, first: int
    ) -> None:
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)
        self.mode = mode
        self._env = vector_env
        self._seed = seed
        self._first = first
        self._ended = np.zeros(self.n_envs, np.bool_)
        self._episodes = np.zeros(self.n_envs, np.int64)
        self._calls = 0
        self._per_env_seeds = isinstance(vector_env.unwrapped, GymSync | GymAsync)

    def reset(self) -> Float32:
        self._episodes[:] = self._first
        self._calls = 0
        raw = self._call(lambda: self._env.reset(seed=self._seeds()))[0]
        self._check_contained(raw)
        self.obs = self._encode(raw)
        self._ended[:] = False
        self.waiting = None
        self.returns = [0.0] * self.n_envs
        self.lengths = [0] * self.n_envs
        self._started = True
        return self.obs.copy()

    def step(self, actions: NDArray[Any]) -> VecStep:
        taken = self._take(actions).reshape(self.n_envs, *self.act_space.shape)
        raw, reward, term, trunc, infos = self._call(lambda: self._env.step(taken))
        self._calls += 1
        if self._calls == 1:
            self._check_contained(raw)
        valid = ~self._ended if self.mode is AutoresetMode.NEXT_STEP else np.ones(self.n_envs, np.bool_)
        terminated = np.array(term, np.bool_) & valid
        truncated = np.array(trunc, np.bool_) & valid & ~terminated  # both flags: terminated wins
        ended = terminated | truncated
        obs = self._encode(raw)
        next_obs = obs.copy()
        if self.mode is AutoresetMode.SAME_STEP:
            self._put_final_obs(infos, ended, next_obs)
        rewards = self._check_rewards(reward)
        episodes: list[Episode] = []
        for i in np.flatnonzero(valid):
            self._account(int(i), float(rewards[i]), bool(ended[i]), episodes)
        self._episodes[ended] += 1
        if self.mode is AutoresetMode.DISABLED and ended.any():
            self._reset_ended(ended, obs)
        self._ended = ended
        self.waiting = ended if self.mode is AutoresetMode.NEXT_STEP else None
        self.obs = obs.copy()
        return VecStep(next_obs, rewards.astype(np.float32), terminated, truncated, valid, obs, episodes)

    def close(self) -> None:
        """Do nothing: the vector environment belongs to the user who made it."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing to go on from: see ``exact``."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> dict[int, str]:
        """Start fresh episodes everywhere."""
        self.reset()
        return dict.fromkeys(range(self.n_envs), self.exact)

    def _put_final_obs(self, infos: Mapping[str, Any], ended: NDArray[np.bool_], next_obs: Float32) -> None:
        finals = infos.get("final_obs")
        for i in np.flatnonzero(ended):
            final = None if finals is None else finals[i]
            if final is None:
                raise self._fail(int(i), "the episode ended without infos['final_obs']")
            next_obs[i] = self._finite(self._encode_rows([final]), int(i))[0]

    def _reset_ended(self, ended: NDArray[np.bool_], obs: Float32) -> None:
        seeds = self._seeds() if self._per_env_seeds else None
        raw, _ = self._call(lambda: self._env.reset(seed=seeds, options={"reset_mask": ended.copy()}))
        obs[ended] = self._encode(raw)[ended]

    def _seeds(self) -> Any:
        """One seed per environment and episode where the maker takes a list, else one for all."""
        if not self._per_env_seeds:
            return derive(self._seed, "env", self._first) % 2**31  # native environments hand it to 32-bit generators
        return [derive(self._seed, f"env/{i}", int(k)) for i, k in enumerate(self._episodes)]

    def _check_contained(self, raw: Any) -> None:
        for i in range(self.n_envs):
            try:
                self.obs_space.check(_row(raw, i))
            except (ValueError, TypeError, IndexError, KeyError) as error:
                raise self._fail(i, str(error)) from error

    def _encode(self, raw: Any) -> Float32:
        return self._finite(self._encode_rows(raw), None)

    def _encode_rows(self, raw: Any) -> Float32:
        try:
            out = self.obs_space.encode_batch(raw)
        except (ValueError, TypeError, IndexError) as error:
            raise self._fail(None, str(error)) from error
        return out

    def _finite(self, out: Float32, env: int | None) -> Float32:
        if not np.isfinite(out).all():
            row, entry = (int(x) for x in np.argwhere(~np.isfinite(out))[0])
            where = row if env is None else env
            raise self._fail(where, f"observation entry {entry} is {out[row, entry]}, must be finite")
        return out

    def _check_rewards(self, reward: Any) -> NDArray[np.float64]:
        rewards = np.array(reward, np.float64)
        if rewards.shape != (self.n_envs,):
            raise self._fail(None, f"rewards have shape {rewards.shape}, must be ({self.n_envs},)")
        if not np.isfinite(rewards).all():
            i = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise self._fail(i, f"reward is {rewards[i]}, must be finite")
        return rewards

    def _call(self, call: Any) -> Any:
        try:
            return call()
        except Exception as error:
            raise self._fail(None, f"raised {type(error).__name__}: {printable(error)}") from error

    def _fail(self, env: int | None, reason: str) -> EnvFailure:
        where = "vector environment" if env is None else f"environment {env}"
        return EnvFailure(f"{where}, vector step {self._calls}: {reason}", env=-1 if env is None else env)


def _row(raw: Any, i: int) -> Any:
    return {key: _row(value, i) for key, value in raw.items()} if isinstance(raw, Mapping) else raw[i]
