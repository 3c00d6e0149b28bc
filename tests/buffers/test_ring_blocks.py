"""The ring saved in blocks: what comes back, what is written again, what damage does."""

import copy
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy_ring import KEYS, NumpyRing, stream

from rlox._ext import layout
from rlox.buffers import ReplayBuffer, blocks
from rlox.buffers.blocks import RingBlocks
from rlox.errors import CheckpointError, CheckpointMismatchError

SMALL = st.integers(0, 3)


class Folder:
    """Keeps the parts of the last committed save, as the files of a generation would."""

    def __init__(self):
        self.parts, self.state = {}, None

    def save(self, ring, fails=False):
        """Save what changed; return the names of the blocks written, after a check that no other block changed."""
        parts, state = ring.changed()
        written = {name: bytes(part) for name, part in parts.items() if part is not None}
        every = {name: bytes(part) for name, part in RingBlocks(ring.buffer).changed()[0].items()}
        assert list(parts) == list(every)
        assert written == {name: part for name, part in every.items() if part != self.parts.get(name)}
        if not fails:
            self.parts, self.state = every, copy.deepcopy(state)
            ring.accept()
        return set(written)

    def read_into(self, name, out):
        assert out.dtype == np.uint8 and out.flags.c_contiguous
        out[:] = np.frombuffer(self.parts[name], np.uint8)

    def restore(self, buffer):
        ring = RingBlocks(buffer)
        ring.restore(self.state, self.read_into)
        return ring


@pytest.fixture(autouse=True)
def many_small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "_LEAST_BLOCK", 64)


def assert_equal(one, other):
    """Assert that two buffers hold the same bytes and draw the same batches."""
    states = one.state_dict(), other.state_dict()
    for key, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][key], err_msg=key)
    if one._store.n_unknown < len(one):
        for seed in range(3):
            batches = one.sample(16, seed), other.sample(16, seed)
            assert all(np.array_equal(batches[0][key], batches[1][key]) for key in (*KEYS, "indices"))


def push(buffer, rows):
    for *row, env in rows:
        buffer.push(*row, env=env)


@pytest.mark.parametrize("capacity", [1, 2, 20, 101])
@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("end", [0.01, 0.6])
@pytest.mark.parametrize("known", [0.0, 0.5, 1.0])
def test_saves_that_fail_succeed_and_resume_bring_back_every_byte(capacity, n_envs, end, known):
    rng = np.random.default_rng([capacity, n_envs])

    def make():
        return ReplayBuffer(capacity, 2, 1, n_envs=n_envs)

    buffer, never_stopped, folder = make(), make(), Folder()
    ring = RingBlocks(buffer)
    rows = list(stream(rng, 400, n_envs=n_envs, end=end, known=known))
    saved_at = at = 0
    while at < len(rows):
        kind = rng.integers(4)
        if kind == 0:
            folder.save(ring, fails=True)
        elif kind == 1:
            folder.save(ring)
            saved_at = at
        elif kind == 2 and folder.state is not None:
            buffer, at = make(), saved_at
            ring = folder.restore(buffer)
            assert folder.save(ring, fails=True) == set()
        else:
            n = int(rng.integers(1, 30))
            push(buffer, rows[at : at + n])
            at = min(at + n, len(rows))
    push(never_stopped, rows)
    assert_equal(buffer, never_stopped)
    folder.save(ring)
    other = make()
    folder.restore(other)
    assert_equal(other, never_stopped)


@pytest.mark.parametrize("wide", [False, True])
def test_tail_words_of_both_widths_are_followed(wide, monkeypatch):
    if wide:
        monkeypatch.setattr(layout, "_NARROW_LIMIT", 1)
    buffer, folder = ReplayBuffer(50, 2, 1), Folder()
    ring = RingBlocks(buffer)
    assert buffer._store.layout.word_bytes == (8 if wide else 4)
    for rows in np.array_split(np.arange(130), 13):
        for k in rows:
            buffer.push([k, k], [k], k, k % 7 == 0, False)
        folder.save(ring)
    other = ReplayBuffer(50, 2, 1)
    folder.restore(other)
    assert_equal(other, buffer)


