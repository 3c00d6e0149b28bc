"""The row store: push, seeded draws, gather.

Cython because a push copies some hundred bytes and a sample follows some hundred random rows: in NumPy both are call
overhead and two passes over memory. One row is one run of bytes (see ``layout.py``), an observation is stored once, and
"next observation" is a number: of the row that holds it, or of a slot in a side table where no row does (episode ends).

Kernels are ``noexcept nogil`` over C types; ``def`` methods validate, allocate and release the GIL. Readers work without
the GIL, so they are counted; a writer holds the GIL and waits until there are none.
"""

cimport numpy as cnp
from cpython.float cimport PyFloat_Check
from cpython.long cimport PyLong_Check
from libc.math cimport isinf
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from time import sleep

import numpy as np

from ..errors import CheckpointError
from .layout import (
    aligned_empty, cast, check_memory, index_array, many_rows, one_row, saved_array, saved_number,
)

cnp.import_array()

cdef extern from *:
    """
    #include <stdio.h>
    #include <stdlib.h>
    #if defined(__GNUC__) || defined(__clang__)
    #define ROWS_PREFETCH(p) __builtin_prefetch(p)
    #else
    #define ROWS_PREFETCH(p) ((void)(p))
    #endif
    #if RLOX_DEBUG_EXT
    #define ROWS_CHECK(ok) do { if (!(ok)) { fprintf(stderr, "rows.pyx:%d: %s\\n", __LINE__, #ok); abort(); } } while (0)
    #else
    #define ROWS_CHECK(ok) ((void)(ok))
    #endif
    """
    void ROWS_PREFETCH(const void* p) noexcept nogil
    void ROWS_CHECK(bint ok) noexcept nogil

cdef enum:
    DEPTH = 12  # rows between a prefetch and the use of what it fetched
    LINE = 64
    MOST_LINES = 8  # of one observation; beyond that the hardware sees the stream by itself

cdef enum:  # the low bits of a tail word
    TERMINATED = 1
    TRUNCATED = 2
    IN_SLOT = 4
    SHIFT = 3

cdef enum:  # where a column store finds the next observation, above the two flags of its kind byte
    NEXT_ROW = 0
    OWN_ROW = 4
    STORED = 8


cdef struct Batch:  # OUT: what a gather writes
    uint8_t* obs
    uint8_t* next_obs
    uint8_t* actions
    float* rewards
    float* terminated
    float* truncated
    int64_t* indices

cdef struct Table:
    uint8_t* rows
    uint8_t** chunks  # of the side table
    int64_t* newest  # per environment: number of its newest push, -1 before the first and after an unknown end
    int64_t capacity
    int64_t row_bytes
    int64_t obs_bytes
    int64_t act_bytes
    int64_t act_at
    int64_t reward_at
    int64_t word_at
    int64_t slot_bytes
    int64_t chunk_shift  # log2 of the slots of a chunk
    int64_t n_slots  # allocated
    int64_t touched  # slots used at some time: 0…touched−1
    int64_t free_slot  # head of the list of free touched slots, linked through their first 8 bytes; -1 = none
    int64_t total  # pushes since the start; push number t lies in row t % capacity
    int64_t n_pending  # rows whose next observation is not known yet
    uint64_t pending  # the number that says so
    bint wide  # tail words of 8 bytes


# ---- draws -----------------------------------------------------------------------------------------------------------

cdef inline uint64_t mix(uint64_t z) noexcept nogil:
    """The finalizer of splitmix64 (Steele, Lea, Flood 2014; constants of Stafford's variant 13)."""
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef inline uint64_t scale(uint64_t a, uint64_t n) noexcept nogil:
    """The high 64 bits of a·n: uniform in 0…n−1, with a bias below n / 2⁶⁴."""
    cdef uint64_t a0 = <uint32_t>a, a1 = a >> 32, n0 = <uint32_t>n, n1 = n >> 32
    cdef uint64_t mid = a1 * n0 + (a0 * n0 >> 32)
    cdef uint64_t mid2 = a0 * n1 + <uint32_t>mid
    return a1 * n1 + (mid >> 32) + (mid2 >> 32)


