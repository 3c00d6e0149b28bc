import tracemalloc

import numpy as np
import pytest
from gymnasium import spaces
from numpy_ring import NumpyRing, stream

from rlox._ext import layout
from rlox.buffers import ReplayBuffer
from rlox.errors import ConfigError

DTYPES = [
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
]


def fill(buffer, ring, pushes):
    for *row, env in pushes:
        buffer.push(*row, env=env)
        ring.push(*row, env)


@pytest.mark.parametrize("capacity", [1, 2, 3, 15, 16, 17, 100])
@pytest.mark.parametrize("known", [0.0, 0.5, 1.0])
def test_ring_equals_a_two_copy_ring_over_shuffled_pushes_of_three_environments(capacity, known):
    rng = np.random.default_rng(capacity)
    buffer, ring = ReplayBuffer(capacity, 2, 1, n_envs=3), NumpyRing(capacity)
    for k, (*row, env) in enumerate(stream(rng, 3 * capacity + 10, n_envs=3, known=known)):
        buffer.push(*row, env=env)
        ring.push(*row, env)
        if k % 7 == 0 or k in (capacity - 2, capacity - 1, capacity):
            ring.check(buffer)
    ring.check(buffer)


@pytest.mark.parametrize("wide", [False, True])
def test_one_step_episodes_at_full_capacity_keep_every_final_observation(wide, monkeypatch):
    if wide:  # tail words of 64 bits, as in a ring of half a billion rows
        monkeypatch.setattr(layout, "_NARROW_LIMIT", 1)
    rng = np.random.default_rng(0)
    buffer, ring = ReplayBuffer(50, 2, 1), NumpyRing(50)
    before = buffer.nbytes
    fill(buffer, ring, stream(rng, 175, end=1.0))
    ring.check(buffer)
    two_copies = ReplayBuffer.estimate_nbytes(50, 2, 1) + 50 * buffer._store.layout.slot_bytes + 16 * 64
    assert before < buffer.nbytes <= two_copies


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3, 4), ()])
def test_every_dtype_and_shape_comes_back_as_it_was_pushed(dtype, shape):
    rng = np.random.default_rng(1)
    space = spaces.Box(0, 1, shape, np.float32)
    buffer = ReplayBuffer(5, shape or space, 1, n_envs=2, obs_dtype=dtype)
    ring = NumpyRing(5, shape, obs_dtype=dtype)
    fill(buffer, ring, stream(rng, 13, shape, n_envs=2, obs_dtype=dtype))
    ring.check(buffer)
    batch = buffer.sample(8, 0)
    assert batch["obs"].dtype == batch["next_obs"].dtype == np.dtype(dtype)
    assert batch["obs"].shape == (8, *shape)


def test_push_many_equals_as_many_pushes():
    rng = np.random.default_rng(2)
    for k in (0, 1, 9, 10, 11, 35):
        buffer, ring = ReplayBuffer(10, 2, 1, n_envs=3), NumpyRing(10)
        for _ in range(3):
            rows = list(stream(rng, k, n_envs=3, end=0.5))
            columns = [np.array(c) for c in zip(*rows, strict=True)] or [
                *(np.zeros((0, d)) for d in (2, 1)),
                *np.zeros((3, 0)),
                np.zeros((0, 2)),
                np.zeros(0, int),
            ]
            buffer.push_many(*columns[:6], envs=columns[6])
            for *row, env in rows:
                ring.push(*row, env)
            ring.check(buffer)


def test_push_many_without_next_obs_links_each_environment_to_its_own_next_row():
    buffer = ReplayBuffer(10, 1, 1, n_envs=2)
    for t in range(3):
        buffer.push_many([[t], [10 + t]], np.zeros((2, 1)), [0, 0], [0, 0], [0, 0])
    batch = buffer.take(np.arange(4))
    np.testing.assert_array_equal(batch["next_obs"].ravel(), [1, 11, 2, 12])


