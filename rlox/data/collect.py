"""Run a policy in an environment and write what happened as a dataset."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rlox.errors import ConfigError
from rlox.files import make_parents
from rlox.seeding import check_seed, derive

from .writer import write_d4rl

if TYPE_CHECKING:
    from rlox.envs.source import EnvSource
    from rlox.envs.spaces import ActionSpace

Array = NDArray[Any]
_BLOCK = 4096


class ActingPolicy(Protocol):
    """What collecting needs of a policy; ``last_log_probs`` (N,) is stored where the policy has it."""

    def act(self, obs: Array, deterministic: bool) -> Array: ...

    def reset(self, mask: Array) -> None: ...


class RandomPolicy:
    """Uniform actions over a Box or Discrete space, from a stream of its own.

    Parameters
    ----------
    act_space : ActionSpace
    seed : int
        Of the run.
    n_envs : int

    Attributes
    ----------
    last_log_probs : (n_envs,) float32 array
        The logarithm of the density (Box) or probability (Discrete), the same for every action.
    """

    digest = "random"

    def __init__(self, act_space: ActionSpace, seed: int, n_envs: int = 1) -> None:
        self.act_space = act_space
        self.n_envs = n_envs
        self._random = np.random.Generator(np.random.PCG64(derive(seed, "random_policy")))
        if act_space.discrete:
            log_prob = -np.log(act_space.n)
        else:
            log_prob = -np.sum(np.log(act_space.high.astype(np.float64) - act_space.low))
        self.last_log_probs = np.full(n_envs, log_prob, np.float32)

    def act(self, obs: Array, deterministic: bool = False) -> Array:
        """Return (n_envs, act_dim) float32 actions in the environment's units, or (n_envs,) int64."""
        space = self.act_space
        if space.discrete:
            return space.start + self._random.integers(space.n, size=self.n_envs, dtype=np.int64)
        unit = self._random.uniform(-1.0, 1.0, (self.n_envs, space.dim))
        return space.to_env(unit.astype(np.float32))

    def reset(self, mask: Array) -> None:
        """Do nothing: a uniform policy remembers nothing."""


@dataclass(frozen=True)
class Collected:
    """What was written.

    Attributes
    ----------
    path : Path
    n_rows, n_episodes : int
        Transitions, and episodes that were played to their end.
    returns : (n_episodes,) float64 array
        Undiscounted return of each whole episode.
    """

    path: Path
    n_rows: int
    n_episodes: int
    returns: NDArray[np.float64]


def collect(
    source: EnvSource,
    policy: ActingPolicy | None,
    *,
    n_steps: int | None = None,
    n_episodes: int | None = None,
    seed: int = 0,
    n_envs: int = 1,
    out: str | os.PathLike[str],
    behaviour: str = "random",
    deterministic: bool = False,
    compression: Literal["gzip"] | None = None,
    vec: Literal["sync", "async"] = "sync",
    on_progress: Callable[[int, int], object] | None = None,
) -> Collected:
    """Collect transitions and write them in D4RL's layout.

    Parameters
    ----------
    source : EnvSource
    policy : object or None
        ``act(obs (N, dim), deterministic) -> actions`` in the environment's units and ``reset(mask)``; None acts at
        random. Its attributes ``last_log_probs`` (N,) and ``digest`` (text) are stored where it has them.
    n_steps, n_episodes : int
        Exactly one of them: so many transitions (an episode that is cut is marked as timed out, with its true next
        observation), or so many whole episodes.
    seed : int
        Of episodes and of the random policy.
    n_envs : int
        Environments side by side. Each plays its fixed share of the episodes, so that short ones are not preferred.
    out : path-like
        Appears when the file is complete.
    behaviour : str
        What the policy is, for the file, e.g. ``expert``.
    deterministic : bool
        Passed to the policy.
    compression : {"gzip"}, optional
    vec : {"sync", "async"}
    on_progress : callable, optional
        Called after each step with (done, wanted), in transitions or whole episodes.

    Raises
    ------
    ConfigError
        Neither or both of ``n_steps`` and ``n_episodes``, or a number that is not positive.
    EnvError, WriteError
        The environment fails; the file cannot be written. Nothing is left behind.

    Notes
    -----
    Rows of one episode are adjacent for any ``n_envs``: the file holds the episodes of environment 0, then of 1, ….
    """
    from rlox.envs import vectorize

    _check_counts(n_steps, n_episodes, n_envs)
    check_seed(seed)
    make_parents(out)
    env = vectorize(source, n_envs, seed=seed, vec=vec)
    try:
        n_envs = env.n_envs  # a vector environment of another make has its own number
        acting = RandomPolicy(env.act_space, seed, n_envs) if policy is None else policy
        logs = [_Log() for _ in range(n_envs)]
        if n_steps is not None:
            _run_steps(env, acting, logs, n_steps, deterministic, on_progress)
        else:
            assert n_episodes is not None
            _run_episodes(env, acting, logs, n_episodes, deterministic, on_progress)
        columns = _Log.columns(logs, env.act_space.discrete)
        returns = np.array([value for log in logs for value in log.returns], np.float64)
        meta = _meta(source, env, acting, seed, n_envs, behaviour, deterministic, returns)
    finally:
        env.close()
    path = write_d4rl(out, columns, meta, compression=compression)
    return Collected(path, len(columns["rewards"]), len(returns), returns)


