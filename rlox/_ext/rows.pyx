"""The row store: transitions as interleaved rows, each observation once.

Cython because a push copies some hundred bytes, which in NumPy is all call overhead. "Next observation" is a number: of
the row that holds it, or of a slot in a side table where no row does (episode ends). The kernels are in ``table.pxd``;
the methods here validate and allocate.
"""

cimport numpy as cnp
from cpython.float cimport PyFloat_Check
from cpython.long cimport PyLong_Check
from libc.math cimport isinf
from libc.stdint cimport int64_t, uint8_t, uint64_t

from .store cimport TERMINATED, TRUNCATED, Batch, Store, draw_uniform, is_ready, row_numbers, whole
from .table cimport SHIFT, Table, broken_row, count_pending, draw_known, gather_rows, push_row

import numpy as np

from ..errors import CheckpointError
from .layout import aligned_empty, check_memory, many_rows, one_row, saved_array, saved_number

cnp.import_array()

FLOAT32, BOOL = np.dtype(np.float32), np.dtype(np.bool_)


cdef class RowStore(Store):
    """A ring of interleaved rows with a side table of the observations that no row holds.

    Parameters
    ----------
    layout : Layout
        Sizes and dtypes; ``layout.capacity`` rows are allocated, and touched only when they are pushed.
    n_envs : int
        Environments whose pushes may be interleaved.
    hint : str
        What to do when there is not enough memory.
    """

    cdef Table t
    cdef readonly int64_t n_envs
    cdef readonly int64_t epoch  # grows when the contents are replaced, so that whoever follows pushes starts anew
    cdef readonly object rows  # (capacity · row_bytes,) uint8
    cdef list chunks
    cdef object chunk_table, newest, every_env, hint

    def __init__(self, layout, n_envs=1, *, str hint="take a smaller capacity"):
        check_memory(layout.nbytes(n_envs), f"a store of {layout.capacity} rows", hint)
        self.n_envs = n_envs
        self.hint = hint
        self.rows = aligned_empty(layout.capacity * layout.row_bytes)
        self.chunks = []
        self.chunk_table = np.zeros(layout.most_chunks, np.uintp)
        self.newest = np.full(n_envs, -1, np.int64)
        self.every_env = np.arange(n_envs)
        t = &self.t
        t.rows = <uint8_t*>cnp.PyArray_DATA(self.rows)
        t.chunks = <uint8_t**>cnp.PyArray_DATA(self.chunk_table)
        t.newest = <int64_t*>cnp.PyArray_DATA(self.newest)
        t.capacity, t.row_bytes, t.slot_bytes = layout.capacity, layout.row_bytes, layout.slot_bytes
        t.obs_bytes, t.act_bytes = layout.obs_bytes, layout.act_bytes
        t.act_at, t.reward_at, t.word_at = layout.act_at, layout.reward_at, layout.word_at
        t.wide = layout.word_bytes == 8
        t.pending = (<uint64_t>-1 if t.wide else <uint64_t>0xFFFFFFFF) >> SHIFT
        t.chunk_shift = layout.chunk_slots.bit_length() - 1
        t.free_slot = -1
        for i in range(layout.first_chunks(n_envs)):
            self.add_chunk(i)

    cdef int64_t length(self) noexcept nogil:
        return min(self.t.total, self.t.capacity)

    cdef bint any_known(self) noexcept nogil:
        return self.t.n_pending < self.length()

    cdef void draw(self, int64_t* out, int64_t n, uint64_t seed, int64_t limit) noexcept nogil:
        if self.t.n_pending == 0:
            draw_uniform(out, n, seed, limit)
        else:
            draw_known(&self.t, out, n, seed, limit)

    cdef void gather(self, const int64_t* index, int64_t n, Batch b) noexcept nogil:
        gather_rows(&self.t, index, n, b)

    @property
    def nbytes(self):
        """Bytes of all memory held now."""
        held = [self.rows.base, self.chunk_table, self.newest, self.every_env, *(chunk.base for chunk in self.chunks)]
        return sum(array.nbytes for array in held)

    @property
    def n_unknown(self):
        """Rows whose next observation is not known."""
        return self.t.n_pending

    cdef int add_chunk(self, int64_t i) except -1:
        """Add chunk ``i``, unless another thread did while this one allocated."""
        chunk = aligned_empty(self.layout.chunk_bytes(i))
        address = chunk.ctypes.data
        self.begin_write()
        if len(self.chunks) == i:
            self.chunk_table[i] = address
            self.chunks.append(chunk)
            self.t.n_slots = min((i + 1) << self.t.chunk_shift, self.t.capacity)
        return 0

    cdef int grow(self) except -1:
        """Add a chunk of slots if memory allows, rows that were promised but not yet touched counted as taken."""
        i = len(self.chunks)
        untouched = (self.t.capacity - self.length()) * self.t.row_bytes
        what = f"a store of {self.t.capacity} rows with many episode ends"
        check_memory(self.layout.chunk_bytes(i) + untouched, what, self.hint)
        return self.add_chunk(i)

    def push(self, obs, action, reward, bint terminated, bint truncated, next_obs, env):
        """Store one transition, oldest first out."""
        cdef int64_t e = whole("env", env, 0)
        cdef float r = reward32(reward)
        cdef uint64_t flags = TERMINATED if terminated else TRUNCATED if truncated else 0
        cdef const uint8_t* after = NULL
        cdef cnp.ndarray o = self.one(obs, self.obs_num, self.obs_dtype, self.obs_shape, "obs")
        cdef cnp.ndarray a = self.one(action, self.act_num, self.act_dtype, self.act_shape, "action")
        cdef cnp.ndarray x
        if e >= self.n_envs:
            raise ValueError(f"env is {e}, must be in 0…{self.n_envs - 1}")
        if next_obs is not None:
            x = self.one(next_obs, self.obs_num, self.obs_dtype, self.obs_shape, "next_obs")
            after = <const uint8_t*>cnp.PyArray_DATA(x)
        elif flags == TRUNCATED:
            raise ValueError("a truncated step needs its final observation: next_obs is None")
        while True:
            self.begin_write()
            if push_row(&self.t, e, <uint8_t*>cnp.PyArray_DATA(o), <uint8_t*>cnp.PyArray_DATA(a), r, flags, after):
                return
            self.grow()

    def push_many(
        self, obs, actions, rewards, terminated, truncated, next_obs=None, envs=None, *, bint open_ends=False
    ):
        """Store ``k`` transitions in order; ``open_ends`` allows truncated ones without a next observation."""
        cdef int64_t k = cnp.PyArray_DIM(obs, 0) if cnp.PyArray_Check(obs) and cnp.PyArray_NDIM(obs) > 0 else -1
        cdef cnp.ndarray o = self.many(obs, self.obs_num, self.obs_dtype, self.obs_shape, "obs", k)
        cdef cnp.ndarray a, r, d, u, e
        cdef cnp.ndarray x = None
        k = cnp.PyArray_DIM(o, 0)
        a = self.many(actions, self.act_num, self.act_dtype, self.act_shape, "actions", k)
        r = self.many(rewards, cnp.NPY_FLOAT32, FLOAT32, (), "rewards", k)
        d = self.many(terminated, cnp.NPY_BOOL, BOOL, (), "terminated", k)
        u = self.many(truncated, cnp.NPY_BOOL, BOOL, (), "truncated", k)
        if next_obs is not None:
            x = self.many(next_obs, self.obs_num, self.obs_dtype, self.obs_shape, "next_obs", k)
        elif not open_ends and np.any(u.ravel() & ~d.ravel()):
            raise ValueError("a truncated step needs its final observation: next_obs is None")
        if envs is None:
            e = self.every_env if k == self.n_envs else np.zeros(k, np.int64)
        else:
            e = row_numbers("envs", envs, self.n_envs)
            if cnp.PyArray_SIZE(e) != k:
                raise ValueError(f"envs has {cnp.PyArray_SIZE(e)} rows, obs has {k}")
        self.push_arrays(k, o, a, r, d, u, x, e)

    cdef int push_arrays(
        self, int64_t k, cnp.ndarray o, cnp.ndarray a, cnp.ndarray r, cnp.ndarray d, cnp.ndarray u,
        cnp.ndarray x, cnp.ndarray e
    ) except -1:
        cdef const uint8_t* obs = <const uint8_t*>cnp.PyArray_DATA(o)
        cdef const uint8_t* action = <const uint8_t*>cnp.PyArray_DATA(a)
        cdef const uint8_t* after = NULL
        cdef const uint8_t* next_obs
        cdef const uint8_t* o_i
        cdef const uint8_t* a_i
        cdef const float* reward = <const float*>cnp.PyArray_DATA(r)
        cdef const uint8_t* terminated = <const uint8_t*>cnp.PyArray_DATA(d)
        cdef const uint8_t* truncated = <const uint8_t*>cnp.PyArray_DATA(u)
        cdef const int64_t* env = <const int64_t*>cnp.PyArray_DATA(e)
        cdef int64_t i = 0
        cdef uint64_t flags
        if x is not None:
            after = <const uint8_t*>cnp.PyArray_DATA(x)
        while True:
            self.begin_write()
            while i < k:
                next_obs = after
                if after != NULL:
                    next_obs += i * self.t.obs_bytes
                flags = TERMINATED if terminated[i] else TRUNCATED if truncated[i] else 0
                o_i, a_i = obs + i * self.t.obs_bytes, action + i * self.t.act_bytes
                if not push_row(&self.t, env[i], o_i, a_i, reward[i], flags, next_obs):
                    break
                i += 1
            if i == k:
                return 0
            self.grow()

    cdef cnp.ndarray one(self, object value, int num, object dtype, tuple shape, str name):
        if is_ready(value, num, shape, -1):
            return value
        return one_row(name, value, dtype, shape)

    cdef cnp.ndarray many(self, object value, int num, object dtype, tuple shape, str name, int64_t k):
        if k >= 0 and is_ready(value, num, shape, k):
            return value
        return many_rows(name, value, dtype, shape, k)

    @property
    def n_touched(self):
        """Slots used at some time: the first so many."""
        return self.t.touched

    def slots(self, int64_t first, int64_t stop):
        """Return the bytes of slots ``first``…``stop``−1, which must lie in one chunk, as a view."""
        cdef int64_t at = first & ((<int64_t>1 << self.t.chunk_shift) - 1)
        cdef int64_t size = self.t.slot_bytes
        if not 0 <= first < stop <= self.t.n_slots or at + stop - first > <int64_t>1 << self.t.chunk_shift:
            raise ValueError(f"slots {first}…{stop - 1} are not of one chunk in 0…{self.t.n_slots - 1}")
        return self.chunks[first >> self.t.chunk_shift][at * size : (at + stop - first) * size]

    def counters(self):
        """Return what :meth:`refill` needs besides the rows and slots in use; ``newest`` is a copy."""
        return {"newest": self.newest.copy(), "total": self.t.total, "free_slot": self.t.free_slot}

    def export(self):
        """Return copies of all that :meth:`restore` needs: rows and slots in use, and the counters."""
        self.begin_read()
        try:
            rows = self.rows[: self.length() * self.t.row_bytes].copy()
            step = self.layout.chunk_slots
            slots = [c[: max(0, self.t.touched - i * step) * self.t.slot_bytes] for i, c in enumerate(self.chunks)]
            return {
                "rows": rows.reshape(-1, self.t.row_bytes),
                "slots": np.concatenate(slots).reshape(-1, self.t.slot_bytes),
                **self.counters(),
            }
        finally:
            self.readers -= 1

    def restore(self, state):
        """Take over what :meth:`export` returned; CheckpointError, and an empty store, when it contradicts itself."""
        n_rows = min(saved_number(state, "total", 0), self.t.capacity)
        rows = saved_array(state, "rows", np.uint8, (n_rows, self.t.row_bytes))
        slots = saved_array(state, "slots", np.uint8, (None, self.t.slot_bytes))

        def copy():
            self.rows[: rows.size] = rows.ravel()
            step = self.layout.chunk_slots
            for first in range(0, len(slots), step):
                part = slots[first : first + step]
                self.slots(first, first + len(part))[:] = part.ravel()

        self.refill(state, len(slots), copy)

    def refill(self, state, int64_t n_slots, fill):
        """Empty the store, let ``fill()`` write rows and slots in place, and go on from the counters of ``state``.

        CheckpointError, and an empty store, when they contradict each other; an empty store too when ``fill`` raises.
        """
        cdef int64_t total = saved_number(state, "total", 0)
        cdef int64_t free = saved_number(state, "free_slot", -1)
        newest = saved_array(state, "newest", np.int64, (self.n_envs,))
        if n_slots > min(total, self.t.capacity) or free >= n_slots:
            raise CheckpointError("the saved buffer is damaged: its counters contradict its rows")
        if newest.min() < -1 or newest.max() >= total:
            raise CheckpointError("the saved buffer is damaged: an environment's newest row was never pushed")
        while self.t.n_slots < n_slots:
            self.grow()
        self.clear()
        fill()
        self.clear()  # what another thread pushed meanwhile is gone
        self.t.total, self.t.touched, self.t.free_slot = total, n_slots, free
        self.check_links()
        self.newest[:] = newest
        self.t.n_pending = count_pending(&self.t)

    cdef int clear(self) except -1:
        self.begin_write()
        self.epoch += 1
        self.t.total = self.t.touched = self.t.n_pending = 0
        self.t.free_slot = -1
        self.newest[:] = -1
        return 0

    cdef int check_links(self) except -1:
        """CheckpointError, and an empty store, when a row or a free slot points where none can be."""
        cdef uint8_t[::1] used = np.zeros(self.t.touched + 1, np.uint8)
        cdef int64_t bad = broken_row(&self.t, &used[0])
        if bad == -1 and np.count_nonzero(used) == self.t.touched:
            return 0
        self.clear()
        where = "its free slots contradict its rows" if bad < 0 else f"row {bad} points outside of it"
        raise CheckpointError(f"the saved buffer is damaged: {where}")


cdef float reward32(object reward) except? -1.0:
    cdef double r
    if PyFloat_Check(reward) or PyLong_Check(reward):
        r = reward
    else:
        r = one_row("reward", reward, np.dtype(np.float64), ()).flat[0]
    if isinf(<float>r) and not isinf(r):
        raise ValueError(f"reward is {r}, which float32 cannot hold")
    return <float>r