def test_push_many_takes_other_counts_as_steps_of_environment_zero():
    buffer = ReplayBuffer(10, 1, 1, n_envs=2)
    buffer.push_many([[0], [1], [2]], np.zeros((3, 1)), [0] * 3, [0] * 3, [0] * 3)
    np.testing.assert_array_equal(buffer.take([0, 1])["next_obs"].ravel(), [1, 2])


def test_bytes_held_never_exceed_nbytes_while_the_side_table_grows():
    capacity, size = 4096, 32
    tracemalloc.start()
    try:
        floor = tracemalloc.get_traced_memory()[0]
        buffer = ReplayBuffer(capacity, size, 1)
        assert buffer.nbytes == ReplayBuffer.estimate_nbytes(capacity, size, 1)
        obs, after, action = np.zeros(size, np.float32), np.ones(size, np.float32), np.zeros(1, np.float32)
        small = 16_000  # Python objects; one chunk of the side table has 32 kB
        for k in range(capacity + 5):
            tracemalloc.reset_peak()
            buffer.push(obs, action, 0.0, True, False, after)
            if k % 64 == 0 or k > capacity:
                held = tracemalloc.get_traced_memory()[1] - floor
                assert held <= buffer.nbytes + small
                assert held >= buffer.nbytes - small
        grown = buffer.nbytes
        for _ in range(capacity):
            buffer.push(obs, action, 0.0, True, False, after)
        assert buffer.nbytes == grown
    finally:
        tracemalloc.stop()


def test_observations_are_stored_once():
    buffer = ReplayBuffer(100_000, 17, 6)
    assert buffer.nbytes < 100_000 * (17 * 4 + 6 * 4 + 4 + 4) * 1.06


def test_a_caller_who_holds_ten_batches_sees_none_change():
    rng = np.random.default_rng(3)
    buffer = ReplayBuffer(20, 2, 1)
    fill(buffer, NumpyRing(20), stream(rng, 20))
    batches = [buffer.sample(8, seed) for seed in range(10)]
    copies = [{k: v.copy() for k, v in batch.items()} for batch in batches]
    for *row, _ in stream(rng, 60):
        buffer.push(*row)
        buffer.sample(8, 99)
    for batch, copy in zip(batches, copies, strict=True):
        for key in batch:
            np.testing.assert_array_equal(batch[key], copy[key])


def test_arrays_of_a_batch_start_on_cache_lines_and_are_writeable():
    buffer = ReplayBuffer(4, 3, 2)
    buffer.push(np.zeros(3), np.zeros(2), 0.0, True, False)
    for array in buffer.sample(5, 0).values():
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous and array.flags.writeable


def test_out_is_overwritten_and_returned():
    buffer, ring = ReplayBuffer(20, 2, 1), NumpyRing(20)
    fill(buffer, ring, stream(np.random.default_rng(4), 30))
    out = buffer.sample(16, 0)
    where = {key: array.ctypes.data for key, array in out.items()}
    again = buffer.sample(16, 1, out=out)
    assert again is out
    assert where == {key: array.ctypes.data for key, array in again.items()}
    for key, array in buffer.sample(16, 1).items():
        np.testing.assert_array_equal(array, out[key])


def test_same_seed_same_batch_and_another_seed_another():
    buffer = ReplayBuffer(1000, 2, 1)
    fill(buffer, NumpyRing(1000), stream(np.random.default_rng(5), 1000))
    first = buffer.sample(64, 2**64 - 1)
    again = buffer.sample(64, np.uint64(2**64 - 1))
    other = buffer.sample(64, 2**64 - 2)
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    assert (first["indices"] == other["indices"]).sum() < 8


def test_a_batch_may_be_larger_than_the_buffer():
    buffer = ReplayBuffer(10, 1, 1)
    buffer.push([1], [0], 0, True, False, [2])
    assert buffer.sample(100, 0)["obs"].sum() == 100


