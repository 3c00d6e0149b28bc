"""The replay ring of off-policy algorithms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._ext.layout import Batch, Layout, act_spec, count, obs_spec
from .._ext.rows import RowStore
from ..errors import CheckpointMismatchError


class ReplayBuffer:
    """Keep the newest ``capacity`` transitions and draw batches from them uniformly, with replacement.

    Each observation is stored once: the next observation of a transition is the one that its environment pushes next,
    and only where none follows (at the end of an episode) it has a place of its own. Rows are numbered in push order;
    push number t lies in row ``t % capacity``.

    Parameters
    ----------
    capacity : int
        Transitions kept, of all environments together.
    obs_dim : int, tuple of int or space
        Size or shape of an observation, or a space of one array. A space of whole numbers or bools keeps its dtype
        unless ``obs_dtype`` is given.
    act_dim : int or space
        Size of an action; a Discrete space means ``discrete``.
    n_envs : int
        Environments that push into it.
    obs_dtype : dtype
        How observations are stored and returned: bool, an integer, float16, float32 or float64.
    discrete : bool
        Actions are single integers, stored and returned as int64.

    Raises
    ------
    ConfigError
        An argument that is not allowed, or more bytes than are free (``nbytes`` at its start).

    Notes
    -----
    Memory is touched when rows are pushed, not before. Pushes and samples from several threads are safe; samples run
    beside each other without the GIL.

    Examples
    --------
    >>> buffer = ReplayBuffer(100, obs_dim=3, act_dim=1)
    >>> buffer.push([0, 0, 0], [0.5], 1.0, False, False, [1, 1, 1])
    >>> buffer.push([1, 1, 1], [0.5], 2.0, True, False, [2, 2, 2])
    >>> batch = buffer.sample(4, seed=0)
    >>> batch["next_obs"].shape, batch["rewards"].dtype
    ((4, 3), dtype('float32'))
    """

    def __init__(
        self,
        capacity: int,
        obs_dim: Any,
        act_dim: Any,
        *,
        n_envs: int = 1,
        obs_dtype: npt.DTypeLike = "float32",
        discrete: bool = False,
    ) -> None:
        layout = _layout(capacity, obs_dim, act_dim, obs_dtype, discrete)
        self.capacity = layout.capacity
        self.obs_dim = obs_dim
        self.act_dim = act_dim
        self.n_envs = count("n_envs", n_envs)
        self.obs_shape = layout.obs_shape
        self.act_shape = layout.act_shape
        self.obs_dtype = layout.obs_dtype
        self.discrete = layout.act_shape == ()
        self._store = RowStore(layout, self.n_envs, hint="take a smaller capacity (buffer_size)")
        self._push = self._store.push

    @staticmethod
    def estimate_nbytes(
        capacity: int,
        obs_dim: Any,
        act_dim: Any,
        *,
        n_envs: int = 1,
        obs_dtype: npt.DTypeLike = "float32",
        discrete: bool = False,
    ) -> int:
        """Return ``nbytes`` of a new buffer with these arguments, without making it."""
        return _layout(capacity, obs_dim, act_dim, obs_dtype, discrete).nbytes(count("n_envs", n_envs))

    def push(
        self,
        obs: npt.ArrayLike,
        action: npt.ArrayLike,
        reward: Any,
        terminated: Any,
        truncated: Any,
        next_obs: npt.ArrayLike | None = None,
        *,
        env: SupportsIndex = 0,
    ) -> None:
        """Store one transition, replacing the oldest when full.

        Parameters
        ----------
        obs, next_obs : obs_shape array
            Copied, and cast where that keeps the numbers (rounding to a narrower float apart). Without ``next_obs`` it
            is the next observation that ``env`` pushes; until then the transition is not drawn. For a terminated step,
            where it is masked by every target, the step's own observation stands in.
        action : (act_dim,) array, or int when discrete
        reward : float
        terminated, truncated : bool
            Where both are set, terminated wins.
        env : int
            Which environment, in 0…n_envs−1.

        Raises
        ------
        ValueError, TypeError
            A wrong shape or dtype, a number that does not fit, a truncated step without ``next_obs``. Nothing is stored.
        ConfigError
            No memory for one more final observation.
        """
        self._push(obs, action, reward, terminated, truncated, next_obs, env)

    def push_many(
        self,
        obs: npt.ArrayLike,
        actions: npt.ArrayLike,
        rewards: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike,
        next_obs: npt.ArrayLike | None = None,
        *,
        envs: npt.ArrayLike | None = None,
    ) -> None:
        """Store k transitions in the given order, as that many calls of :meth:`push` would.

        Parameters
        ----------
        obs, next_obs : (k, ...) arrays
        actions : (k, act_dim) array, or (k,) integers when discrete
        rewards, terminated, truncated : (k,) arrays
        envs : (k,) integers, optional
            Environment of each. Without it: 0…n_envs−1 when k is n_envs, else all 0.

        Raises
        ------
        ValueError, TypeError
            As :meth:`push`, before anything is stored.
        """
        self._store.push_many(obs, actions, rewards, terminated, truncated, next_obs, envs)

    def sample(self, batch_size: SupportsIndex, seed: SupportsIndex, out: Batch | None = None) -> Batch:
        """Draw a batch, uniformly and with replacement, from the transitions whose next observation is known.

        Parameters
        ----------
        batch_size : int
            At least 1; may be larger than the buffer.
        seed : int
            In 0…2⁶⁴−1. The same seed and contents give the same batch.
        out : dict, optional
            A batch of this size as returned before, to be overwritten and returned.

        Returns
        -------
        dict of arrays
            obs, next_obs (B, ...), actions (B, act_dim) float32 or (B,) int64, rewards, terminated, truncated (B,)
            float32, indices (B,) int64: row numbers. Fresh memory that is the caller's, unless ``out`` is given.

        Raises
        ------
        ValueError
            Nothing to draw from, a bad ``batch_size`` or ``seed``, an ``out`` of other shapes or dtypes.
        """
        return self._store.sample(batch_size, seed, out)

    def take(self, indices: npt.ArrayLike, out: Batch | None = None) -> Batch:
        """Return the rows of these numbers as a batch; a next observation not known yet is the row's own.

        Parameters
        ----------
        indices : (B,) integers
            In 0…len−1.
        out : dict, optional
            As for :meth:`sample`.
        """
        return self._store.take(indices, out)

    def __len__(self) -> int:
        return len(self._store)

    @property
    def nbytes(self) -> int:
        """Bytes of all memory that the buffer holds, touched or not.

        It grows, checked against free memory, only where episode ends are more than a sixteenth of the rows.
        """
        return self._store.nbytes

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the rows in use and of all that the buffer needs to go on bit for bit."""
        return {**self._identity(), **self._store.export()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned, by a buffer made with the same arguments.

        Raises
        ------
        CheckpointMismatchError
            The state is of another capacity, shape, dtype or number of environments.
        CheckpointError
            The state contradicts itself; the buffer is then empty or as it was.
        """
        self._check_identity(state)
        self._store.restore(state)

    def _check_identity(self, state: Mapping[str, Any]) -> None:
        for key, value in self._identity().items():
            saved = state.get(key)
            saved = list(saved) if isinstance(saved, tuple) else saved
            if saved != value:
                raise CheckpointMismatchError(f"the saved buffer has {key} {saved!r}, this one {value!r}")

    def _identity(self) -> dict[str, Any]:
        layout = self._store.layout
        return {
            "capacity": self.capacity,
            "n_envs": self.n_envs,
            "obs_shape": list(layout.obs_shape),
            "obs_dtype": layout.obs_dtype.name,
            "act_shape": list(layout.act_shape),
            "act_dtype": layout.act_dtype.name,
        }


def _layout(capacity: int, obs_dim: Any, act_dim: Any, obs_dtype: npt.DTypeLike, discrete: bool) -> Layout:
    obs_shape, dtype = obs_spec(obs_dim, obs_dtype)
    act_shape, act_dtype = act_spec(act_dim, discrete)
    return Layout(obs_shape, dtype, act_shape, np.dtype(act_dtype), count("capacity", capacity)).check()