cdef inline uint64_t random64(uint64_t key, int64_t position) noexcept nogil:
    return mix(key + <uint64_t>(position + 1) * <uint64_t>0x9E3779B97F4A7C15)


cdef void draw_uniform(int64_t* out, int64_t n, uint64_t seed, int64_t limit) noexcept nogil:
    """OUT out (n,): draw i depends on seed and i alone. The seed is mixed first: seeds a step apart share no draws."""
    cdef uint64_t key = mix(seed ^ <uint64_t>0x6A09E667F3BCC909)
    cdef int64_t i
    for i in range(n):
        out[i] = <int64_t>scale(random64(key, i), <uint64_t>limit)


cdef void draw_known(const Table* t, int64_t* out, int64_t n, uint64_t seed, int64_t limit) noexcept nogil:
    """As draw_uniform; a row without its next observation is drawn again, from the value drawn before."""
    cdef uint64_t key = mix(seed ^ <uint64_t>0x6A09E667F3BCC909)
    cdef uint64_t value
    cdef int64_t i, row
    for i in range(n):
        value = random64(key, i)
        row = <int64_t>scale(value, <uint64_t>limit)
        while is_pending(t, read_word(t, row)):
            value = random64(value, i)
            row = <int64_t>scale(value, <uint64_t>limit)
        out[i] = row


# ---- rows and slots --------------------------------------------------------------------------------------------------

cdef inline uint8_t* row_at(const Table* t, int64_t row) noexcept nogil:
    ROWS_CHECK(0 <= row and row < t.capacity)
    return t.rows + row * t.row_bytes


cdef inline uint8_t* slot_at(const Table* t, int64_t slot) noexcept nogil:
    ROWS_CHECK(0 <= slot and slot < t.n_slots)
    return t.chunks[slot >> t.chunk_shift] + (slot & ((<int64_t>1 << t.chunk_shift) - 1)) * t.slot_bytes


cdef inline uint64_t read_word(const Table* t, int64_t row) noexcept nogil:
    cdef uint32_t narrow
    cdef uint64_t word
    if t.wide:
        memcpy(&word, row_at(t, row) + t.word_at, 8)
        return word
    memcpy(&narrow, row_at(t, row) + t.word_at, 4)
    return narrow


cdef inline void write_word(const Table* t, int64_t row, uint64_t word) noexcept nogil:
    cdef uint32_t narrow = <uint32_t>word
    if t.wide:
        memcpy(row_at(t, row) + t.word_at, &word, 8)
    else:
        memcpy(row_at(t, row) + t.word_at, &narrow, 4)


cdef inline bint is_pending(const Table* t, uint64_t word) noexcept nogil:
    return not (word & IN_SLOT) and word >> SHIFT == t.pending


cdef inline const uint8_t* next_obs_of(const Table* t, int64_t row) noexcept nogil:
    """The next observation of a row; its own where none is known."""
    cdef uint64_t word = read_word(t, row)
    if word & IN_SLOT:
        return slot_at(t, <int64_t>(word >> SHIFT))
    return row_at(t, row if is_pending(t, word) else <int64_t>(word >> SHIFT))


cdef inline int64_t take_slot(Table* t) noexcept nogil:
    """A free slot; the caller made sure that there is one."""
    cdef int64_t slot = t.free_slot
    if slot < 0:
        ROWS_CHECK(t.touched < t.n_slots)
        slot = t.touched
        t.touched += 1
    else:
        memcpy(&t.free_slot, slot_at(t, slot), 8)
    return slot


cdef inline void free_slot(Table* t, int64_t slot) noexcept nogil:
    memcpy(slot_at(t, slot), &t.free_slot, 8)
    t.free_slot = slot


cdef void link_newest(Table* t, int64_t env, int64_t row, const uint8_t* obs) noexcept nogil:
    """Point the environment's newest row at ``row`` if that holds its next observation; its slot becomes free."""
    cdef int64_t before = t.newest[env]
    cdef int64_t at = before % t.capacity
    cdef uint64_t word
    if before < 0 or before <= t.total - t.capacity:  # none, or the push under way overwrites it
        return
    word = read_word(t, at)
    if word & IN_SLOT:
        if memcmp(slot_at(t, <int64_t>(word >> SHIFT)), obs, t.obs_bytes) != 0:
            return
        free_slot(t, <int64_t>(word >> SHIFT))
    elif is_pending(t, word):
        t.n_pending -= 1
    else:
        return
    write_word(t, at, (word & (TERMINATED | TRUNCATED)) | (<uint64_t>row << SHIFT))


