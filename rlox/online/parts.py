"""What is asked of the buffer and of the environments that a user brings to online training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..buffers import ReplayBuffer
from ..envs import EnvSource
from ..errors import ConfigError
from ..protocols import Batch

if TYPE_CHECKING:
    from .off_policy import OffPolicyAlgorithm

BATCH_KEYS = ("obs", "next_obs", "actions", "rewards", "terminated", "truncated")


def check_batch(batch: Batch, algo: OffPolicyAlgorithm) -> Batch:
    """Return a batch of a user's buffer with the standard dtypes, or say which key or shape is wrong."""
    n, obs_dim, act_dim = algo.config.batch_size, algo.obs_space.dim, algo.act_space.dim
    action_shape = (n,) if algo.act_space.discrete else (n, act_dim)
    shapes = {"obs": (n, obs_dim), "next_obs": (n, obs_dim), "actions": action_shape}
    checked: Batch = {}
    for key in BATCH_KEYS:
        if key not in batch:
            raise ConfigError(f"buffer.sample returned no {key!r}, only {', '.join(sorted(batch))}", param="buffer")
        value = batch[key]
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if array.shape != shapes.get(key, (n,)):
            raise ConfigError(f"buffer.sample returned {key} of shape {array.shape}, must be {shapes.get(key, (n,))}")
        discrete = key == "actions" and algo.act_space.discrete
        # Writeable: torch does not take read-only memory without a warning.
        checked[key] = np.require(array, np.int64 if discrete else np.float32, ["C", "W"])
    return checked


def check_ring(ring: ReplayBuffer, algo: OffPolicyAlgorithm) -> None:
    """Refuse a :class:`rlox.ReplayBuffer` that was made for other observations, actions or fewer environments."""
    act_shape = () if algo.act_space.discrete else (algo.act_space.dim,)
    for what, has, wanted in (
        ("observations of shape", ring.obs_shape, (algo.obs_space.dim,)),
        ("actions of shape", ring.act_shape, act_shape),
    ):
        if has != wanted:
            raise ConfigError(f"buffer is made for {what} {has}, must be {wanted}", param="buffer")
    if ring.n_envs < algo.n_envs:
        raise ConfigError(f"buffer is made for n_envs {ring.n_envs}, must be {algo.n_envs}", param="buffer")


def check_n_envs(n_envs: int, source: EnvSource | None) -> int:
    """Return the number of environments; a vector environment of another make has its own."""
    if isinstance(n_envs, bool) or not isinstance(n_envs, int) or n_envs < 1:
        raise ConfigError(f"n_envs is {n_envs!r}, must be an integer of at least 1", param="n_envs", value=n_envs)
    if source is None or source.vector is None:
        if n_envs > 1 and source is not None and not source.can_remake:
            raise ConfigError(f"n_envs is {n_envs}, {source} is one and cannot be made again", param="n_envs",
                              hint="pass a class or function that makes one, or an id, instead of an environment")  # fmt: skip
        return n_envs
    if n_envs not in (1, source.vector.num_envs):
        raise ConfigError(f"n_envs is {n_envs}, {source} has {source.vector.num_envs} environments", param="n_envs")
    return int(source.vector.num_envs)
