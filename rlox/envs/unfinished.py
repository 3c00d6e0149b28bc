"""The unfinished episodes in the state of a vector environment, read strictly: the state may come from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .spaces import ActionSpace, Float32, ObsSpace

# The state that an environment keeps of itself; a text: why it cannot be used; None: it keeps none.
Own = NDArray[np.uint8] | str | None

# An episode's number, undiscounted return, length, last observation, and actions (None: more than can be played again).
Unfinished = TypedDict(
    "Unfinished",
    {"episode": int, "return": float, "length": int, "obs": Float32, "actions": NDArray[Any] | None, "own": Own},
)


def read_unfinished(
    state: Mapping[str, Any], n: int, seed: int, obs_space: ObsSpace, act_space: ActionSpace
) -> list[Unfinished]:
    """Return the unfinished episodes of n environments with this seed.

    Raises
    ------
    ConfigError
        For a state of other environments, an array of another shape, or another number of episodes.
    """
    if (int(state["n_envs"]), int(state["seed"])) != (n, seed):
        theirs = f"the state is of {int(state['n_envs'])} environments with seed {int(state['seed'])}"
        raise ConfigError(f"{theirs}, these are {n} with seed {seed}")
    row = () if act_space.discrete else (act_space.dim,)
    episodes, lengths = (_shaped(state, name, np.int64, (n,)) for name in ("episodes", "lengths"))
    returns, obs = _shaped(state, "returns", np.float64, (n,)), _shaped(state, "obs", np.float32, (n, obs_space.dim))
    actions, own = state["actions"], state["own"]
    if not len(actions) == len(own) == n:
        raise ConfigError(f"the state has actions of {len(actions)} environments and {len(own)} states, must be {n}")
    return [
        {
            "episode": int(episodes[i]),
            "return": float(returns[i]),
            "length": int(lengths[i]),
            "obs": obs[i].copy(),
            "actions": None if actions[i] is None else _shaped(actions, i, act_space.dtype, (-1, *row)),
            "own": own[i] if own[i] is None or isinstance(own[i], str) else _shaped(own, i, np.uint8, (-1,)),
        }
        for i in range(n)
    ]


def _shaped(parts: Any, name: str | int, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return one part of a state as an array; -1 in ``shape`` stands for any number."""
    array: NDArray[Any] = np.ascontiguousarray(parts[name], dtype)
    if len(array.shape) != len(shape) or any(want not in (-1, n) for n, want in zip(array.shape, shape, strict=True)):
        raise ConfigError(f"{name!r} in the state has shape {array.shape}, must be {shape}")
    return array
