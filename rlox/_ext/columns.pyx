"""Transitions by column, gathered where they lie; sums over episodes.

Cython for the same reason as the row store: a batch from a mapped file is some hundred short copies.
"""

cimport numpy as cnp
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

from .store cimport DEPTH, ROWS_CHECK, ROWS_PREFETCH, TERMINATED, TRUNCATED, Batch, Store, prefetch

import numpy as np

from .layout import cast, index_array

cnp.import_array()

cdef enum:  # where the next observation is, above the two flags of a kind byte
    NEXT_ROW = 0
    OWN_ROW = 4
    STORED = 8


cdef class ColumnStore(Store):
    """Gathers from columns where they lie, in memory or in a mapped file; the same seed gives a RowStore's batch.

    Parameters
    ----------
    layout : Layout
        Shapes and dtypes of one row.
    obs, actions, rewards : ndarray
        Contiguous columns of the layout's dtypes; rewards float32. Never written.
    kinds : (n,) uint8 array
        Bit 0 terminated, bit 1 truncated; above them where the next observation is: 0 in the next row, 4 in the row
        itself, 8 in ``next_obs``.
    next_obs : ndarray, optional
        A stored column of next observations.
    """

    cdef tuple held  # keeps what the pointers below point at
    cdef const uint8_t* obs
    cdef const uint8_t* next_obs
    cdef const uint8_t* actions
    cdef const uint8_t* rewards
    cdef const uint8_t* kinds
    cdef int64_t n, obs_bytes, act_bytes

    def __init__(self, layout, obs, actions, rewards, kinds, next_obs=None):
        f4, u1 = np.dtype(np.float32), np.dtype(np.uint8)
        self.n = len(obs)
        self.obs_bytes, self.act_bytes = layout.obs_bytes, layout.act_bytes
        specs = {
            "obs": (obs, layout.obs_dtype, layout.obs_shape),
            "actions": (actions, layout.act_dtype, layout.act_shape),
            "rewards": (rewards, f4, ()),
            "kinds": (kinds, u1, ()),
        }
        if next_obs is not None:
            specs["next_obs"] = (next_obs, layout.obs_dtype, layout.obs_shape)
        for name, (array, dtype, shape) in specs.items():
            if not (isinstance(array, np.ndarray) and array.flags.c_contiguous and array.dtype == dtype):
                raise TypeError(f"{name} must be a contiguous array of {dtype}")
            if array.shape != (self.n, *shape):
                raise ValueError(f"{name} has shape {array.shape}, must be {(self.n, *shape)}")
        self.check_kinds(kinds, next_obs is not None)
        self.held = (obs, actions, rewards, kinds, next_obs)
        self.obs = <const uint8_t*>cnp.PyArray_DATA(obs)
        self.next_obs = NULL
        if next_obs is not None:
            self.next_obs = <const uint8_t*>cnp.PyArray_DATA(next_obs)
        self.actions = <const uint8_t*>cnp.PyArray_DATA(actions)
        self.rewards = <const uint8_t*>cnp.PyArray_DATA(rewards)
        self.kinds = <const uint8_t*>cnp.PyArray_DATA(kinds)

    def check_kinds(self, kinds, stored):
        """Raise ValueError when a kind points outside of the columns."""
        where = kinds & ~np.uint8(TERMINATED | TRUNCATED)
        allowed = (where == NEXT_ROW) | (where == OWN_ROW) | ((where == STORED) & stored)
        if not allowed.all() or (where[self.n - 1 :] == NEXT_ROW).any():  # of the last row, where there is one
            raise ValueError("kinds must name the next row, the row itself or a stored next observation")

    cdef int64_t length(self) noexcept nogil:
        return self.n

    cdef void gather(self, const int64_t* index, int64_t n, Batch b) noexcept nogil:
        cdef int64_t i, k, row
        for i in range(n + DEPTH):
            if i < n:
                row = index[i]
                ROWS_CHECK(0 <= row and row < self.n)
                prefetch(self.obs + row * self.obs_bytes, self.obs_bytes)
                ROWS_PREFETCH(self.actions + row * self.act_bytes)
                ROWS_PREFETCH(self.rewards + row * 4)
                ROWS_PREFETCH(self.kinds + row)
                if self.next_obs != NULL:
                    prefetch(self.next_obs + row * self.obs_bytes, self.obs_bytes)
            k = i - DEPTH
            if k >= 0:
                self.copy(index[k], k, b)

    cdef inline void copy(self, int64_t row, int64_t k, Batch b) noexcept nogil:
        cdef uint8_t kind = self.kinds[row]
        cdef const uint8_t* after = self.obs + (row + 1) * self.obs_bytes
        if kind & STORED:
            after = self.next_obs + row * self.obs_bytes
        elif kind & OWN_ROW:
            after = self.obs + row * self.obs_bytes
        memcpy(b.obs + k * self.obs_bytes, self.obs + row * self.obs_bytes, self.obs_bytes)
        memcpy(b.next_obs + k * self.obs_bytes, after, self.obs_bytes)
        memcpy(b.actions + k * self.act_bytes, self.actions + row * self.act_bytes, self.act_bytes)
        memcpy(b.rewards + k, self.rewards + row * 4, 4)
        b.terminated[k] = <float>(kind & TERMINATED)
        b.truncated[k] = <float>((kind & TRUNCATED) >> 1)
        b.indices[k] = row


def returns_to_go(rewards, starts):
    """Sum the rewards from each row to the end of its episode.

    Parameters
    ----------
    rewards : (n,) float32 array
    starts : (E,) int64 array
        First row of each episode, ascending, from 0.

    Returns
    -------
    (n,) float32 array
        Summed in float64 from the episode's end backwards.
    """
    cdef const float[::1] r = cast("rewards", rewards, np.dtype(np.float32))
    cdef const int64_t[::1] first = index_array("starts", starts, len(rewards))
    out = np.empty(len(rewards), np.float32)
    cdef float[::1] to_go = out
    cdef int64_t row
    cdef int64_t episode = first.shape[0] - 1
    cdef double total = 0.0
    with nogil:
        for row in range(r.shape[0] - 1, -1, -1):
            total += r[row]
            to_go[row] = <float>total
            if episode >= 0 and row == first[episode]:
                episode -= 1
                total = 0.0
    return out
