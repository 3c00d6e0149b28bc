"""What every store of transitions shares: the batch it writes, seeded draws, checks of what comes in."""

cimport numpy as cnp
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

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
    #define ROWS_FAIL(ok) (fprintf(stderr, "%s:%d: %s\\n", __FILE__, __LINE__, #ok), abort())
    #define ROWS_CHECK(ok) ((ok) ? (void)0 : ROWS_FAIL(ok))
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

cdef enum:  # bits of a tail word and of a kind byte
    TERMINATED = 1
    TRUNCATED = 2

cdef struct Batch:  # OUT: what a gather writes
    uint8_t* obs
    uint8_t* next_obs
    uint8_t* actions
    float* rewards
    float* terminated
    float* truncated
    int64_t* indices


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


cdef inline uint64_t seed_key(uint64_t seed) noexcept nogil:
    """The seed, mixed: seeds that differ by the step between positions must not share draws."""
    return mix(seed ^ <uint64_t>0x6A09E667F3BCC909)


cdef inline uint64_t random64(uint64_t key, int64_t position) noexcept nogil:
    return mix(key + <uint64_t>(position + 1) * <uint64_t>0x9E3779B97F4A7C15)


cdef inline void draw_uniform(int64_t* out, int64_t n, uint64_t seed, int64_t limit) noexcept nogil:
    """OUT out (n,): draw i depends on the seed and i alone."""
    cdef uint64_t key = seed_key(seed)
    cdef int64_t i
    for i in range(n):
        out[i] = <int64_t>scale(random64(key, i), <uint64_t>limit)


cdef inline void prefetch(const uint8_t* p, int64_t nbytes) noexcept nogil:
    cdef int64_t at = 0
    while at < nbytes and at < MOST_LINES * LINE:
        ROWS_PREFETCH(p + at)
        at += LINE


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


cdef cnp.ndarray row_numbers(str name, object value, int64_t limit)
cdef int64_t whole(str name, object value, int64_t least) except? -1
cdef uint64_t seed64(object seed) except? 0


cdef class Store:
    cdef readonly object layout
    cdef tuple obs_shape, act_shape, batch_spec
    cdef object obs_dtype, act_dtype
    cdef int obs_num, act_num
    cdef int64_t readers, writers
    cdef object subset_array
    cdef const int64_t[::1] subset

    cdef int64_t length(self) noexcept nogil
    cdef bint any_known(self) noexcept nogil
    cdef void draw(self, int64_t* out, int64_t n, uint64_t seed, int64_t limit) noexcept nogil
    cdef void gather(self, const int64_t* index, int64_t n, Batch b) noexcept nogil
    cdef int begin_read(self) except -1
    cdef int begin_write(self) except -1
    cdef int refuse(self) except -1
    cdef dict outputs(self, int64_t n, object out, Batch* b)
    cdef cnp.ndarray output(self, dict out, str name, object dtype, tuple shape, int64_t n)
