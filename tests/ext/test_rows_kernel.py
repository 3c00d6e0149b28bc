"""The kernels against references of a few lines of NumPy."""

import builtins
import importlib
import sys

import numpy as np
import pytest

from rlox._ext import layout as layouts
from rlox._ext.columns import ColumnStore, returns_to_go
from rlox._ext.layout import Layout, aligned_empty
from rlox._ext.rows import RowStore
from rlox.errors import MissingDependencyError

MASK = 2**64 - 1
DTYPES = ["bool", "uint8", "int16", "float16", "int32", "float32", "float64", "int64"]


def reference_draws(n, seed, limit):
    """Splitmix64 in Python integers: mix the seed, add a multiple of the golden ratio, mix, scale by the high half."""

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        return z ^ (z >> 31)

    key = mix(seed ^ 0x6A09E667F3BCC909)
    return [mix(key + (i + 1) * 0x9E3779B97F4A7C15 & MASK) * limit >> 64 for i in range(n)]


def random_columns(rng, n, shape, dtype, act_shape=(2,)):
    dtype = np.dtype(dtype)
    make = (
        (lambda s: rng.standard_normal(s).astype(dtype))
        if dtype.kind == "f"
        else (lambda s: rng.integers(0, 2, s).astype(dtype))
    )
    obs, next_obs = make((n, *shape)), make((n, *shape))
    actions = rng.random((n, *act_shape), np.float32) if act_shape else rng.integers(0, 9, n)
    kind = rng.integers(0, 4, n)
    return obs, actions, rng.random(n, np.float32), kind == 1, kind == 2, next_obs


def store_of(columns, capacity=None):
    obs, actions, *_ = columns
    layout = Layout(obs.shape[1:], obs.dtype, actions.shape[1:], actions.dtype, capacity or max(1, len(obs))).check()
    store = RowStore(layout)
    store.push_many(*columns)
    return store


def assert_batch(batch, columns, index):
    obs, actions, rewards, terminated, truncated, next_obs = columns
    reference = {
        "obs": obs,
        "next_obs": next_obs,
        "actions": actions,
        "rewards": rewards,
        "indices": np.arange(len(obs)),
    }
    reference |= {"terminated": terminated.astype(np.float32), "truncated": truncated.astype(np.float32)}
    for key, column in reference.items():
        assert batch[key].dtype == column.dtype
        np.testing.assert_array_equal(batch[key], column[index], err_msg=key)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3,), (17,), (5, 7, 3)])
@pytest.mark.parametrize("n", [1, 2, 11, 12, 13, 64])
def test_gather_equals_fancy_indexing(dtype, shape, n):
    rng = np.random.default_rng(n)
    columns = random_columns(rng, n, shape, dtype)
    store = store_of(columns)
    for size in (0, 1, 11, 12, 13, 24, 25, 100):
        index = rng.integers(0, n, size)
        assert_batch(store.take(index), columns, index)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 33])
@pytest.mark.parametrize("act_shape", [(2,), ()])
def test_the_newest_rows_up_to_capacity_are_kept(n, act_shape):
    columns = random_columns(np.random.default_rng(n), n, (3,), "float32", act_shape)
    store = store_of(columns, capacity=16)
    kept = np.arange(max(0, n - 16), n)
    assert len(store) == len(kept)
    batch = store.take(kept % 16)
    batch["indices"] = kept
    assert_batch(batch, columns, kept)


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
def test_draws_equal_the_formula(limit, seed):
    store = store_of(random_columns(np.random.default_rng(0), limit, (1,), "uint8"))
    assert store.draws(50, seed).tolist() == reference_draws(50, seed, limit)
    assert store.sample(50, seed)["indices"].tolist() == reference_draws(50, seed, limit)