class Saves(RuleBasedStateMachine):
    """Any sequence of pushes, saves, failed saves and resumes leaves the ring equal to the two-copy one."""

    @initialize(capacity=st.integers(1, 40), n_envs=st.integers(1, 4), least=st.sampled_from([1, 30, 100, 1000]))
    def start(self, capacity, n_envs, least):
        blocks._LEAST_BLOCK, self.usual = least, blocks._LEAST_BLOCK
        self.n_envs, self.k = n_envs, 0
        self.make = lambda: ReplayBuffer(capacity, 1, 1, n_envs=n_envs, obs_dtype="int16")
        self.buffer, self.model, self.folder = self.make(), NumpyRing(capacity, (1,), obs_dtype=np.int16), Folder()
        self.ring = RingBlocks(self.buffer)
        self.saved_model = None

    @rule(obs=SMALL, after=st.none() | SMALL, end=st.sampled_from(["no", "terminated", "truncated"]), env=SMALL)
    def push(self, obs, after, end, env):
        after = 7 if after is None and end == "truncated" else after
        self.k += 1  # no two rows are equal by chance: then blocks that changed are those that differ
        row = ([obs], [obs], self.k, end == "terminated", end == "truncated", None if after is None else [after])
        self.buffer.push(*row, env=env % self.n_envs)
        self.model.push(*row, env % self.n_envs)

    @rule(n=st.integers(1, 60), env=SMALL, ends=st.booleans())
    def push_many(self, n, env, ends):
        for _ in range(n):
            self.push(self.k % 4, self.k % 3, "truncated" if ends else "no", env)

    @rule()
    def save(self):
        self.folder.save(self.ring)
        self.saved_model = copy.deepcopy(self.model)

    @rule()
    def fail_to_save(self):
        self.folder.save(self.ring, fails=True)

    @rule()
    def resume(self):
        if self.saved_model is not None:
            self.buffer, self.model = self.make(), copy.deepcopy(self.saved_model)
            self.ring = self.folder.restore(self.buffer)

    @invariant()
    def equal(self):
        if hasattr(self, "model"):
            self.model.check(self.buffer)

    def teardown(self):
        if hasattr(self, "usual"):
            blocks._LEAST_BLOCK = self.usual


TestSaves = Saves.TestCase
TestSaves.settings = settings(
    max_examples=50,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)


@pytest.mark.parametrize("n_envs", [1, 8])
@pytest.mark.parametrize("k", [1, 50, 700])
def test_bytes_written_grow_with_the_rows_added_and_not_with_the_ring(n_envs, k, monkeypatch):
    monkeypatch.setattr(blocks, "_LEAST_BLOCK", 4096)
    sizes = []
    for capacity in (10_000, 40_000):
        buffer = ReplayBuffer(capacity, 8, 2, n_envs=n_envs)
        ring, folder = RingBlocks(buffer), Folder()
        envs = np.arange(25_000 + 20 * k) % n_envs
        obs = np.arange(len(envs), dtype=np.float32)[:, None] * np.ones(8, np.float32)
        zeros = np.zeros(len(envs))
        ends = np.arange(len(envs)) % 1000 >= 1000 - n_envs
        for part in np.split(np.arange(len(envs)), range(25_000, len(envs), k)):
            columns = obs[part], obs[part, :2], zeros[part], ends[part], zeros[part]
            buffer.push_many(*columns, envs=envs[part])
            written = sum(len(folder.parts[name]) for name in folder.save(ring))
            if len(part) == k:
                row = buffer._store.layout.row_bytes
                block = ring.changed()[1]["rows_per_block"] * row
                assert 0 < written <= k * row + (n_envs + 1) * block
                sizes.append(written)
    assert max(sizes) <= k * row + (n_envs + 1) * block < 10_000 * row


def test_final_observations_are_written_near_where_they_were_added():
    buffer, folder = ReplayBuffer(3000, 2, 1, n_envs=3), Folder()
    ring = RingBlocks(buffer)
    rows = list(stream(np.random.default_rng(4), 9000, n_envs=3, end=0.1))
    for at in range(0, 9000, 50):
        push(buffer, rows[at : at + 50])
        written = folder.save(ring)
        if at > 6000:
            assert len([name for name in folder.parts if name.startswith("slots")]) > 30
            assert len([name for name in written if name.startswith("slots")]) < 15


def test_a_save_after_no_push_writes_nothing_and_a_full_lap_everything():
    buffer, folder = ReplayBuffer(100, 2, 1), Folder()
    ring = RingBlocks(buffer)
    assert folder.save(ring) == set()  # an empty ring has no block
    rows = list(stream(np.random.default_rng(0), 330, end=0.5))
    push(buffer, rows[:130])
    assert folder.save(ring) == set(folder.parts) != set()
    assert folder.save(ring) == set()
    push(buffer, rows[130:])
    assert folder.save(ring) >= {name for name in folder.parts if name.startswith("rows")}


def test_only_the_linked_row_and_the_new_one_are_written_when_an_environment_that_waited_goes_on():
    buffer, folder = ReplayBuffer(1000, 2, 1, n_envs=2), Folder()
    ring = RingBlocks(buffer)
    buffer.push([1, 1], [0], 0, False, False, env=1)
    for k in range(500):
        buffer.push([k, k], [0], k, False, False)
    folder.save(ring)
    buffer.push([2, 2], [0], 0, False, False, env=1)
    size = folder.state["rows_per_block"]
    assert folder.save(ring) == {"rows.0000", f"rows.{501 // size:04d}"}