cdef uint64_t store_next(Table* t, int64_t row, int64_t env, uint64_t flags, const uint8_t* next_obs) noexcept nogil:
    """Return the tail word of the row being pushed and note its push as the environment's newest."""
    cdef int64_t slot
    t.newest[env] = t.total
    if next_obs != NULL:
        slot = take_slot(t)
        memcpy(slot_at(t, slot), next_obs, t.obs_bytes)
        memset(slot_at(t, slot) + t.obs_bytes, 0, t.slot_bytes - t.obs_bytes)
        return flags | IN_SLOT | (<uint64_t>slot << SHIFT)
    if flags & TERMINATED:  # masked by every target; its own observation stands in
        return flags | (<uint64_t>row << SHIFT)
    t.n_pending += 1
    if flags & TRUNCATED:  # never to be known: what comes next belongs to another episode
        t.newest[env] = -1
    return flags | (t.pending << SHIFT)


cdef bint push_row(
    Table* t, int64_t env, const uint8_t* obs, const uint8_t* action, float reward, uint64_t flags, const uint8_t* next_obs
) noexcept nogil:
    """IN obs, action, next_obs (or NULL). Store one transition; False, with nothing changed, when a slot is missing."""
    cdef int64_t row = t.total % t.capacity
    cdef bint full = t.total >= t.capacity
    cdef uint64_t old = read_word(t, row) if full else 0
    cdef uint8_t* to = row_at(t, row)
    if next_obs != NULL and t.free_slot < 0 and t.touched == t.n_slots and not (full and old & IN_SLOT):
        return False
    if full and old & IN_SLOT:
        free_slot(t, <int64_t>(old >> SHIFT))
    elif full and is_pending(t, old):
        t.n_pending -= 1
    link_newest(t, env, row, obs)
    memset(to, 0, t.row_bytes)  # padding too: a saved row has no stray bytes
    memcpy(to, obs, t.obs_bytes)
    memcpy(to + t.act_at, action, t.act_bytes)
    memcpy(to + t.reward_at, &reward, 4)
    write_word(t, row, store_next(t, row, env, flags, next_obs))
    t.total += 1
    return True


cdef inline void prefetch(const uint8_t* p, int64_t nbytes) noexcept nogil:
    cdef int64_t at = 0
    while at < nbytes and at < MOST_LINES * LINE:
        ROWS_PREFETCH(p + at)
        at += LINE


cdef void gather_rows(const Table* t, const int64_t* index, int64_t n, Batch b) noexcept nogil:
    """IN index (n,), OUT b. A pipeline: fetch row i, follow the link of row i−DEPTH, copy row i−2·DEPTH."""
    cdef const uint8_t* ahead[DEPTH]
    cdef const uint8_t* row
    cdef uint64_t word
    cdef int64_t i, k
    for i in range(n + 2 * DEPTH):
        k = i - 2 * DEPTH
        if k >= 0:
            row = row_at(t, index[k])
            word = read_word(t, index[k])
            memcpy(b.obs + k * t.obs_bytes, row, t.obs_bytes)
            memcpy(b.next_obs + k * t.obs_bytes, ahead[k % DEPTH], t.obs_bytes)
            memcpy(b.actions + k * t.act_bytes, row + t.act_at, t.act_bytes)
            memcpy(b.rewards + k, row + t.reward_at, 4)
            b.terminated[k] = <float>(word & TERMINATED)
            b.truncated[k] = <float>((word & TRUNCATED) >> 1)
            b.indices[k] = index[k]
        k = i - DEPTH
        if k >= 0 and k < n:
            ahead[k % DEPTH] = next_obs_of(t, index[k])
            prefetch(ahead[k % DEPTH], t.obs_bytes)
        if i < n:
            row = row_at(t, index[i])
            prefetch(row, t.row_bytes)
            ROWS_PREFETCH(row + t.word_at)


