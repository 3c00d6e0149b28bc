"""What acting needs from step to step, and observations and actions as a user gives them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .envs import ActionSpace, Normalizer, ObsSpace
from .errors import ConfigError
from .seeding import TorchStream, torch_generator

if TYPE_CHECKING:
    from .algorithm import Algorithm


class Policy:
    """What acting needs: the networks as they are, the normaliser, and random streams of its own.

    Parameters
    ----------
    algo : Algorithm
    seed : int
        Seed of the streams that sampled actions draw from.
    stream : str
        Their name.
    normalizer : Normalizer, optional
        Applied to observations first.
    """

    def __init__(self, algo: Algorithm, seed: int, stream: str, normalizer: Normalizer | None) -> None:
        self._algo = algo
        self._normalizer = normalizer
        self.generator = torch_generator(seed, stream, algo.device)
        self._globally = TorchStream(seed, f"{stream}/global")

    def squashed(self, obs: NDArray[Any], deterministic: bool = True) -> NDArray[Any]:
        """Return actions (N, A) in [-1, 1], or (N,) indices from 0, for encoded observations (N, obs_dim)."""
        algo = self._algo
        x = torch.from_numpy(obs if self._normalizer is None else self._normalizer(obs)).to(algo.device)
        with torch.no_grad(), self._globally.use() if algo.draws_globally else nullcontext():
            actions: Tensor = algo._act(x, deterministic, self.generator)
        _check_shape(actions, len(obs), algo.act_space)
        out: NDArray[Any] = actions.cpu().numpy()
        if algo.draws_globally and not algo.act_space.discrete:  # an actor of the user's own, maybe
            _check_range(out)
        return out

    def act(self, obs: NDArray[Any], deterministic: bool = True) -> NDArray[Any]:
        """Return actions (N, A) or (N,) in the environment's units for encoded observations (N, obs_dim)."""
        return self._algo.act_space.to_env(self.squashed(obs, deterministic))

    def reset(self, mask: NDArray[np.bool_] | None = None) -> None:
        """Start new episodes where ``mask`` (N,) is true; a policy without memory has nothing to forget."""

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "global": self._globally.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        self._globally.load_state_dict(state["global"])


def _check_range(actions: NDArray[Any]) -> None:
    largest = float(np.abs(actions).max(initial=0.0))
    if largest > 1 + 1e-6:
        raise ConfigError(f"the actor returned an action of size {largest:.6g}, must be in [-1, 1]", param="actor")


def _check_shape(actions: Tensor, n: int, space: ActionSpace) -> None:
    wanted = (n,) if space.discrete else (n, space.dim)
    if tuple(actions.shape) != wanted:
        raise ConfigError(f"the actor returned actions of shape {tuple(actions.shape)}, must be {wanted}", param="actor")


def is_single(space: ObsSpace, obs: Any) -> bool:
    """Say whether ``obs`` is one observation or a batch, from the first leaf's number of dimensions."""
    part, leaf = space.space, obs
    while isinstance(leaf, Mapping) and hasattr(part, "spaces"):
        key = next(iter(part.spaces))
        if key not in leaf:
            break
        part, leaf = part.spaces[key], leaf[key]
    return np.ndim(leaf) <= len(part.shape or ())


def encoded(space: ObsSpace, obs: Any, single: bool) -> NDArray[np.float32]:
    """Return (B, obs_dim) rows of one observation or of a batch as a user gives it; ConfigError where it does not fit."""
    try:
        cast = space.cast(obs)
        rows = space.encode(cast)[None] if single else space.encode_batch(cast)
    except ValueError as error:
        raise ConfigError(f"observation does not fit {space.space}: {error}", param="obs") from error
    if not np.isfinite(rows).all():
        row, i = (int(n) for n in np.argwhere(~np.isfinite(rows))[0])
        at = "" if single else f" of row {row}"
        raise ConfigError(f"{space.entry(i)}{at} is {rows[row, i]}, must be finite", param="obs", value=rows[row, i])
    return rows


def flat_actions(space: ActionSpace, actions: Any, n: int) -> NDArray[Any]:
    """Return (n, A) or (n,) actions in the environment's units."""
    shape = (n,) if space.discrete else (n, space.dim)
    array = np.asarray(actions)
    if array.size != np.prod(shape):
        raise ConfigError(f"actions has shape {array.shape}, must be {shape}", param="actions")
    return array.reshape(shape)
