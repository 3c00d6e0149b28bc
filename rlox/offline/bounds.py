"""Where the action bounds of an offline run come from, and the spaces that a dataset implies."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..envs import ActionSpace, EnvSource, ObsSpace, space_from_json
from ..envs.spaces import describe
from ..errors import ConfigError, DatasetError, DatasetMismatchError


class RecordedData:
    """Stands for the dataset of a checkpoint: its shapes and spaces, no rows.

    ``sample`` returns zeros of the right shapes, so that a constructor that looks at a batch works.
    """

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.discrete = isinstance(action_space, spaces.Discrete)

    def sample(self, batch_size: int, seed: int) -> dict[str, NDArray[Any]]:
        dim = ObsSpace(self.observation_space).dim
        flat = np.zeros(batch_size, np.float32)
        shape = (batch_size,) if self.discrete else (batch_size, *self.action_space.shape)
        return {
            "obs": np.zeros((batch_size, dim), np.float32),
            "next_obs": np.zeros((batch_size, dim), np.float32),
            "actions": np.zeros(shape, np.int64 if self.discrete else np.float32),
            "rewards": flat,
            "terminated": flat.copy(),
            "truncated": flat.copy(),
        }

    def __len__(self) -> int:
        return 0


def find_spaces(
    dataset: Any, probe: dict[str, NDArray[Any]], source: EnvSource | None, low: float | None, high: float | None
) -> tuple[Any, Any, str]:
    """Return the observation space, the action space, and in words where the action bounds come from.

    In this order: the environment, the spaces that the file records, ``action_low`` and ``action_high``, [-1, 1] when
    all actions lie inside, and else the range of the data, with a warning.
    """
    if isinstance(dataset, RecordedData):
        return dataset.observation_space, dataset.action_space, "checkpoint"
    obs_shape = probe["obs"].shape[1:]
    observation: Any = spaces.Box(-np.inf, np.inf, obs_shape, np.float32)
    actions = probe["actions"]
    if (low is None) != (high is None):
        raise ConfigError("action_low and action_high must be given together", param="--action-low")
    if source is not None:
        env_observation, env_action = source.spaces()
        check_fits(source, env_observation, env_action, probe)
        _warn_beyond(dataset, probe, env_action, "environment")
        return env_observation, env_action, "env"
    meta = getattr(dataset, "meta", None)
    if isinstance(meta, dict) and {"observation_space", "action_space"} <= set(meta):
        observation = space_from_json(meta["observation_space"], error=DatasetError)
        action = space_from_json(meta["action_space"], error=DatasetError)
        check_fits("its metadata", observation, action, probe)
        _warn_beyond(dataset, probe, action, "file")
        return observation, action, "dataset"
    if actions.ndim == 1 and actions.dtype.kind in "iu":
        n = int(getattr(dataset, "n_actions", 0)) or int(actions.max()) + 1
        return observation, spaces.Discrete(n), "data"
    shape = actions.shape[1:] or (1,)
    if low is not None and high is not None:
        if low >= high:
            raise ConfigError(f"action_low is {low}, must be below action_high {high}", param="--action-low")
        box = spaces.Box(low, high, shape, np.float32)
        _warn_beyond(dataset, probe, box, "flags")
        return observation, box, "flags"
    lowest, highest = _range_of(dataset, actions)
    if (lowest >= -1).all() and (highest <= 1).all():
        return observation, spaces.Box(-1, 1, shape, np.float32), "[-1, 1]"
    whose = "first batch's" if getattr(dataset, "action_min", None) is None else "data's"
    warnings.warn(
        f"action bounds are unknown; taking the {whose} range "
        f"[{lowest.min():.4g}, {highest.max():.4g}]: give --env, or --action-low and --action-high",
        stacklevel=4,
    )
    flat = np.maximum(highest, lowest + 1e-6)  # a constant dimension still needs low < high
    return observation, spaces.Box(lowest.reshape(shape), flat.reshape(shape), shape, np.float32), "data"


def _range_of(dataset: Any, actions: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    lowest, highest = getattr(dataset, "action_min", None), getattr(dataset, "action_max", None)
    if lowest is None or highest is None:  # a user's object: what its probe batch shows
        lowest, highest = actions.min(0), actions.max(0)
    return np.asarray(lowest, np.float32), np.asarray(highest, np.float32)


def check_fits(source: object, observation: Any, action: Any, probe: dict[str, NDArray[Any]]) -> None:
    """Raise DatasetMismatchError when a batch does not have the shapes of these spaces."""
    obs_dim, act = ObsSpace(observation).dim, ActionSpace(action)
    have = int(np.prod(probe["obs"].shape[1:]))
    if have != obs_dim:
        raise DatasetMismatchError(
            f"the dataset has observations of shape {probe['obs'].shape[1:]}, {source} has {describe(observation)}",
            param="--env",
        )
    discrete = probe["actions"].ndim == 1 and probe["actions"].dtype.kind in "iu"
    if discrete != act.discrete or (not discrete and int(np.prod(probe["actions"].shape[1:])) != act.dim):
        raise DatasetMismatchError(
            f"the dataset has actions of shape {probe['actions'].shape[1:]}, {source} has {describe(action)}",
            param="--env",
        )


def is_guess(dataset: Any, bounds_from: str, discrete: bool) -> bool:
    """Say whether one batch decided that all actions lie in [-1, 1], or how many discrete ones there are.

    A range taken from a batch is not meant: that comes with a warning of its own.
    """
    known = "n_actions" if discrete else "action_min"
    return bounds_from == ("data" if discrete else "[-1, 1]") and getattr(dataset, known, None) is None


def check_guess(dataset: Any, actions: NDArray[Any], action: Any) -> bool:
    """Return whether actions keep to a space that was guessed from an earlier batch, with a warning where not.

    Raises
    ------
    DatasetError
        A discrete action that the guessed space does not have.
    """
    if isinstance(action, spaces.Discrete):
        largest = int(actions.max())
        if largest >= action.start + action.n:
            raise DatasetError(
                f"the dataset has the action {largest}, its first batch had none above {action.start + action.n - 1}",
                hint="give it an attribute `n_actions`, or pass `env`",
                value=largest,
            )
        return True
    return not _warn_beyond(dataset, {"actions": actions}, action, "first batch")


def _warn_beyond(dataset: Any, probe: dict[str, NDArray[Any]], action: Any, where: str) -> bool:
    """Say that actions are clipped to bounds that they do not keep to, beyond what rounding explains."""
    if isinstance(action, spaces.Discrete):
        return False
    lowest, highest = (bound.reshape(-1) for bound in _range_of(dataset, probe["actions"]))
    low, high = ActionSpace(action).low, ActionSpace(action).high
    slack = 1e-3 * (high - low)
    outside = np.flatnonzero((lowest < low - slack) | (highest > high + slack))
    if outside.size:
        i = int(outside[0])
        warnings.warn(
            f"actions are clipped: the data's reach [{lowest[i]:.4g}, {highest[i]:.4g}] in dimension {i}, "
            f"the bounds from the {where} are [{low[i]:.4g}, {high[i]:.4g}]",
            stacklevel=4,
        )
    return bool(outside.size)
