"""The replay ring as blocks of bytes, of which a save writes again only those that changed.

Rows change in two ways only: they are pushed, or their environment pushes next, which links its newest row to the new
one. Two counters and the tail words of the newest rows therefore tell which blocks of rows changed since a save, at a
cost that does not grow with the ring. Slots of final observations are used again in any order; there are few, so their
blocks are compared by digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._ext.layout import Array, saved_number
from ..errors import CheckpointError
from .replay import ReplayBuffer

Bytes = npt.NDArray[np.uint8]

_LEAST_BLOCK = 64 << 10  # bytes: below that a file costs more than what is in it
_MOST_BLOCKS = 512  # of rows, and as many of slots


@dataclass(frozen=True)
class _Seen:
    """What a save saw: enough to tell later which blocks are no longer as they were."""

    epoch: int
    total: int
    newest: Array  # (n,) rows that were the newest of their environments
    words: Bytes  # (n, word_bytes) tail words of these
    digests: list[bytes]  # of the blocks of slots


class RingBlocks:
    """Follow what changes in a replay buffer from one save to the next, and restore it block by block.

    A block is a fixed range of rows, or of slots for final observations: 64 KiB or a 512th of the ring, whichever is
    more, in whole rows. Its bytes are those in memory.

    Parameters
    ----------
    buffer : ReplayBuffer
        The one that is saved. At first nothing counts as saved.

    Notes
    -----
    Make one for each folder that is saved to. Time and memory of :meth:`changed` grow with the slots in use and the
    number of blocks, not with the rows.
    """

    def __init__(self, buffer: ReplayBuffer) -> None:
        self.buffer = buffer
        layout = buffer._store.layout
        self._rows_per_block = _per_block(layout.capacity, layout.row_bytes)
        # A power of two, as the slots of a chunk are: then no block lies in two chunks.
        slots = 1 << (_per_block(layout.capacity, layout.slot_bytes) - 1).bit_length()
        self._slots_per_block = min(slots, layout.chunk_slots)
        self._seen: _Seen | None = None
        self._accepted: _Seen | None = None

    def changed(self) -> tuple[dict[str, memoryview | None], dict[str, Any]]:
        """Return the blocks to write and the state to keep with them.

        Returns
        -------
        blocks : dict of str to memoryview or None
            Every block in use, ``rows.0000``… and ``slots.0000``…: its bytes, which are those of the ring and change
            with the next push, or None where the last accepted save has the same.
        state : dict
            Counters and sizes, for :meth:`restore`: numbers, lists and one array of int64.
        """
        store = self.buffer._store
        n_slots = store.n_touched
        seen = self._look(len(self.buffer), n_slots)
        old = self._accepted
        kept = old is not None and old.epoch == seen.epoch
        rows = self._touched_rows(old) if old is not None and kept else None
        digests = old.digests if old is not None and kept else []
        blocks: dict[str, memoryview | None] = {}
        for i, part in enumerate(self._row_blocks(len(self.buffer))):
            blocks[_name("rows", i)] = part.data.toreadonly() if rows is None or i in rows else None
        for i, part in enumerate(self._slot_blocks(n_slots)):
            same = i < len(digests) and digests[i] == seen.digests[i]
            blocks[_name("slots", i)] = None if same else part.data.toreadonly()
        self._seen = seen
        sizes = {"rows_per_block": self._rows_per_block, "slots_per_block": self._slots_per_block}
        return blocks, {**self.buffer._identity(), **store.counters(), "n_slots": n_slots, **sizes}

    def accept(self) -> None:
        """Take note that what the last :meth:`changed` returned is saved; without it the next one starts from before."""
        self._accepted = self._seen

    def restore(self, state: Mapping[str, Any], read_into: Callable[[str, Bytes], object]) -> None:
        """Go on from a save, in a buffer made with the same arguments; all of it then counts as accepted.

        Parameters
        ----------
        state : mapping
            What :meth:`changed` returned with the blocks.
        read_into : callable
            Called with the name of each block and the memory of the ring that it fills, exactly.

        Raises
        ------
        CheckpointMismatchError
            The state is of another capacity, shape, dtype or number of environments.
        CheckpointError
            State and blocks contradict each other or themselves; the buffer is then empty or as it was. So it is after
            any error of ``read_into``, which is passed on.
        """
        buffer, layout = self.buffer, self.buffer._store.layout
        buffer._check_identity(state)
        n_rows = min(saved_number(state, "total", 0), layout.capacity)
        n_slots = saved_number(state, "n_slots", 0)
        rows_per_block, slots_per_block = (saved_number(state, f"{what}_per_block", 1) for what in ("rows", "slots"))
        if layout.chunk_slots % slots_per_block:
            raise CheckpointError(f"the saved buffer is damaged: 'slots_per_block' is {slots_per_block}")

        def read() -> None:
            for i, part in enumerate(self._row_blocks(n_rows)):
                read_into(_name("rows", i), part)
            for i, part in enumerate(self._slot_blocks(n_slots)):
                read_into(_name("slots", i), part)

        self._seen = self._accepted = None
        # Those of the save, so that the next one can keep its blocks.
        self._rows_per_block, self._slots_per_block = rows_per_block, slots_per_block
        buffer._store.refill(state, n_slots, read)
        self._seen = self._accepted = self._look(n_rows, n_slots)

    def _look(self, n_rows: int, n_slots: int) -> _Seen:
        store = self.buffer._store
        counters = store.counters()
        pushed = counters["newest"]
        newest = pushed[pushed >= 0] % store.layout.capacity
        digests = [hashlib.sha256(part.data).digest() for part in self._slot_blocks(n_slots)]
        return _Seen(store.epoch, counters["total"], newest, self._words(newest), digests)

    def _words(self, rows: Array) -> Bytes:
        """Return copies of the tail words of these rows."""
        layout = self.buffer._store.layout
        words: Bytes = self.buffer._store.rows.reshape(-1, layout.row_bytes)[rows, layout.word_at :]
        return words

    def _touched_rows(self, old: _Seen) -> set[int]:
        """Return the blocks whose rows were pushed or linked since."""
        size, capacity = self._rows_per_block, self.buffer.capacity
        total = self.buffer._store.counters()["total"]
        linked = old.newest[(self._words(old.newest) != old.words).any(axis=1)]
        first, stop = max(old.total, total - capacity), total
        touched = {int(row) // size for row in linked}
        if first < stop:
            start, last = first % capacity, (stop - 1) % capacity
            parts = [(start, last)] if start <= last else [(0, last), (start, capacity - 1)]
            for low, high in parts:
                touched.update(range(low // size, high // size + 1))
        return touched

    def _row_blocks(self, n_rows: int) -> Iterator[Bytes]:
        store, size = self.buffer._store, self._rows_per_block
        row_bytes = store.layout.row_bytes
        for first in range(0, n_rows, size):
            yield store.rows[first * row_bytes : min(first + size, n_rows) * row_bytes]

    def _slot_blocks(self, n_slots: int) -> Iterator[Bytes]:
        for first in range(0, n_slots, self._slots_per_block):
            yield self.buffer._store.slots(first, min(first + self._slots_per_block, n_slots))


def _per_block(n: int, nbytes: int) -> int:
    """Return how many of ``n`` things of ``nbytes`` each make a block."""
    return max(-(-_LEAST_BLOCK // nbytes), -(-n // _MOST_BLOCKS))


def _name(kind: str, i: int) -> str:
    return f"{kind}.{i:04d}"
