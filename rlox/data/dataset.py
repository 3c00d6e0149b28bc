"""Offline data, sampled: transitions and pieces of episodes, from memory or from a mapped file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._ext.columns import ColumnStore, returns_to_go
from .._ext.layout import Array, Batch, count
from .._ext.rows import RowStore
from .._ext.store import Store
from ..errors import ConfigError, DatasetMismatchError
from .arrays import Columns, check_columns

Rows = Literal["td", "all"]
BLOCK = 8192  # rows that a pass over the whole dataset looks at together
STD_OFFSET = 1e-3  # added to the standard deviation before dividing by it (TD3+BC, Fujimoto and Gu 2021, and CORL)


class OfflineDatasetBuffer:
    """Transitions of whole episodes, sampled with a seed and no state.

    Parameters
    ----------
    obs : (n, ...) array, or flat
        Any dtype that casts to float32; uint8 images stay uint8.
    next_obs : (n, ...) array, optional
        Without it the next observation is that of the next row. None follows the last row of an episode: where that
        is terminated its own observation stands in (masked by every target), where it is truncated the row is left
        out of ``rows="td"``.
    actions : (n, act_dim) array, or flat
        Float32; one integer per row means discrete actions.
    rewards, terminated : (n,) arrays
    truncated : (n,) array, optional
        Both flags in one row count as terminated. A last row without a flag is truncated (``tail`` says so).
    normalize : bool
        Return observations as ``(x - obs_mean) / (obs_std + 1e-3)``. Can be set later.
    obs_dim, act_dim : int, optional
        Sizes of flat arrays; without them the number of rewards decides.

    Attributes
    ----------
    starts, lengths : (n_episodes,) int64 arrays
        First row and number of rows of each episode.
    discrete : bool
    n_actions : int or None
        Largest discrete action + 1.
    action_min, action_max : (act_dim,) arrays
        Of the data, per dimension.
    n_td : int
        Rows that ``rows="td"`` draws from.
    source : str or None
        The file it comes from; ``meta`` holds what that says about itself.

    Raises
    ------
    DatasetError
        No rows, other lengths, wrong shapes, NaN or infinity, flags other than 0 and 1: column, count and first row.
    ConfigError
        More bytes than are free.
    """

    def __init__(
        self,
        obs: npt.ArrayLike,
        next_obs: npt.ArrayLike | None,
        actions: npt.ArrayLike,
        rewards: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike | None = None,
        normalize: bool = False,
        *,
        obs_dim: int | tuple[int, ...] | None = None,
        act_dim: int | None = None,
    ) -> None:
        given = {"obs": obs, "next_obs": next_obs, "actions": actions, "rewards": rewards}
        columns = check_columns({**given, "terminated": terminated, "truncated": truncated}, obs_dim, act_dim)
        store = RowStore(columns.layout, hint="`--storage mmap` reads a contiguous file from disk")
        flags = columns.terminated, columns.truncated
        store.push_many(columns.obs, columns.actions, columns.rewards, *flags, columns.next_obs, open_ends=True)
        self._own = store.nbytes
        self._views = store.layout.views(store.rows, len(store))
        self._finish(columns, store, normalize, None)

    @classmethod
    def open(
        cls,
        path_or_id: str | os.PathLike[str],
        storage: Literal["auto", "ram", "mmap"] = "auto",
        max_memory: int | str | None = None,
        *,
        keys: Mapping[str, str] | None = None,
    ) -> OfflineDatasetBuffer:
        """Open a dataset file; see :func:`rlox.data.open_dataset`."""
        from .d4rl import open_dataset

        return open_dataset(path_or_id, storage=storage, max_memory=max_memory, keys=keys)

    @classmethod
    def _from_columns(
        cls, columns: Mapping[str, Any], *, normalize: bool = False, guard: Callable[[], object] | None = None
    ) -> OfflineDatasetBuffer:
        """Sample from columns where they lie, e.g. in a mapped file; values are not looked at, dtypes and shapes are.

        ``guard`` is called before every read of them and raises when they must not be touched any more.
        """
        self = cls.__new__(cls)
        checked = check_columns(columns, None, None, finite=False)
        kinds = checked.kinds()
        store = ColumnStore(checked.layout, checked.obs, checked.actions, checked.rewards, kinds, checked.next_obs)
        held = [checked.obs, checked.next_obs, checked.actions, checked.rewards]
        names = ("obs", "next_obs", "actions", "rewards")
        copied = [a for a, name in zip(held, names, strict=True) if a is not None and not _same(a, columns[name])]
        self._own = kinds.nbytes + sum(a.nbytes for a in copied)
        self._views = checked.obs, checked.actions, checked.rewards
        self._finish(checked, store, normalize, guard)
        return self

    def _finish(
        self, columns: Columns, store: Store, normalize: bool, guard: Callable[[], object] | None
    ) -> None:
        self._store, self._guard = store, guard
        self.obs_shape: tuple[int, ...] = columns.obs.shape[1:]
        self.obs_dim = int(np.prod(self.obs_shape, dtype=np.int64))
        self.discrete = columns.actions.ndim == 1
        self.act_dim = 1 if self.discrete else int(columns.actions.shape[1])
        self.starts = columns.starts()
        self.lengths = np.diff(self.starts, append=len(store))
        self.tail = columns.tail
        td = np.flatnonzero(~columns.unknown)
        self.n_td = len(td)
        self._own += self.starts.nbytes + self.lengths.nbytes
        if self.n_td < len(store):
            store.restrict(td)
            self._own += td.nbytes
        self.source: str | None = None
        self.meta: dict[str, Any] = {}
        self.normalize = normalize

    @property
    def normalize(self) -> bool:
        """Whether observations are normalised when they are read."""
        return self._normalize

    @normalize.setter
    def normalize(self, on: bool) -> None:
        if on and self._views[0].dtype != np.float32:
            dtype = self._views[0].dtype
            raise ConfigError(f"normalize needs float32 observations, these are {dtype}", param="normalize")
        self._normalize = bool(on)

    def sample(
        self, batch_size: SupportsIndex, seed: SupportsIndex, out: Batch | None = None, *, rows: Rows = "td"
    ) -> Batch:
        """Draw transitions uniformly, with replacement.

        Parameters
        ----------
        batch_size : int
            At least 1.
        seed : int
            In 0…2⁶⁴−1; the same seed gives the same batch, in memory and mapped.
        out : dict, optional
            A batch of this size as returned before, to be overwritten and returned.
        rows : {"td", "all"}
            Rows that are terminated or whose next observation is known, or all of them.

        Returns
        -------
        dict of arrays
            obs, next_obs (B, ...), actions (B, act_dim) or (B,) int64, rewards, terminated, truncated (B,) float32,
            indices (B,) int64.

        Raises
        ------
        ValueError
            A bad ``batch_size``, ``seed`` or ``out``.
        DatasetMismatchError
            No row of that kind.
        """
        if rows not in ("td", "all"):
            raise ConfigError(f"rows is {rows!r}, must be td or all", param="rows", value=rows)
        if rows == "td" and not self.n_td:
            raise DatasetMismatchError(f"none of {len(self)} rows is terminated or has a known next observation")
        self._check()
        batch = self._store.sample(batch_size, seed, out, rows == "all")
        return self._normalized(batch, "obs", "next_obs")

    def take(self, indices: npt.ArrayLike, out: Batch | None = None) -> Batch:
        """Return the rows of these numbers as :meth:`sample` would; an unknown next observation is the row's own."""
        self._check()
        return self._normalized(self._store.take(indices, out), "obs", "next_obs")

    def sample_trajectories(self, batch_size: SupportsIndex, seq_len: int, seed: SupportsIndex) -> Batch:
        """Draw pieces of episodes: an episode with probability ∝ its length, then a start in it, uniformly.

        Returns
        -------
        dict of arrays, padded with zeros on the right
            obs (B, T, ...), actions (B, T, act_dim) or (B, T) int64, rewards (B, T), returns_to_go (B, T) to the end
            of the episode (not of the piece; of a truncated episode a lower bound where rewards are positive),
            timesteps (B, T) int64 since the start of the episode, mask (B, T) float32, 1 where there is a row.
        """
        length = count("seq_len", seq_len)
        first = self._store.draws(batch_size, seed)
        episode = np.searchsorted(self.starts, first, side="right") - 1
        rows = first[:, None] + np.arange(length)
        real = rows < (self.starts + self.lengths)[episode][:, None]
        flat = rows[real]
        taken = self.take(flat)
        columns = {
            "obs": taken["obs"],
            "actions": taken["actions"],
            "rewards": taken["rewards"],
            "returns_to_go": self._returns_to_go[flat],
            "timesteps": (rows - self.starts[episode][:, None])[real],
            "mask": np.ones(len(flat), np.float32),
        }
        batch = {}
        for name, column in columns.items():
            batch[name] = np.zeros((*real.shape, *column.shape[1:]), column.dtype)
            batch[name][real] = column
        return batch

    def stats(self) -> dict[str, float]:
        """Return n_transitions, n_episodes, obs_dim, act_dim, return_mean, _std, _min, _max and length_mean.

        Returns are sums of rewards per episode, in float64; the deviation is that of all episodes (ddof 0).
        """
        self._check()
        returns = np.add.reduceat(self._views[2].astype(np.float64), self.starts)
        return {
            "n_transitions": len(self),
            "n_episodes": self.n_episodes(),
            "obs_dim": self.obs_dim,
            "act_dim": self.act_dim,
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std()),
            "return_min": float(returns.min()),
            "return_max": float(returns.max()),
            "length_mean": float(self.lengths.mean()),
        }

    def n_episodes(self) -> int:
        """Return the number of episodes, an unfinished last one included."""
        return len(self.starts)

    def __len__(self) -> int:
        return len(self._store)

    @property
    def obs(self) -> npt.NDArray[Any]:
        """All observations (N, ...), as :meth:`take` gives them, in fresh memory; likewise the columns below."""
        return self._column("obs")

    @property
    def next_obs(self) -> npt.NDArray[Any]:
        """All next observations (N, ...); where it is unknown, the row's own observation."""
        return self._column("next_obs")

    @property
    def actions(self) -> npt.NDArray[Any]:
        """All actions (N, act_dim), or (N,) int64."""
        return self._column("actions")

    @property
    def rewards(self) -> npt.NDArray[np.float32]:
        """All rewards (N,)."""
        return self._column("rewards")

    @property
    def terminated(self) -> npt.NDArray[np.float32]:
        """All flags of termination (N,), 0 or 1."""
        return self._column("terminated")

    @property
    def truncated(self) -> npt.NDArray[np.float32]:
        """All flags of truncation (N,), 0 or 1; an unfinished last episode counts as truncated."""
        return self._column("truncated")

    def _column(self, name: str) -> npt.NDArray[Any]:
        return self.take(np.arange(len(self)))[name]

    @property
    def nbytes(self) -> int:
        """Bytes of the memory held; columns that are read where they lie are not counted."""
        return self._own

    @property
    def obs_mean(self) -> npt.NDArray[np.float32]:
        """Mean of each dimension over the observations of all rows, (obs_dim,)."""
        return self._moments[0]

    @property
    def obs_std(self) -> npt.NDArray[np.float32]:
        """Standard deviation of each dimension over the observations of all rows (ddof 0), (obs_dim,)."""
        return self._moments[1]

    @property
    def action_min(self) -> Array:
        """Least action of each dimension, (act_dim,)."""
        return self._action_range[0]

    @property
    def action_max(self) -> Array:
        """Largest action of each dimension, (act_dim,)."""
        return self._action_range[1]

    @property
    def n_actions(self) -> int | None:
        """Largest discrete action + 1; None for continuous actions."""
        return int(self.action_max[0]) + 1 if self.discrete else None

    def fingerprint(self) -> str:
        """Return the SHA-256 of every row's content, in hexadecimal; the same in memory and mapped."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        layout = self._store.layout
        head = [len(self), self.obs_shape, layout.obs_dtype.str, layout.act_shape, layout.act_dtype.str]
        digest = hashlib.sha256(json.dumps(head).encode())
        for start in range(0, len(self), BLOCK):
            self._check()
            block = self._store.take(np.arange(start, min(start + BLOCK, len(self))))
            for name in ("obs", "next_obs", "actions", "rewards", "terminated", "truncated"):
                digest.update(block[name].data)
        return digest.hexdigest()

    @cached_property
    def _returns_to_go(self) -> npt.NDArray[np.float32]:
        to_go = returns_to_go(self._views[2], self.starts)
        self._own += to_go.nbytes
        return to_go

    @cached_property
    def _moments(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        # Two passes in float64: one pass of x² cancels where the mean is large beside the deviation.
        n = len(self)
        mean = sum((block.sum(axis=0) for block in self._obs_blocks()), np.zeros(self.obs_dim)) / n
        square = sum((np.square(block - mean).sum(axis=0) for block in self._obs_blocks()), np.zeros(self.obs_dim))
        return mean.astype(np.float32), np.sqrt(square / n).astype(np.float32)

    def _obs_blocks(self) -> Iterator[npt.NDArray[np.float64]]:
        for start in range(0, len(self), BLOCK):
            self._check()
            block = self._views[0][start : start + BLOCK]
            yield block.reshape(len(block), -1).astype(np.float64)

    @cached_property
    def _action_range(self) -> tuple[Array, Array]:
        self._check()
        actions = self._views[1].reshape(len(self), -1)
        return actions.min(axis=0), actions.max(axis=0)

    @cached_property
    def _scale(self) -> tuple[Array, Array]:
        scale = self.obs_std + np.float32(STD_OFFSET)
        return self.obs_mean.reshape(self.obs_shape), scale.reshape(self.obs_shape)

    def _normalized(self, batch: Batch, *names: str) -> Batch:
        if self._normalize:
            mean, scale = self._scale
            for name in names:
                np.subtract(batch[name], mean, out=batch[name])
                np.divide(batch[name], scale, out=batch[name])
        return batch

    def _check(self) -> None:
        if self._guard is not None:
            self._guard()


def _same(array: Array, given: object) -> bool:
    """Return whether ``array`` is the caller's own memory."""
    return isinstance(given, np.ndarray) and np.may_share_memory(array, given)