def test_rows_that_wait_for_their_next_observation_are_never_drawn():
    buffer, ring = ReplayBuffer(30, 2, 1, n_envs=3), NumpyRing(30)
    drawn = set()
    for k, (*row, env) in enumerate(stream(np.random.default_rng(6), 100, n_envs=3, known=0.0)):
        buffer.push(*row, env=env)
        ring.push(*row, env)
        if ring.known[: len(ring)].any():
            batch = buffer.sample(40, k)
            drawn |= set(batch["indices"])
            assert ring.known[batch["indices"]].all()
            np.testing.assert_array_equal(batch["next_obs"], ring.next_obs[batch["indices"]])
    assert drawn == set(range(30))


def test_no_row_with_a_known_next_observation_is_an_error():
    buffer = ReplayBuffer(10, 1, 1, n_envs=2)
    with pytest.raises(ValueError, match="holds no transition"):
        buffer.sample(4, 0)
    buffer.push([1], [0], 0, False, False)
    buffer.push([1], [0], 0, False, False, env=1)
    with pytest.raises(ValueError, match="no row has its next observation"):
        buffer.sample(4, 0)
    buffer.push([2], [0], 0, False, False)
    assert set(buffer.sample(9, 0)["indices"]) == {0}


def test_a_truncated_step_needs_its_final_observation_and_a_terminated_one_does_not():
    buffer = ReplayBuffer(10, 1, 1)
    with pytest.raises(ValueError, match="truncated step needs its final observation"):
        buffer.push([1], [0], 0, False, True)
    with pytest.raises(ValueError, match="truncated step needs its final observation"):
        buffer.push_many([[1], [2]], [[0], [0]], [0, 0], [0, 0], [0, 1])
    assert len(buffer) == 0
    buffer.push([1], [0], 0, True, False)
    buffer.push([7], [0], 0, False, False, [8])
    np.testing.assert_array_equal(buffer.take([0])["next_obs"], [[1]])


def test_terminated_wins_where_both_flags_are_set():
    buffer = ReplayBuffer(10, 1, 1)
    buffer.push([1], [0], 0, True, True, [2])
    buffer.push_many([[1]], [[0]], [0], [1], [1], [[2]])
    batch = buffer.take([0, 1])
    assert batch["terminated"].tolist() == [1, 1] and batch["truncated"].tolist() == [0, 0]


def test_the_first_observation_of_the_next_episode_is_not_the_next_observation_of_the_last():
    buffer = ReplayBuffer(10, 1, 1)
    buffer.push([1], [0], 0, False, True, [2])
    buffer.push([5], [0], 0, False, False, [6])
    np.testing.assert_array_equal(buffer.take([0, 1])["next_obs"], [[2], [6]])


def test_discrete_actions_are_int64_of_shape_batch():
    for buffer in (ReplayBuffer(9, 2, 1, discrete=True), ReplayBuffer(9, 2, spaces.Discrete(5))):
        buffer.push([0, 0], 3, 0, True, False)
        buffer.push([0, 0], np.array([4]), 0, True, False)
        buffer.push_many(np.zeros((2, 2)), [1, 2], [0, 0], [1, 1], [0, 0])
        actions = buffer.take(np.arange(4))["actions"]
        assert actions.dtype == np.int64 and actions.tolist() == [3, 4, 1, 2]
        assert buffer.discrete
        with pytest.raises(ValueError, match=r"action holds 1.5"):
            buffer.push([0, 0], 1.5, 0, True, False)


def test_spaces_give_shape_and_dtype():
    image = ReplayBuffer(3, spaces.Box(0, 255, (4, 5, 3), np.uint8), spaces.Box(-1, 1, (2,)))
    assert (image.obs_shape, image.obs_dtype, image.discrete) == ((4, 5, 3), np.uint8, False)
    assert ReplayBuffer(3, spaces.Box(0, 1, (4,), np.float64), 1).obs_dtype == np.float32
    assert ReplayBuffer(3, spaces.Box(0, 1, (4,), np.float64), 1, obs_dtype="float64").obs_dtype == np.float64
    number = ReplayBuffer(3, spaces.Discrete(7), 1)
    number.push(6, [0], 0, True, False)
    assert number.sample(2, 0)["obs"].tolist() == [6, 6]
    with pytest.raises(ConfigError, match="Dict, must be of one array"):
        ReplayBuffer(3, spaces.Dict(a=spaces.Discrete(2)), 1)
    with pytest.raises(ConfigError, match="MultiDiscrete is not supported"):
        ReplayBuffer(3, 2, spaces.MultiDiscrete([2, 3]))


