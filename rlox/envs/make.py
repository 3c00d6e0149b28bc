"""One function that turns a source into a vector environment."""

from __future__ import annotations

from typing import Literal

from ..errors import ConfigError
from ..seeding import check_seed
from .adapt import adapt
from .slot import EpisodePlan
from .source import EnvSource
from .sync import SyncVectorEnv
from .vector import VectorEnv
from .workers import MAX_TIMEOUT_S, AsyncVectorEnv

VEC = ("sync", "async")


def vectorize(
    source: EnvSource,
    n_envs: int = 1,
    *,
    seed: int,
    vec: Literal["sync", "async"] = "sync",
    timeout_s: float = 60.0,
    plan: EpisodePlan | None = None,
    first_episode: int = 0,
) -> VectorEnv:
    """Return N environments of a source behind one interface.

    Parameters
    ----------
    source : EnvSource
        Of a vector environment of another make: it is adapted, and has its own number of environments.
    n_envs : int
        At least 1.
    seed : int
        In 0…2³²−1. Environment i resets its episode k with ``derive(seed, "env/i", k)``.
    vec : {"sync", "async"}
        In this process one after the other, or one worker process each; the results are equal bit for bit.
    timeout_s : float
        Seconds after which a worker that does not answer is killed; async only. In this process training limits the
        time of a call, see :func:`rlox.envs.watchdog.no_hanging`.
    plan : EpisodePlan, optional
        Other seeds, a number of episodes, a limit on their length: for evaluation.
    first_episode : int
        Number of every environment's first episode, so that training that goes on meets none of its episodes again.

    Raises
    ------
    ConfigError
        A value out of range, or a source that cannot be made often enough or sent to a worker.
    SpaceError
        Spaces that cannot be encoded or acted in.
    EnvError
        An environment cannot be made, or environments have different spaces.
    """
    if isinstance(n_envs, bool) or not isinstance(n_envs, int) or n_envs < 1:
        raise ConfigError(f"n_envs is {n_envs!r}, must be an integer of at least 1", param="n_envs", value=n_envs)
    if vec not in VEC:
        raise ConfigError(f"vec is {vec!r}, must be one of {', '.join(VEC)}", param="vec", value=vec)
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        message = f"env_timeout is {timeout_s}, must be above 0 and at most {MAX_TIMEOUT_S:g} seconds"
        raise ConfigError(message, param="env_timeout", value=timeout_s)
    seed = check_seed(seed)
    if source.vector is not None:
        return _adapt_checked(source, n_envs, seed, plan, first_episode)
    plan = plan or EpisodePlan(seed, n_envs, first=first_episode)
    return SyncVectorEnv(source, plan) if vec == "sync" else AsyncVectorEnv(source, plan, timeout_s)


def _adapt_checked(source: EnvSource, n_envs: int, seed: int, plan: EpisodePlan | None, first: int) -> VectorEnv:
    assert source.vector is not None
    if plan is not None:
        raise ConfigError(f"{source} cannot be evaluated with seeds of its own", hint="pass an id or a factory")
    if n_envs not in (1, source.vector.num_envs):
        raise ConfigError(f"n_envs is {n_envs}, {source} has {source.vector.num_envs} environments", param="n_envs")
    return adapt(source.vector, seed, first)