cdef int64_t broken_row(const Table* t, uint8_t* slot_used) noexcept nogil:
    """OUT slot_used (touched,). Check what a file says before a kernel trusts it: the first bad row, −2 for a bad list."""
    cdef int64_t length = min(t.total, t.capacity)
    cdef int64_t row, slot
    cdef uint64_t word
    for row in range(length):
        word = read_word(t, row)
        slot = <int64_t>(word >> SHIFT)
        if word & IN_SLOT:
            if slot >= t.touched or slot_used[slot]:
                return row
            slot_used[slot] = 1
        elif slot >= length and not is_pending(t, word):
            return row
    slot = t.free_slot
    while slot >= 0:
        if slot >= t.touched or slot_used[slot]:
            return -2
        slot_used[slot] = 1
        memcpy(&slot, slot_at(t, slot), 8)
    return -1 if slot == -1 else -2


cdef int64_t count_pending(const Table* t) noexcept nogil:
    cdef int64_t row
    cdef int64_t n = 0
    for row in range(min(t.total, t.capacity)):
        n += is_pending(t, read_word(t, row))
    return n


# ---- boundaries ------------------------------------------------------------------------------------------------------

cdef class Store:
    """What rows and columns have in common: draws, and the batch that a gather writes into."""

    cdef readonly object layout
    cdef tuple obs_shape, act_shape, batch_spec
    cdef object obs_dtype, act_dtype
    cdef int obs_num, act_num
    cdef int64_t readers, writers
    cdef object subset_array
    cdef const int64_t[::1] subset

    def __cinit__(self, layout, *args, **kwargs):
        layout.check()
        self.layout = layout
        self.obs_shape, self.act_shape = layout.obs_shape, layout.act_shape
        self.obs_dtype, self.act_dtype = layout.obs_dtype, layout.act_dtype
        self.obs_num, self.act_num = layout.obs_dtype.num, layout.act_dtype.num
        f4 = np.dtype(np.float32)
        self.batch_spec = (
            ("obs", layout.obs_dtype, layout.obs_shape),
            ("next_obs", layout.obs_dtype, layout.obs_shape),
            ("actions", layout.act_dtype, layout.act_shape),
            ("rewards", f4, ()),
            ("terminated", f4, ()),
            ("truncated", f4, ()),
            ("indices", np.dtype(np.int64), ()),
        )

    cdef int64_t length(self) noexcept nogil:
        return 0

    cdef bint any_known(self) noexcept nogil:
        return True

    cdef void draw(self, int64_t* out, int64_t n, uint64_t seed, int64_t limit) noexcept nogil:
        draw_uniform(out, n, seed, limit)

    cdef void gather(self, const int64_t* index, int64_t n, Batch b) noexcept nogil:
        pass

    cdef int begin_read(self) except -1:
        while self.writers > 0:  # lets a waiting writer in before new readers
            sleep(2e-5)
        self.readers += 1
        return 0

    cdef int begin_write(self) except -1:
        if self.readers == 0:
            return 0
        self.writers += 1
        try:
            while self.readers > 0:
                sleep(2e-5)
        finally:
            self.writers -= 1
        return 0

    def __len__(self):
        return self.length()

    def restrict(self, rows):
        """Let :meth:`sample` draw from these rows only; None lifts it."""
        self.subset_array = None if rows is None else index_array("rows", rows, self.length())
        self.subset = self.subset_array

    def sample(self, batch_size, seed, out=None, bint every=False):
        """Draw rows uniformly, with replacement, and return them as a batch.

        Without ``every``: only rows that ``restrict`` named and, without it, rows whose next observation is known.
        """
        cdef int64_t n = whole("batch_size", batch_size, 1)
        cdef uint64_t key = seed64(seed)
        cdef int64_t limit, i
        cdef bint named
        cdef Batch b
        cdef dict batch = self.outputs(n, out, &b)
        self.begin_read()
        try:
            named = not every and self.subset_array is not None
            limit = self.subset.shape[0] if named else self.length()
            if limit == 0 or not (every or named or self.any_known()):
                self.refuse()
            with nogil:
                if every or named:
                    draw_uniform(b.indices, n, key, limit)
                else:
                    self.draw(b.indices, n, key, limit)
                if named:
                    for i in range(n):
                        b.indices[i] = self.subset[b.indices[i]]
                self.gather(b.indices, n, b)
        finally:
            self.readers -= 1
        return batch

    def draws(self, n, seed):
        """Return ``n`` row numbers as :meth:`sample` draws them from all rows, flags and links unseen."""
        cdef cnp.ndarray out = np.empty(whole("n", n, 0), np.int64)
        if self.length() == 0:
            self.refuse()
        draw_uniform(<int64_t*>cnp.PyArray_DATA(out), cnp.PyArray_SIZE(out), seed64(seed), self.length())
        return out

    def take(self, indices, out=None):
        """Return the rows of these numbers as a batch; an unknown next observation is the row's own."""
        cdef cnp.ndarray index
        cdef Batch b
        cdef dict batch
        cdef int64_t n
        self.begin_read()  # before the range check: the rows that it allows must stay
        try:
            index = index_array("indices", indices, self.length())
            n = cnp.PyArray_SIZE(index)
            batch = self.outputs(n, out, &b)
            if cnp.PyArray_DATA(index) != <void*>b.indices:
                memcpy(b.indices, cnp.PyArray_DATA(index), n * sizeof(int64_t))
            with nogil:
                self.gather(b.indices, n, b)
        finally:
            self.readers -= 1
        return batch

    cdef int refuse(self) except -1:
        if self.length() == 0:
            raise ValueError("cannot sample: it holds no transition that can be drawn")
        raise ValueError("cannot sample: no row has its next observation yet")

    cdef dict outputs(self, int64_t n, object out, Batch* b):
        """OUT b. Return ``out`` once each array in it is fit to be written, or a new batch in one block of memory."""
        cdef uint8_t* at[7]
        cdef int64_t size[7]
        cdef int k, j
        cdef cnp.ndarray array
        if out is None:
            out = self.new_batch(n)
        elif type(out) is not dict:
            raise TypeError(f"out is {type(out).__name__}, must be a batch as sample returned it")
        for k in range(7):
            name, dtype, shape = self.batch_spec[k]
            array = self.output(<dict>out, name, dtype, shape, n)
            at[k] = <uint8_t*>cnp.PyArray_DATA(array)
            size[k] = cnp.PyArray_NBYTES(array)
            for j in range(k):
                if at[j] < at[k] + size[k] and at[k] < at[j] + size[j]:
                    raise ValueError(f"out[{self.batch_spec[j][0]!r}] and out[{name!r}] share memory")
        b.obs, b.next_obs, b.actions = at[0], at[1], at[2]
        b.rewards, b.terminated, b.truncated = <float*>at[3], <float*>at[4], <float*>at[5]
        b.indices = <int64_t*>at[6]
        return out

    cdef cnp.ndarray output(self, dict out, str name, object dtype, tuple shape, int64_t n):
        array = out.get(name)
        if array is None:
            raise ValueError(f"out has no {name!r}, must be a batch as sample returned it")
        if not is_ready(array, dtype.num, shape, n) or not cnp.PyArray_ISWRITEABLE(array):
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"out[{name!r}] is {found}, must be a writeable contiguous {dtype} {(n, *shape)}")
        return array

    def new_batch(self, n):
        """Return an unfilled batch: seven arrays, each from a cache line on, in one block that they keep alive."""
        sizes = [-(-self.layout.obs_bytes * n // LINE) * LINE] * 2
        sizes.append(-(-self.layout.act_bytes * n // LINE) * LINE)
        sizes += [-(-4 * n // LINE) * LINE] * 3 + [8 * n]
        block = aligned_empty(sum(sizes))
        batch, at = {}, 0
        for (name, dtype, shape), size in zip(self.batch_spec, sizes, strict=True):
            batch[name] = np.ndarray((n, *shape), dtype, block, at)
            at += size
        return batch


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
    cdef readonly object rows  # (capacity · row_bytes,) uint8
    cdef list chunks
    cdef object chunk_table, newest, hint

    def __init__(self, layout, n_envs=1, *, str hint="take a smaller capacity"):
        check_memory(layout.nbytes(n_envs), f"a store of {layout.capacity} rows", hint)
        self.n_envs = n_envs
        self.hint = hint
        self.rows = aligned_empty(layout.capacity * layout.row_bytes)
        self.chunks = []
        self.chunk_table = np.zeros(layout.most_chunks, np.uintp)
        self.newest = np.full(n_envs, -1, np.int64)
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
        for _ in range(layout.first_chunks(n_envs)):
            self.add_chunk()

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
        held = [self.rows.base, self.chunk_table, self.newest, *(chunk.base for chunk in self.chunks)]
        return sum(array.nbytes for array in held)

    @property
    def n_unknown(self):
        """Rows whose next observation is not known."""
        return self.t.n_pending

    cdef int add_chunk(self) except -1:
        chunk = aligned_empty(self.layout.chunk_bytes(len(self.chunks)))
        self.chunk_table[len(self.chunks)] = chunk.ctypes.data
        self.chunks.append(chunk)
        self.t.n_slots = min(len(self.chunks) << self.t.chunk_shift, self.t.capacity)
        return 0

    cdef int grow(self) except -1:
        """Add a chunk of slots if memory allows, rows that were promised but not yet touched counted as taken."""
        n = len(self.chunks)
        untouched = (self.t.capacity - self.length()) * self.t.row_bytes
        what = f"a store of {self.t.capacity} rows with many episode ends"
        check_memory(self.layout.chunk_bytes(n) + untouched, what, self.hint)
        if len(self.chunks) == n:  # reading the free memory lets other threads run
            self.begin_write()
            self.add_chunk()
        return 0

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

    def push_many(self, obs, actions, rewards, terminated, truncated, next_obs=None, envs=None, *, bint open_ends=False):
        """Store ``k`` transitions in order; ``open_ends`` allows truncated ones without a next observation."""
        cdef cnp.ndarray o = many_rows("obs", obs, self.obs_dtype, self.obs_shape)
        cdef int64_t k = len(o)
        cdef cnp.ndarray a = many_rows("actions", actions, self.act_dtype, self.act_shape, k)
        cdef cnp.ndarray r = many_rows("rewards", rewards, np.dtype(np.float32), (), k)
        cdef cnp.ndarray d = many_rows("terminated", terminated, np.dtype(np.bool_), (), k)
        cdef cnp.ndarray u = many_rows("truncated", truncated, np.dtype(np.bool_), (), k)
        cdef cnp.ndarray e
        cdef cnp.ndarray x = None
        if next_obs is not None:
            x = many_rows("next_obs", next_obs, self.obs_dtype, self.obs_shape, k)
        elif not open_ends and np.any(u.ravel() & ~d.ravel()):
            raise ValueError("a truncated step needs its final observation: next_obs is None")
        if envs is None:
            envs = np.arange(k) if k == self.n_envs else np.zeros(k, np.int64)
        e = index_array("envs", envs, self.n_envs)
        if cnp.PyArray_SIZE(e) != k:
            raise ValueError(f"envs has {cnp.PyArray_SIZE(e)} rows, obs has {k}")
        self.push_arrays(k, o, a, r, d, u, x, e)

    cdef int push_arrays(
        self, int64_t k, cnp.ndarray o, cnp.ndarray a, cnp.ndarray r, cnp.ndarray d, cnp.ndarray u, cnp.ndarray x, cnp.ndarray e
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

    def export(self):
        """Return copies of all that :meth:`restore` needs: rows and slots in use, and the counters."""
        self.begin_read()
        try:
            rows = self.rows[: self.length() * self.t.row_bytes].copy()
            used = [chunk[: max(0, self.t.touched - (i << self.t.chunk_shift)) * self.t.slot_bytes]
                    for i, chunk in enumerate(self.chunks)]
            return {
                "rows": rows.reshape(-1, self.t.row_bytes),
                "slots": np.concatenate(used).reshape(-1, self.t.slot_bytes),
                "newest": self.newest.copy(),
                "total": self.t.total,
                "free_slot": self.t.free_slot,
            }
        finally:
            self.readers -= 1

    def restore(self, state):
        """Take over what :meth:`export` returned; CheckpointError, and an empty store, when it contradicts itself."""
        cdef uint8_t[::1] used
        cdef int64_t bad
        total, free = saved_number(state, "total"), saved_number(state, "free_slot")
        rows = saved_array(state, "rows", np.uint8, (min(total, self.t.capacity), self.t.row_bytes))
        slots = saved_array(state, "slots", np.uint8, (None, self.t.slot_bytes))
        newest = saved_array(state, "newest", np.int64, (self.n_envs,))
        if total < 0 or len(slots) > len(rows) or not -1 <= free < len(slots):
            raise CheckpointError("the saved buffer is damaged: its counters contradict its rows")
        if newest.min() < -1 or newest.max() >= total:
            raise CheckpointError("the saved buffer is damaged: an environment's newest row was never pushed")
        while self.t.n_slots < len(slots):
            self.grow()
        self.begin_write()
        self.t.total = self.t.touched = self.t.n_pending = 0  # empty, should what follows fail
        self.t.free_slot = -1
        self.newest[:] = -1
        self.rows[: rows.size] = rows.ravel()
        step = 1 << self.t.chunk_shift
        for i, chunk in enumerate(self.chunks[: -(-len(slots) // step)]):
            part = slots[i * step : (i + 1) * step]
            chunk[: part.size] = part.ravel()
        self.t.total, self.t.touched, self.t.free_slot = total, len(slots), free
        used = np.zeros(len(slots) + 1, np.uint8)
        bad = broken_row(&self.t, &used[0])
        if bad != -1 or np.count_nonzero(used) != len(slots):
            self.t.total = self.t.touched = 0
            self.t.free_slot = -1
            where = "its free slots contradict its rows" if bad < 0 else f"row {bad} points outside of it"
            raise CheckpointError(f"the saved buffer is damaged: {where}")
        self.newest[:] = newest
        self.t.n_pending = count_pending(&self.t)


cdef class ColumnStore(Store):
    """Gathers from columns where they lie, in memory or in a mapped file; the same seed gives a RowStore's batch.

    Parameters
    ----------
    layout : Layout
        Shapes and dtypes of one row.
    obs, actions, rewards : ndarray
        Contiguous columns of the layout's dtypes; rewards float32. Never written.
    kinds : (n,) uint8 array
        Bit 0 terminated, bit 1 truncated, above them where the next observation is: 0 the next row, 4 the row's own, 8 in ``next_obs``.
    next_obs : ndarray, optional
        A stored column of next observations.
    """

    cdef readonly object columns
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
        self.columns = {name: spec[0] for name, spec in specs.items()}
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


cdef inline bint is_ready(object value, int num, tuple shape, int64_t n):
    """True for a native, aligned, contiguous array of this dtype and shape, ``n`` rows first unless n is −1."""
    cdef int lead = n >= 0
    cdef int k
    if not cnp.PyArray_Check(value) or cnp.PyArray_TYPE(value) != num or not cnp.PyArray_ISCARRAY_RO(value):
        return False
    if cnp.PyArray_NDIM(value) != lead + len(shape) or (lead and cnp.PyArray_DIM(value, 0) != n):
        return False
    for k in range(len(shape)):
        if cnp.PyArray_DIM(value, lead + k) != <Py_ssize_t>shape[k]:
            return False
    return True


cdef int64_t whole(str name, object value, int64_t least) except? -1:
    cdef int64_t n
    try:
        n = value.__index__()
    except AttributeError:
        raise TypeError(f"{name} is {value!r}, must be an integer") from None
    except OverflowError:
        raise ValueError(f"{name} is {value!r}, must be below 2**63") from None
    if n < least:
        raise ValueError(f"{name} is {n}, must be at least {least}")
    return n


cdef uint64_t seed64(object seed) except? 0:
    try:
        return <uint64_t>seed.__index__()
    except AttributeError:
        raise TypeError(f"seed is {seed!r}, must be an integer") from None
    except OverflowError:
        raise ValueError(f"seed is {seed!r}, must be in 0…2**64 - 1") from None


cdef float reward32(object reward) except? -1.0:
    cdef double r
    if PyFloat_Check(reward) or PyLong_Check(reward):
        r = reward
    else:
        r = one_row("reward", reward, np.dtype(np.float64), ()).flat[0]
    if isinf(<float>r) and not isinf(r):
        raise ValueError(f"reward is {r}, which float32 cannot hold")
    return <float>r