def test_rows_loaded_from_elsewhere_are_all_written():
    buffer, other, folder = ReplayBuffer(100, 2, 1), ReplayBuffer(100, 2, 1), Folder()
    ring = RingBlocks(buffer)
    rows = list(stream(np.random.default_rng(0), 60))
    push(buffer, rows)
    push(other, rows[::-1])
    folder.save(ring)
    buffer.load_state_dict(other.state_dict())
    parts, _ = ring.changed()
    assert None not in parts.values()
    push(buffer, rows)
    assert None not in ring.changed()[0].values()


def test_pushes_between_a_save_and_its_acceptance_count_as_not_saved():
    buffer = ReplayBuffer(100, 2, 1)
    ring = RingBlocks(buffer)
    buffer.push([1, 1], [0], 0, False, False, [2, 2])
    ring.changed()
    buffer.push([3, 3], [0], 0, False, False, [4, 4])
    ring.accept()
    assert None not in ring.changed()[0].values()


def test_blocks_are_read_only_views_of_the_ring():
    buffer = ReplayBuffer(100, 2, 1)
    buffer.push([1, 1], [0], 0, False, True, [2, 2])
    parts, _ = RingBlocks(buffer).changed()
    assert all(part.readonly for part in parts.values())
    assert np.shares_memory(np.asarray(parts["rows.0000"]), buffer._store.rows)
    assert np.shares_memory(np.asarray(parts["slots.0000"]), buffer._store.slots(0, 1))