def test_draws_from_named_rows_pick_them_by_the_same_numbers():
    columns = random_columns(np.random.default_rng(0), 100, (3,), "float32")
    store = store_of(columns)
    rows = np.array([3, 50, 51, 99])
    store.restrict(rows)
    index = rows[reference_draws(30, 5, 4)]
    assert_batch(store.sample(30, 5), columns, index)
    assert store.sample(30, 5, every=True)["indices"].tolist() == reference_draws(30, 5, 100)
    with pytest.raises(ValueError, match="rows holds 100"):
        store.restrict([100])
    store.restrict([])
    with pytest.raises(ValueError, match="cannot sample"):
        store.sample(3, 0)
    store.restrict(None)
    assert len(store.sample(3, 0)["obs"]) == 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 13, 100])
@pytest.mark.parametrize("stored", [True, False])
def test_columns_give_the_batches_of_rows(dtype, n, stored):
    rng = np.random.default_rng(n)
    columns = random_columns(rng, n, (4,), dtype)
    obs, actions, rewards, terminated, truncated, next_obs = columns
    kinds = terminated.astype(np.uint8) | truncated.astype(np.uint8) << 1
    if stored:
        kinds |= 8
    else:
        ends = terminated | truncated
        ends[-1] = True
        kinds |= np.where(ends, 4, 0).astype(np.uint8)
        next_obs = np.where(ends[:, None], obs, np.roll(obs, -1, axis=0))
    store = ColumnStore(store_of(columns).layout, obs, actions, rewards, kinds, next_obs if stored else None)
    reference = (*columns[:5], next_obs)
    index = rng.integers(0, n, 64)
    assert_batch(store.take(index), reference, index)
    assert_batch(store.sample(64, 7), reference, np.array(reference_draws(64, 7, n)))


def test_columns_that_do_not_fit_are_refused():
    columns = random_columns(np.random.default_rng(0), 9, (4,), "float32")
    obs, actions, rewards, _, _, next_obs = columns
    layout, kinds = store_of(columns).layout, np.full(9, 8, np.uint8)
    good = {"obs": obs, "actions": actions, "rewards": rewards, "kinds": kinds, "next_obs": next_obs}
    ColumnStore(layout, **good)
    for name, bad, error in [
        ("obs", obs.astype("f8"), TypeError),
        ("obs", obs[:, ::-1], TypeError),
        ("obs", obs.astype(">f4"), TypeError),
        ("actions", actions.tolist(), TypeError),
        ("actions", actions[:8], ValueError),
        ("rewards", rewards[:, None], ValueError),
        ("next_obs", next_obs[:8], ValueError),
        ("next_obs", None, ValueError),
        ("kinds", np.zeros(9, np.uint8), ValueError),
        ("kinds", np.full(9, 12, np.uint8), ValueError),
        ("kinds", np.full(9, 16, np.uint8), ValueError),
        ("kinds", kinds.astype(np.int64), TypeError),
    ]:
        with pytest.raises(error):
            ColumnStore(layout, **{**good, name: bad})


@pytest.mark.parametrize("n", [0, 1, 2, 100])
def test_returns_to_go_sum_to_the_end_of_the_episode(n):
    rng = np.random.default_rng(n)
    rewards = rng.standard_normal(n).astype(np.float32)
    starts = np.flatnonzero(np.r_[[True] * min(n, 1), rng.random(max(n - 1, 0)) < 0.2])
    stops = np.r_[starts[1:], n].astype(int)
    reference = [rewards[t : next(s for s in stops if s > t)].astype(float).sum() for t in range(n)]
    np.testing.assert_allclose(returns_to_go(rewards, starts), reference, rtol=1e-6, atol=1e-6)


def test_returns_to_go_by_hand():
    assert returns_to_go([1, 2, 4, 8, 16], [0, 2]).tolist() == [3, 2, 28, 24, 16]
    with pytest.raises(ValueError, match="starts holds 5"):
        returns_to_go([1, 2, 4, 8, 16], [0, 5])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 5)])
