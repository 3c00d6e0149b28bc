"""Vector environments with one contract: ``next_obs`` is always the true successor, resets are seeded per episode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DivergedError, EnvError
from .slot import EpisodePlan, Outcome
from .spaces import ActionSpace, Float32, ObsSpace
from .unfinished import Own, Unfinished, read_unfinished

MAX_REPLAY = 100_000  # an unfinished episode longer than this is not kept for rebuilding

Bools = NDArray[np.bool_]

# A finished episode: undiscounted return (summed in float64), length in steps, index of its environment.
Episode = TypedDict("Episode", {"return": float, "length": int, "env": int})


class VecStep(NamedTuple):
    """What one vector step gave; every array is fresh memory of the caller's.

    Attributes
    ----------
    next_obs : (N, dim) float32 array
        The true successor of the observation acted on, also where the episode ended.
    rewards : (N,) float32 array
    terminated, truncated : (N,) bool arrays
        Never both: where the environment says both, it is terminated.
    valid : (N,) bool array
        False where this call was no transition and its row must not be used.
    obs : (N, dim) float32 array
        What to act on next: ``next_obs``, or the reset observation where an episode ended.
    episodes : list of Episode
        The episodes that ended in this step, by environment.
    """

    next_obs: Float32
    rewards: Float32
    terminated: Bools
    truncated: Bools
    valid: Bools
    obs: Float32
    episodes: list[Episode]


class VectorEnv(ABC):
    """N environments stepped together.

    Attributes
    ----------
    n_envs : int
    observation_space, action_space : gymnasium.Space
        Of a single environment.
    obs_space : ObsSpace
    act_space : ActionSpace
    obs : (N, dim) float32 array
        What to act on now, after :meth:`reset`.
    returns, lengths : lists of float and int
        Of the unfinished episodes.
    exact : str or None
        Why training with these environments cannot be resumed exactly; None when nothing is known against it. Looked
        at again by :meth:`state_dict` and :meth:`load_state_dict`.
    waiting : (N,) bool array or None
        Environments whose next call is no transition, so that nobody acts on their observation; None: none are.
    """

    exact: str | None = None
    waiting: NDArray[np.bool_] | None = None

    def __init__(self, n_envs: int, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.n_envs = n_envs
        self.observation_space = observation_space
        self.action_space = action_space
        self.obs_space = ObsSpace(observation_space)
        self.act_space = ActionSpace(action_space)
        self.obs: Float32 = np.zeros((n_envs, self.obs_space.dim), np.float32)
        self.returns = [0.0] * n_envs
        self.lengths = [0] * n_envs
        self._started = False

    @abstractmethod
    def reset(self) -> Float32:
        """Start the first episode of every environment and return the (N, dim) observations."""

    @abstractmethod
    def step(self, actions: NDArray[Any]) -> VecStep:
        """Take one step in every environment; where an episode ends, the next one starts.

        Parameters
        ----------
        actions : (N, act_dim) floats or (N,) integers
            In the environment's own units.

        Raises
        ------
        EnvError
            Naming environment, episode, step and field, when an environment raises or breaks its contract.
        DivergedError
            When it does so after an action that is NaN.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the environments; a second call does nothing."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on from here: arrays, numbers, texts and None in plain dicts and lists."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> dict[int, str]:
        """Go on from a state.

        Returns
        -------
        dict of int to str
            The environments whose unfinished episode could not be rebuilt, and why; they start a fresh episode.
        """

    def _take(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Return a fresh copy of the actions in the dtype of the space, one row per environment."""
        if not self._started:
            raise EnvError("step was called before reset")
        taken = np.array(actions, self.act_space.dtype)
        if len(taken) != self.n_envs:
            raise ConfigError(f"{len(taken)} rows of actions for {self.n_envs} environments")
        return taken

    def _account(self, i: int, reward: float, ended: bool, episodes: list[Episode]) -> None:
        """Count one transition of environment i, and its episode where it ended."""
        self.returns[i] += reward
        self.lengths[i] += 1
        if ended:
            episodes.append({"return": self.returns[i], "length": self.lengths[i], "env": i})
            self.returns[i] = 0.0
            self.lengths[i] = 0

    def __enter__(self) -> VectorEnv:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SeededVectorEnv(VectorEnv):
    """What rlox's own vector environments share: the accounts, and the actions of unfinished episodes."""

    def __init__(self, spaces: tuple[gym.Space[Any], gym.Space[Any]], plan: EpisodePlan) -> None:
        super().__init__(plan.n_envs, *spaces)
        self.plan = plan
        self._episodes: NDArray[np.int64] = np.zeros(self.n_envs, np.int64)
        self._actions: list[list[bytes]] = [[] for _ in range(self.n_envs)]
        self._all_valid = np.ones(self.n_envs, np.bool_)
        self._playing = [plan.quota(i) > 0 for i in range(self.n_envs)]
        self._torn = False  # a step failed in one of the environments

    @abstractmethod
    def _reset_all(self) -> list[Float32]:
        """Start the first episode everywhere."""

    @abstractmethod
    def _step_all(self, actions: NDArray[Any], next_obs: Float32) -> Sequence[Outcome | None]:
        """Step every environment that is playing and write its row of ``next_obs``; None for the others."""

    @abstractmethod
    def _own_all(self) -> list[tuple[Own, str | None]]:
        """Return of every environment what ``Slot.own`` gives and what it drew from."""

    @abstractmethod
    def _restore_all(self, saved: list[Unfinished]) -> list[tuple[Float32, str | None, str | None]]:
        """Return of every environment what ``Slot.restore`` gives and what it drew from."""

    def reset(self) -> Float32:
        for i, obs in enumerate(self._reset_all()):
            self.obs[i] = obs
        self.returns = [0.0] * self.n_envs
        self.lengths = [0] * self.n_envs
        self._episodes[:] = self.plan.first
        self._actions = [[] for _ in range(self.n_envs)]
        self._playing = [self.plan.quota(i) > 0 for i in range(self.n_envs)]
        self._started = True
        return self.obs.copy()

    def step(self, actions: NDArray[Any]) -> VecStep:
        taken = self._take(actions)
        n = self.n_envs
        for i in range(n):
            log = self._actions[i]
            if len(log) <= MAX_REPLAY:  # one more than can be replayed marks the episode as too long
                log.append(taken[i].tobytes())
        next_obs = np.empty(self.obs.shape, np.float32)
        try:
            outcomes = self._step_all(taken, next_obs)
        except EnvError as error:
            self._take_back()
            _blame_actions(taken, error)
            raise
        rewards = np.zeros(n, np.float32)
        terminated, truncated = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        valid = self._all_valid.copy()
        starts: list[tuple[int, Float32]] = []
        episodes: list[Episode] = []
        for i, outcome in enumerate(outcomes):
            if outcome is None:
                next_obs[i] = self.obs[i]
                valid[i] = False
                continue
            reward, terminal, cut, start = outcome
            rewards[i] = reward
            self._account(i, reward, terminal or cut, episodes)
            if terminal or cut:
                terminated[i], truncated[i] = terminal, cut
                self._end_episode(i, start)
                if start is not None:
                    starts.append((i, start))
        obs = next_obs.copy()
        for i, start in starts:
            obs[i] = start
        self.obs = obs
        return VecStep(next_obs, rewards, terminated, truncated, valid, obs.copy(), episodes)

    def _take_back(self) -> None:
        """Forget the actions of a step that failed, so that the state is that before it."""
        self._torn = True
        for log, length in zip(self._actions, self.lengths, strict=True):
            del log[length:]

    def _end_episode(self, i: int, start: Float32 | None) -> None:
        self._episodes[i] += 1
        self._actions[i] = []
        self._playing[i] = start is not None

    def state_dict(self) -> dict[str, Any]:
        """Return seed, episode numbers, accounts, observations, and what rebuilds the unfinished episodes.

        That is their actions, None for an episode of more than 100,000 steps; and in ``own`` the state that an
        environment keeps of itself, as bytes, a text where it cannot be used, None where it keeps none.
        """
        # Some environments are a step further than others after one failed: then actions alone can rebuild them.
        answers: list[tuple[Own, str | None]] = [(None, None)] * self.n_envs if self._torn else self._own_all()
        self._note_draws([drew for _, drew in answers])
        return {
            "seed": self.plan.seed,
            "n_envs": self.n_envs,
            "episodes": self._episodes.copy(),
            "returns": np.array(self.returns, np.float64),
            "lengths": np.array(self.lengths, np.int64),
            "obs": self.obs.copy(),
            "actions": [None if len(log) > MAX_REPLAY else self._as_array(log) for log in self._actions],
            "own": [own for own, _ in answers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> dict[int, str]:
        """Go on with the unfinished episodes, in the same number of environments with the same seed.

        An environment that keeps a state of itself is put into it. Any other is reset with the episode's seed and its
        actions are taken again; number of steps, return and last observation must then be the same bit for bit.

        Returns
        -------
        dict of int to str
            The environments for which that failed, and why; they start a fresh episode.

        Raises
        ------
        ConfigError
            For a state of other environments.
        """
        saved = read_unfinished(state, self.n_envs, self.plan.seed, self.obs_space, self.act_space)
        fresh: dict[int, str] = {}
        self._actions = [[] for _ in range(self.n_envs)]
        answers = self._restore_all(saved)
        for i, (obs, reason, _) in enumerate(answers):
            self.obs[i] = obs
            self._episodes[i] = saved[i]["episode"]
            self.returns[i], self.lengths[i] = saved[i]["return"], saved[i]["length"]
            actions = saved[i]["actions"]
            if reason is not None:
                fresh[i] = reason
                self._episodes[i] += 1
                self.returns[i], self.lengths[i] = 0.0, 0
            elif actions is None:
                self._actions[i] = [b""] * (MAX_REPLAY + 1)  # as long as to be given up
            else:
                self._actions[i] = [row.tobytes() for row in actions]
        self._note_draws([drew for *_, drew in answers])
        self._playing = [self._episodes[i] < self.plan.quota(i) for i in range(self.n_envs)]
        self._started = True
        return fresh

    def _note_draws(self, drew: list[str | None]) -> None:
        for i, what in enumerate(drew):
            if what is not None and self.exact is None:
                self.exact = f"environment {i} draws from {what}"

    def _as_array(self, log: list[bytes]) -> NDArray[Any]:
        flat = np.frombuffer(b"".join(log), self.act_space.dtype)
        return flat.copy() if self.act_space.discrete else flat.reshape(len(log), self.act_space.dim).copy()


def _blame_actions(actions: NDArray[Any], error: EnvError) -> None:
    """Raise DivergedError where environments failed because the policy gave them NaN; else they are to blame."""
    if actions.dtype.kind == "f" and not np.isfinite(actions).all():
        raise DivergedError(
            f"the policy gave an action that is not finite, and then {error.message}",
            hint="lower learning_rate, or look at the scale of rewards and observations",
        ) from error