@pytest.mark.parametrize(("capacity", "n_blocks"), [(1000, 1), (600_000, 512)])
def test_blocks_are_64_kib_or_a_512th_of_the_ring(capacity, n_blocks, monkeypatch):
    monkeypatch.setattr(blocks, "_LEAST_BLOCK", 64 << 10)
    buffer = ReplayBuffer(capacity, 10, 3)
    _, state = RingBlocks(buffer).changed()
    nbytes = state["rows_per_block"] * buffer._store.layout.row_bytes
    assert 64 << 10 <= nbytes < max(64 << 10, capacity * buffer._store.layout.row_bytes / 512) + 100
    assert -(-capacity // state["rows_per_block"]) == n_blocks


def test_a_ring_saved_in_other_blocks_goes_on_with_those(monkeypatch):
    buffer, folder = ReplayBuffer(100, 2, 1), Folder()
    rows = list(stream(np.random.default_rng(1), 300, end=0.5))
    push(buffer, rows[:150])
    folder.save(RingBlocks(buffer))
    monkeypatch.setattr(blocks, "_LEAST_BLOCK", 1000)
    other = ReplayBuffer(100, 2, 1)
    ring = folder.restore(other)
    assert ring.changed()[1]["rows_per_block"] == folder.state["rows_per_block"]
    assert set(ring.changed()[0].values()) == {None}
    push(other, rows[150:155])
    push(buffer, rows[150:155])
    assert 0 < sum(part is not None for part in ring.changed()[0].values()) < len(folder.parts) / 2
    assert_equal(other, buffer)


def test_a_restore_allocates_no_second_ring():
    buffer, folder = ReplayBuffer(200_000, 20, 2), Folder()
    obs = np.random.default_rng(0).random((200_000, 20), np.float32)
    zeros = np.zeros(200_000)
    buffer.push_many(obs, obs[:, :2], zeros, zeros, zeros)
    folder.save(RingBlocks(buffer))
    other = ReplayBuffer(200_000, 20, 2)
    tracemalloc.start()
    try:
        folder.restore(other)
        assert tracemalloc.get_traced_memory()[1] < buffer.nbytes / 20
    finally:
        tracemalloc.stop()
    assert_equal(other, buffer)


def put(name, at, raw):
    """Return a change of ``len(raw)`` bytes of a block, from ``at`` on."""

    def damage(folder):
        part = bytearray(folder.parts[name])
        assert at + len(raw) <= len(part)
        part[at : at + len(raw)] = raw
        folder.parts[name] = bytes(part)

    return damage


def word(number):
    return np.uint32(number).tobytes()


def link_free_slot(folder, to):
    i, k = divmod(folder.state["free_slot"], folder.state["slots_per_block"])
    put(f"slots.{i:04d}", 8 * k, np.int64(to).tobytes())(folder)


WORD_AT, ROW = 16, 20  # of a ring of two numbers an observation and one an action


@pytest.mark.parametrize(
    "damage",
    [
        put("rows.0000", WORD_AT, word(1000 << 3)),
        put("rows.0000", WORD_AT + ROW, word((1000 << 3) | 4)),
        put("rows.0003", WORD_AT, word((2 << 3) | 4)),
        lambda f: link_free_slot(f, f.state["free_slot"]),
        lambda f: link_free_slot(f, 10**12),
        lambda f: f.state.update(free_slot=-1),
        lambda f: f.state.update(free_slot=f.state["n_slots"]),
        lambda f: f.state.update(free_slot="0"),
        lambda f: f.state.update(n_slots=f.state["n_slots"] - 1),
        lambda f: f.state.update(n_slots=10**9),
        lambda f: f.state.update(n_slots=True),
        lambda f: f.state.update(total=-1),
        lambda f: f.state.update(total=2),
        lambda f: f.state.update(total=2**70),
        lambda f: f.state.update(rows_per_block=0),
        lambda f: f.state.update(rows_per_block=None),
        lambda f: f.state.update(slots_per_block=0),
        lambda f: f.state.update(slots_per_block=3),
        lambda f: f.state.update(newest=np.full(3, 60)),
        lambda f: f.state.update(newest=np.full(2, 5)),
        lambda f: f.state.pop("newest"),
        lambda f: f.state.pop("total"),
    ],
)
def test_blocks_that_contradict_each_other_are_refused_and_leave_a_usable_buffer(damage):
    saved, folder = ReplayBuffer(20, 2, 1, n_envs=3), Folder()
    rows = list(stream(np.random.default_rng(0), 200, n_envs=3, end=0.3))
    push(saved, rows[:60])
    folder.save(RingBlocks(saved))
    assert folder.state["free_slot"] >= 0
    assert (saved._store.layout.word_at, saved._store.layout.row_bytes) == (WORD_AT, ROW)
    damage(folder)
    buffer = ReplayBuffer(20, 2, 1, n_envs=3)
    ring = RingBlocks(buffer)
    with pytest.raises(CheckpointError, match="the saved buffer"):
        ring.restore(folder.state, folder.read_into)
    assert len(buffer) == 0
    model = NumpyRing(20)
    for *row, env in rows[60:]:
        buffer.push(*row, env=env)
        model.push(*row, env)
    model.check(buffer)
    assert None not in ring.changed()[0].values()


def test_a_block_that_cannot_be_read_leaves_an_empty_buffer_and_its_own_error():
    saved, folder = ReplayBuffer(100, 2, 1), Folder()
    rows = list(stream(np.random.default_rng(0), 90))
    push(saved, rows)
    folder.save(RingBlocks(saved))
    buffer = ReplayBuffer(100, 2, 1)
    push(buffer, rows[:20])
    ring = RingBlocks(buffer)
    ring.changed()
    ring.accept()

    def read_into(name, out):
        if name == "rows.0005":
            raise CheckpointError("rows.0005 is damaged")
        folder.read_into(name, out)

    with pytest.raises(CheckpointError, match=r"rows\.0005"):
        ring.restore(folder.state, read_into)
    assert len(buffer) == 0
    push(buffer, rows)
    assert_equal(buffer, saved)
    assert None not in ring.changed()[0].values()


def test_counters_that_are_refused_leave_the_rows_and_count_them_as_not_saved():
    buffer, folder = ReplayBuffer(100, 2, 1), Folder()
    ring = RingBlocks(buffer)
    push(buffer, stream(np.random.default_rng(0), 90))
    folder.save(ring)
    before = buffer.state_dict()
    with pytest.raises(CheckpointError, match="its counters contradict"):
        ring.restore({**folder.state, "rows_per_block": 7, "free_slot": 1000}, folder.read_into)
    assert np.array_equal(buffer.state_dict()["rows"], before["rows"])
    assert None not in ring.changed()[0].values()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"capacity": 21}, "capacity"),
        ({"obs_dim": 3}, "obs_shape"),
        ({"act_dim": 2}, "act_shape"),
        ({"n_envs": 2}, "n_envs"),
        ({"obs_dtype": "float64"}, "obs_dtype"),
    ],
)
def test_blocks_of_a_ring_of_other_arguments_are_refused_by_name(arguments, field):
    usual = {"capacity": 20, "obs_dim": 2, "act_dim": 1, "n_envs": 3}
    saved, folder = ReplayBuffer(**usual), Folder()
    push(saved, stream(np.random.default_rng(0), 30, n_envs=3))
    folder.save(RingBlocks(saved))
    other = ReplayBuffer(**{**usual, **arguments})
    other.push(np.zeros(other.obs_shape), np.zeros(other.act_shape), 0, True, False)
    with pytest.raises(CheckpointMismatchError, match=f"the saved buffer has {field}"):
        folder.restore(other)
    assert len(other) == 1
