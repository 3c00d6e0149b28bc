"""Seeded draws into batches: the part that rows and columns share.

Cython because a sample is some hundred draws and as many random reads: in NumPy that is call overhead and passes over
memory. Kernels are ``noexcept nogil`` over C types; ``def`` methods validate, allocate and release the GIL. Readers
work without the GIL, so they are counted; a writer holds the GIL and waits until there are none.
"""

cimport numpy as cnp
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memmove

from time import sleep

import numpy as np

from .layout import aligned_empty, index_array

cnp.import_array()


cdef class Store:
    """What rows and columns have in common: draws, and the batch that a gather writes into."""

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
        self.subset_array = None if rows is None else index_array("rows", rows, self.length()).copy()
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

    def draws(self, batch_size, seed):
        """Return the row numbers that :meth:`sample` draws with ``every``."""
        cdef cnp.ndarray out = np.empty(whole("batch_size", batch_size, 1), np.int64)
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
            index = row_numbers("indices", indices, self.length())
            n = cnp.PyArray_SIZE(index)
            batch = self.outputs(n, out, &b)
            memmove(b.indices, cnp.PyArray_DATA(index), n * sizeof(int64_t))  # may be out["indices"] itself
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


cdef cnp.ndarray row_numbers(str name, object value, int64_t limit):
    """Return ``value`` as contiguous int64, each in 0…limit−1; what already is that costs one pass."""
    cdef const int64_t* at
    cdef int64_t i
    cdef int64_t n = -1
    if cnp.PyArray_Check(value) and cnp.PyArray_NDIM(value) == 1:
        n = cnp.PyArray_DIM(value, 0)
    if n >= 0 and is_ready(value, cnp.NPY_INT64, (), n):
        at = <const int64_t*>cnp.PyArray_DATA(value)
        for i in range(n):
            if not 0 <= at[i] < limit:
                break
        else:
            return value
    return index_array(name, value, limit)


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
