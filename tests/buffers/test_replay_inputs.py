"""What a caller may hand in by mistake, and what two threads may do at once."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy_ring import KEYS

from rlox.buffers import ReplayBuffer

GOOD = {"obs": [1, 2], "action": [0.5], "reward": 1.0, "terminated": False, "truncated": False, "next_obs": [3, 4]}


def ring_of(n=10):
    buffer = ReplayBuffer(10, 2, 1)
    for k in range(n):
        buffer.push([k, k], [k], k, True, False)
    return buffer


@pytest.mark.parametrize("name", ["obs", "action", "next_obs"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (np.array(None), TypeError),
        (np.array(["a", "b"]), TypeError),
        (np.array([1 + 2j, 0]), TypeError),
        (np.array([1, 2], object), TypeError),
        (np.array(["2020-01-01"] * 2, "M8[D]"), TypeError),
        ([[1], [2, 3]], ValueError),
        (np.zeros(3), ValueError),
        (np.zeros(0), ValueError),
        (np.zeros((2, 2)), ValueError),
        (np.zeros((2, 1, 3)), ValueError),
        ([1e300, 1e300], ValueError),
        (object(), TypeError),
    ],
)
def test_values_that_do_not_fit_are_refused_and_nothing_is_stored(name, value, error):
    buffer = ReplayBuffer(10, 2, 2)
    with pytest.raises(error):
        buffer.push(**{**GOOD, "action": [0, 0], name: value})
    many = {("actions" if k == "action" else "rewards" if k == "reward" else k): [v] for k, v in GOOD.items()}
    many["actions"] = [[0, 0]]
    with pytest.raises(error):
        buffer.push_many(
            **{**many, "actions" if name == "action" else name: [value] if isinstance(value, list) else value}
        )
    assert len(buffer) == 0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"reward": "high"}, TypeError),
        ({"reward": None}, TypeError),
        ({"reward": [1, 2]}, ValueError),
        ({"reward": 1e39}, ValueError),
        ({"terminated": np.zeros(2)}, ValueError),
        ({"env": -1}, ValueError),
        ({"env": 1}, ValueError),
        ({"env": 0.0}, TypeError),
        ({"env": 2**63}, ValueError),
        ({"obs": np.float64(1.0)}, ValueError),
    ],
)
def test_bad_scalars_are_refused(change, error):
    buffer = ReplayBuffer(10, 2, 1)
    with pytest.raises(error):
        buffer.push(**{**GOOD, **change})
    assert len(buffer) == 0


@pytest.mark.parametrize(
    "obs",
    [
        np.array([1, 2], "f8"),
        np.array([1, 2], ">f4"),
        np.array([1, 2], "i8"),
        np.array([1, 2], "u1"),
        np.array([2, 1], "f4")[::-1],
        np.arange(5, dtype="f4")[1::1][:2],
        np.arange(1, 9, dtype="f4")[::1][:2],
        np.array([[1, 2], [3, 4]], "f4", order="F")[0],
        np.array([[1, 2]], "f4"),
        np.broadcast_to(np.float32(1), 2) + np.array([0, 1], "f4"),
        np.frombuffer(b"\0" + np.array([1, 2], "f4").tobytes(), "f4", 2, 1),
        [1, 2],
        (1.0, 2.0),
    ],
)
def test_strided_swapped_read_only_and_unaligned_arrays_are_copied_right(obs):
    if isinstance(obs, np.ndarray):
        obs.flags.writeable = False
    buffer = ReplayBuffer(10, 2, 1)
    buffer.push(obs, [0], 0, True, False, obs)
    twice = [np.ravel(obs)] * 2
    buffer.push_many(twice, [[0], [0]], [0, 0], [1, 1], [0, 0], twice)
    batch = buffer.take([0, 1, 2])
    assert batch["obs"].tolist() == [[1, 2]] * 3 == batch["next_obs"].tolist()


def test_overlapping_rows_and_a_freed_owner_are_copied():
    buffer = ReplayBuffer(10, 2, 1)
    line = np.arange(5, dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(line, 2)
    buffer.push_many(windows, np.zeros((4, 1)), np.zeros(4), np.ones(4), np.zeros(4), windows)
    del line, windows
    gc.collect()
    assert buffer.take(np.arange(4))["next_obs"].tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_whole_numbers_and_bools_are_never_rounded_or_wrapped():
    buffer = ReplayBuffer(10, 2, 1, obs_dtype="uint8")
    for bad in ([256, 0], [-1, 0], [0.5, 0], [np.nan, 0], [1e300, 0]):
        with pytest.raises(ValueError, match="uint8 cannot hold"):
            buffer.push(bad, [0], 0, True, False)
    buffer.push([255.0, True], [0], 0, True, False)
    assert buffer.take([0])["obs"].tolist() == [[255, 1]]
    with pytest.raises(ValueError, match="bool cannot hold"):
        ReplayBuffer(10, 2, 1, obs_dtype="bool").push([2, 0], [0], 0, True, False)


def test_numpy_scalars_and_arrays_of_one_value_are_scalars():
    buffer = ReplayBuffer(10, 2, 1)
    buffer.push([1, 2], 0.5, np.float32(2.5), np.bool_(True), np.array([False]))
    buffer.push([1, 2], np.array([[0.5]]), np.array([3.5]), np.array(True), 0)
    batch = buffer.take([0, 1])
    assert batch["rewards"].tolist() == [2.5, 3.5] and batch["terminated"].tolist() == [1, 1]
    assert batch["actions"].tolist() == [[0.5], [0.5]]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("actions", np.zeros((3, 1)), "actions has 3 rows, obs has 2"),
        ("rewards", np.zeros(3), "rewards has 3 rows, obs has 2"),
        ("rewards", np.zeros((2, 2)), "rewards has shape"),
        ("terminated", np.zeros(1), "terminated has 1 rows, obs has 2"),
        ("terminated", [0, 2], "terminated holds 2"),
        ("truncated", np.float64(0), "truncated has shape"),
        ("next_obs", np.zeros((1, 2)), "next_obs has 1 rows, obs has 2"),
        ("envs", [0], "envs has 1 rows, obs has 2"),
        ("envs", [0, 3], "envs holds 3"),
        ("envs", [[0, 0]], "envs has shape"),
        ("envs", [0, 0.5], "envs holds"),
    ],
)
def test_push_many_names_the_column_that_does_not_fit(name, value, text):
    buffer = ReplayBuffer(10, 2, 1, n_envs=3)
    columns = {
        "obs": np.zeros((2, 2)),
        "actions": np.zeros((2, 1)),
        "rewards": [0, 0],
        "terminated": [0, 0],
        "truncated": [0, 0],
    }
    with pytest.raises(ValueError, match=text):
        buffer.push_many(**{**columns, "next_obs": np.zeros((2, 2)), name: value})
    assert len(buffer) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((0, 0), ValueError, "batch_size is 0"),
        ((-1, 0), ValueError, "batch_size is -1"),
        ((1.0, 0), TypeError, "batch_size is 1.0"),
        ((2**70, 0), ValueError, "batch_size is"),
        ((4, -1), ValueError, "seed is -1"),
        ((4, 2**64), ValueError, "seed is 18446744073709551616"),
        ((4, 0.5), TypeError, "seed is 0.5"),
        ((4, None), TypeError, "seed is None"),
    ],
)
def test_bad_batch_sizes_and_seeds_are_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        ring_of().sample(*arguments)


@pytest.mark.parametrize("indices", [[10], [-1], [2**40], [[0]], [0.5], 0])
def test_take_refuses_rows_that_are_not_there(indices):
    with pytest.raises(ValueError, match="indices"):
        ring_of().take(indices)


def test_take_of_nothing_is_an_empty_batch():
    batch = ring_of().take([])
    assert batch["obs"].shape == (0, 2) and batch["indices"].shape == (0,)


def spoiled(key, change):
    out = ring_of().sample(4, 0)
    out[key] = change(out[key])
    return out


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("key", [*KEYS, "indices"])
@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[:3],
        lambda a: np.zeros((2 * len(a), *a.shape[1:]), a.dtype)[::2],
        lambda a: a[::-1],
        lambda a: a.astype("f8" if a.dtype.kind == "f" else "i4"),
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: a[:, None],
        lambda a: np.frombuffer(bytearray(a.nbytes + 1), a.dtype, a.size, 1).reshape(a.shape),
        read_only,
        lambda a: a.tolist(),
        lambda a: None,
    ],
)
def test_an_out_that_cannot_be_written_is_refused(key, change):
    with pytest.raises(ValueError, match=rf"out\['{key}'\] is|out has no '{key}'"):
        ring_of().sample(4, 0, out=spoiled(key, change))


def test_an_out_whose_arrays_overlap_is_refused():
    out = ring_of().sample(4, 0)
    out["next_obs"] = out["obs"]
    with pytest.raises(ValueError, match=r"out\['obs'\] and out\['next_obs'\] share memory"):
        ring_of().sample(4, 0, out=out)
    with pytest.raises(TypeError, match="out is list"):
        ring_of().sample(4, 0, out=[])


def numbered(buffer, k):
    buffer.push(np.full(64, k, np.float32), [k], k, k % 5 == 4, False, np.full(64, k + 1, np.float32))


def test_two_threads_sample_the_same_batches_as_one():
    buffer = ReplayBuffer(2000, 64, 1)
    for k in range(2000):
        numbered(buffer, k)
    alone = [buffer.sample(512, seed) for seed in range(40)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda seed: buffer.sample(512, seed), range(40)))
    for one, other in zip(alone, together, strict=True):
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_rows_are_whole_while_another_thread_pushes():
    buffer = ReplayBuffer(300, 64, 1)
    for k in range(300):
        numbered(buffer, k)
    with ThreadPoolExecutor(3) as pool:
        pushing = pool.submit(lambda: [numbered(buffer, k) for k in range(300, 6000)])
        sampling = [pool.submit(lambda s=s: [buffer.sample(256, 1000 * s + i) for i in range(100)]) for s in range(2)]
        saving = [buffer.state_dict() for _ in range(20)]
        pushing.result()
        batches = [batch for job in sampling for batch in job.result()]
    for batch in batches:
        number = batch["rewards"][:, None]
        assert (batch["obs"] == number).all() and (batch["next_obs"] == number + 1).all()
        assert ((number[:, 0] % 5 == 4) == batch["terminated"]).all()
    for state in saving:
        other = ReplayBuffer(300, 64, 1)
        other.load_state_dict(state)
        batch = other.take(np.arange(len(other)))
        assert (batch["next_obs"] == batch["rewards"][:, None] + 1).all()


def test_many_threads_pushing_lose_no_row():
    buffer = ReplayBuffer(4000, 2, 1, n_envs=4)
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(lambda e: [buffer.push([e, k], [0], k, True, False, [e, k], env=e) for k in range(1000)], range(4))
        )
    assert len(buffer) == 4000
    rows = buffer.take(np.arange(4000))
    for env in range(4):
        assert rows["rewards"][rows["obs"][:, 0] == env].tolist() == list(range(1000))
    assert np.array_equal(rows["obs"], rows["next_obs"])


def test_another_thread_runs_in_the_middle_of_a_sample():
    buffer = ReplayBuffer(10, 1, 1)
    buffer.push([1], [0], 1.0, True, False)
    out = buffer.sample(1_000_000, 0)
    rewards, seen = out["rewards"], False
    with ThreadPoolExecutor(1) as pool:
        for seed in range(50):
            rewards[[0, -1]] = np.nan
            job = pool.submit(buffer.sample, len(rewards), seed, out)
            while not job.done() and not seen:
                seen = np.isnan(rewards[-1]) and not np.isnan(rewards[0])
            job.result()
            if seen:
                return
    raise AssertionError("a sample was never seen half done: it holds the interpreter's lock")