def test_arguments_are_public_attributes():
    buffer = ReplayBuffer(10, 3, 2, n_envs=4, obs_dtype="float64")
    assert (buffer.capacity, buffer.obs_dim, buffer.act_dim, buffer.n_envs) == (10, 3, 2, 4)
    assert (buffer.obs_dtype, buffer.obs_shape, buffer.discrete) == (np.float64, (3,), False)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"capacity": 0}, "capacity is 0"),
        ({"capacity": 1.5}, "capacity is 1.5"),
        ({"capacity": True}, "capacity is True"),
        ({"capacity": 2**62}, "more than can be addressed"),
        ({"obs_dim": 0}, "obs_dim is 0"),
        ({"obs_dim": (3, -1)}, "obs_dim is -1"),
        ({"obs_dim": "3"}, "obs_dim is '3'"),
        ({"act_dim": 0}, "act_dim is 0"),
        ({"n_envs": 0}, "n_envs is 0"),
        ({"obs_dtype": "complex64"}, "obs_dtype is complex64"),
        ({"obs_dtype": "object"}, "obs_dtype is object"),
        ({"obs_dtype": "nonsense"}, "obs_dtype is 'nonsense'"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, text):
    with pytest.raises(ConfigError, match=text):
        ReplayBuffer(**{"capacity": 10, "obs_dim": 3, "act_dim": 1, **arguments})


def test_more_bytes_than_are_free_are_refused_before_allocation(monkeypatch):
    monkeypatch.setattr(layout, "available_memory", lambda: 10**9)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=r"3000000000 rows needs 330.3 GB, 1.0 GB are free"):
            ReplayBuffer(3 * 10**9, 17, 6)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_a_side_table_that_cannot_grow_says_so_and_loses_nothing(monkeypatch):
    buffer, ring = ReplayBuffer(100, 2, 1), NumpyRing(100)
    monkeypatch.setattr(layout, "available_memory", lambda: 0)
    rng = np.random.default_rng(7)
    with pytest.raises(ConfigError, match="many episode ends needs"):
        fill(buffer, ring, stream(rng, 100, end=1.0))
    assert 0 < len(ring) < 100
    ring.check(buffer)
    monkeypatch.undo()
    fill(buffer, ring, stream(rng, 300, end=1.0))
    ring.check(buffer)


def test_draws_are_uniform():
    n, size = 1000, 200_000
    buffer = ReplayBuffer(n, 1, 1)
    buffer.push_many(np.zeros((n, 1)), np.zeros((n, 1)), np.zeros(n), np.ones(n), np.zeros(n))
    for indices in (
        buffer.sample(size, 0)["indices"],
        np.concatenate([buffer.sample(10, s)["indices"] for s in range(20_000)]),
    ):
        counts = np.bincount(indices, minlength=n)
        chi2 = ((counts - size / n) ** 2 / (size / n)).sum()
        # Wilson and Hilferty: the cube root of chi²/dof is normal; |z| < 3.9 is p > 1e-4 on both sides
        dof = n - 1
        z = ((chi2 / dof) ** (1 / 3) - (1 - 2 / (9 * dof))) / np.sqrt(2 / (9 * dof))
        assert abs(z) < 3.9


def test_positions_and_neighbouring_seeds_are_uncorrelated():
    n = 4096
    buffer = ReplayBuffer(n, 1, 1)
    buffer.push_many(np.zeros((n, 1)), np.zeros((n, 1)), np.zeros(n), np.ones(n), np.zeros(n))
    draws = np.stack([buffer.sample(64, seed)["indices"] for seed in range(2000)]).astype(float)
    corr = (
        np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1],
        np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1],
    )
    assert max(map(abs, corr)) < 4 / np.sqrt(draws.size)