def _check_counts(n_steps: int | None, n_episodes: int | None, n_envs: int) -> None:
    if (n_steps is None) == (n_episodes is None):
        raise ConfigError("exactly one of n_steps and n_episodes is needed", param="n_steps")
    for name, value in (("n_steps", n_steps), ("n_episodes", n_episodes), ("n_envs", n_envs)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name} is {value!r}, must be an integer of at least 1", param=name, value=value)


class _Log:
    """The transitions of one environment, in order."""

    NAMES = ("obs", "actions", "rewards", "terminated", "truncated", "next_obs")

    def __init__(self) -> None:
        self.rows: dict[str, list[Array]] = {name: [] for name in (*self.NAMES, "infos/action_log_probs")}
        self.returns: list[float] = []
        self._blocks: dict[str, list[Array]] = {name: [] for name in self.rows}

    def add(self, values: dict[str, Array], env: int) -> None:
        """Append row ``env`` of each array."""
        for name, array in values.items():
            self.rows[name].append(array[env].copy())
        if len(self.rows["obs"]) >= _BLOCK:
            self._pack()

    def _pack(self) -> None:
        """Turn single rows into one block, which takes a fraction of their memory."""
        for name, rows in self.rows.items():
            if rows:
                self._blocks[name].append(np.stack(rows))
                rows.clear()

    def array(self, name: str) -> list[Array]:
        """Return the blocks of one column."""
        self._pack()
        return self._blocks[name]

    @staticmethod
    def columns(logs: list[_Log], discrete: bool) -> dict[str, Array]:
        """Return the rows of all environments, one environment after the other."""
        joined: dict[str, Array] = {}
        for log in logs:
            blocks = log.array("truncated")
            if blocks and not log.array("terminated")[-1][-1]:
                blocks[-1][-1] = True  # the collection was cut here
        for name in logs[0].rows:
            blocks = [block for log in logs for block in log.array(name)]
            if blocks:
                joined[name] = np.concatenate(blocks)
        if discrete:
            joined["actions"] = joined["actions"].reshape(-1).astype(np.int64)
        return joined


def _steps(env: Any, policy: ActingPolicy, deterministic: bool) -> Any:
    """Yield the rows of each vector step for ever: arrays by column name, and the step itself."""
    obs = env.reset()
    policy.reset(np.ones(env.n_envs, bool))
    while True:
        actions = np.asarray(policy.act(obs, deterministic))
        log_probs = getattr(policy, "last_log_probs", None)
        rows = {"obs": obs, "actions": actions}
        if log_probs is not None:
            rows["infos/action_log_probs"] = np.asarray(log_probs).reshape(env.n_envs)
        step = env.step(actions)
        rows |= {name: getattr(step, name) for name in ("rewards", "terminated", "truncated", "next_obs")}
        over = np.asarray(step.terminated, bool) | np.asarray(step.truncated, bool)
        if over.any():
            policy.reset(over)
        yield rows, step
        obs = step.obs


def _run_steps(
    env: Any, policy: ActingPolicy, logs: list[_Log], n_steps: int, deterministic: bool, on_progress: Any
) -> None:
    done = 0
    for rows, step in _steps(env, policy, deterministic):
        for i in np.flatnonzero(step.valid)[: n_steps - done].tolist():
            logs[i].add(rows, i)
            logs[i].returns += [e["return"] for e in step.episodes if e["env"] == i]
            done += 1
        if on_progress is not None:
            on_progress(done, n_steps)
        if done == n_steps:
            return


def _run_episodes(
    env: Any, policy: ActingPolicy, logs: list[_Log], n_episodes: int, deterministic: bool, on_progress: Any
) -> None:
    share = [n_episodes // len(logs) + (i < n_episodes % len(logs)) for i in range(len(logs))]
    for rows, step in _steps(env, policy, deterministic):
        for i in np.flatnonzero(step.valid).tolist():
            if len(logs[i].returns) < share[i]:
                logs[i].add(rows, i)
                logs[i].returns += [e["return"] for e in step.episodes if e["env"] == i]
        done = sum(len(log.returns) for log in logs)
        if on_progress is not None:
            on_progress(done, n_episodes)
        if done == n_episodes:
            return


def _meta(
    source: EnvSource,
    env: Any,
    policy: ActingPolicy,
    seed: int,
    n_envs: int,
    behaviour: str,
    deterministic: bool,
    returns: NDArray[np.float64],
) -> dict[str, Any]:
    from rlox.envs import space_to_json

    meta: dict[str, Any] = {
        "layout": "rlox-d4rl/1",
        "observation_space": space_to_json(env.observation_space),
        "action_space": space_to_json(env.action_space),
        "seed": seed,
        "n_envs": n_envs,
        "behaviour": behaviour,
        "deterministic": deterministic,
        "n_episodes": len(returns),
    }
    if source.id is not None:
        meta["env_id"] = source.id
        if source.kwargs:
            meta["env_kwargs"] = source.kwargs
    digest = getattr(policy, "digest", None)
    if isinstance(digest, str):
        meta["policy_digest"] = digest
    if len(returns):
        meta |= {"return_mean": float(returns.mean()), "return_std": float(returns.std())}
    return meta