def test_parts_of_a_row_do_not_overlap_and_stand_on_four_bytes(dtype, shape):
    layout = Layout(shape, np.dtype(dtype), (3,), np.dtype(np.float32), 10)
    assert layout.obs_bytes <= layout.act_at < layout.act_at + layout.act_bytes <= layout.reward_at
    assert layout.reward_at + 4 <= layout.word_at < layout.row_bytes
    assert all(at % 4 == 0 for at in (layout.act_at, layout.reward_at, layout.word_at, layout.row_bytes))


def test_rows_are_as_small_as_the_design_says():
    rows = [
        Layout((o,), np.dtype("f4"), (a,), np.dtype("f4"), 10**6).row_bytes for o, a in ((3, 1), (17, 6), (348, 17))
    ]
    assert rows == [24, 100, 1468]
    assert Layout((3,), np.dtype("f4"), (1,), np.dtype("f4"), 2**31).row_bytes == 28


@pytest.mark.parametrize("capacity", [1, 2, 15, 16, 17, 1000, 10**6])
def test_the_side_table_can_grow_to_the_capacity_and_not_beyond(capacity):
    layout = Layout((3,), np.dtype("f4"), (1,), np.dtype("f4"), capacity)
    chunks = [layout.chunk_bytes(i) // layout.slot_bytes for i in range(layout.most_chunks)]
    assert sum(chunks) == capacity and min(chunks) > 0 and len(chunks) <= 16
    assert sum(chunks[: layout.first_chunks(4)]) >= min(capacity, capacity / 16 + 4)


@pytest.mark.parametrize(("first", "stop"), [(-1, 1), (0, 0), (2, 1), (0, 5), (3, 5), (60, 64), (0, 2**62)])
def test_slots_that_are_not_of_one_chunk_are_refused(first, stop):
    store = RowStore(Layout((2,), np.dtype("f4"), (1,), np.dtype("f4"), 60).check())
    assert store.layout.chunk_slots == 4 and store.slots(4, 8).nbytes == 32
    with pytest.raises(ValueError, match="are not of one chunk"):
        store.slots(first, stop)


def test_what_is_pushed_while_a_store_is_refilled_is_gone():
    columns = random_columns(np.random.default_rng(0), 20, (3,), "float32")
    store, other = store_of(columns), store_of(columns, 20)
    state = store.export()

    def fill():
        assert len(other) == 0
        other.push_many(*columns)
        other.rows[:] = store.rows
        for first in range(0, 20, other.layout.chunk_slots):
            stop = min(first + other.layout.chunk_slots, 20)
            other.slots(first, stop)[:] = state["slots"][first:stop].ravel()

    before = other.epoch
    other.refill(state, 20, fill)
    assert other.epoch > before and len(other) == 20
    assert_batch(other.take(np.arange(20)), columns, np.arange(20))


@pytest.mark.parametrize("nbytes", [1, 63, 64, 1000])
def test_memory_starts_on_a_cache_line(nbytes):
    array = aligned_empty(nbytes)
    assert array.nbytes == nbytes and array.ctypes.data % 64 == 0
    assert array.base.nbytes == nbytes + layouts.ALIGNMENT


@pytest.mark.parametrize(
    "error", [ImportError("no module"), ValueError("numpy.dtype size changed"), RuntimeError("ABI")]
)
def test_a_missing_or_foreign_extension_says_how_to_build_it(error, monkeypatch):
    real = builtins.__import__

    def broken(name, globals=None, locals=None, fromlist=(), level=0):
        if level and "rows" in (fromlist or ()):
            raise error
        return real(name, globals, locals, fromlist, level)

    import rlox._ext as package

    kept = {k: v for k, v in sys.modules.items() if k.startswith("rlox._ext")}
    monkeypatch.setattr(builtins, "__import__", broken)
    try:
        with pytest.raises(MissingDependencyError, match=str(error)) as raised:
            importlib.reload(package)
    finally:
        sys.modules.update(kept)
    assert raised.value.exit_code == 8
    assert "`pip install -e .`" in raised.value.hint and "build_ext --inplace" in raised.value.hint
