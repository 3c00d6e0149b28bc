"""Kernels of the ring of rows: push, link, gather; a row is one run of bytes, as ``layout.py`` says."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from .store cimport DEPTH, ROWS_CHECK, ROWS_PREFETCH, TERMINATED, TRUNCATED, Batch, prefetch, random64, scale, seed_key

cdef enum:  # above the two flags of a tail word
    IN_SLOT = 4
    SHIFT = 3

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


cdef inline void link_newest(Table* t, int64_t env, int64_t row, const uint8_t* obs) noexcept nogil:
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


cdef inline uint64_t store_next(
    Table* t, int64_t row, int64_t env, uint64_t flags, const uint8_t* next_obs
) noexcept nogil:
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


cdef inline bint push_row(
    Table* t, int64_t env, const uint8_t* obs, const uint8_t* action, float reward, uint64_t flags,
    const uint8_t* next_obs
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


cdef inline void draw_known(const Table* t, int64_t* out, int64_t n, uint64_t seed, int64_t limit) noexcept nogil:
    """As draw_uniform; a row without its next observation is drawn again, from the value drawn before."""
    cdef uint64_t key = seed_key(seed)
    cdef uint64_t value
    cdef int64_t i, row
    for i in range(n):
        value = random64(key, i)
        row = <int64_t>scale(value, <uint64_t>limit)
        while is_pending(t, read_word(t, row)):
            value = random64(value, i)
            row = <int64_t>scale(value, <uint64_t>limit)
        out[i] = row


cdef inline void gather_rows(const Table* t, const int64_t* index, int64_t n, Batch b) noexcept nogil:
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


cdef inline int64_t broken_row(const Table* t, uint8_t* slot_used) noexcept nogil:
    """OUT slot_used (touched,), zeros before. Check what a file says before a kernel trusts it.

    Returns −1, or the first bad row, or −2 for a bad list of free slots.
    """
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


cdef inline int64_t count_pending(const Table* t) noexcept nogil:
    cdef int64_t row
    cdef int64_t n = 0
    for row in range(min(t.total, t.capacity)):
        n += is_pending(t, read_word(t, row))
    return n
