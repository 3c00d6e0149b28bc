import hashlib

import numpy as np
import pytest

from rlox._ext import layout
from rlox.data.dataset import OfflineDatasetBuffer
from rlox.errors import ConfigError, DatasetError, DatasetMismatchError

# Rows 0-3 end terminated, 4-6 truncated, 7-9 are a tail without a flag.
N = 10
OBS = np.arange(30, dtype=np.float32).reshape(N, 3) ** 1.5
ACTIONS = np.linspace(-1, 1, 20, dtype=np.float32).reshape(N, 2)
REWARDS = np.arange(N, dtype=np.float32)
TERMINATED = np.arange(N) == 3
TRUNCATED = np.arange(N) == 6
NEXT = np.roll(OBS, -1, axis=0)
NEXT[[3, 6, 9]] = -1 - np.arange(9, dtype=np.float32).reshape(3, 3)


def columns(**changes):
    base = {
        "obs": OBS,
        "next_obs": None,
        "actions": ACTIONS,
        "rewards": REWARDS,
        "terminated": TERMINATED,
        "truncated": TRUNCATED,
    }
    return {**base, **changes}


def make(**changes):
    options = {k: changes.pop(k) for k in ("normalize", "obs_dim", "act_dim") if k in changes}
    return OfflineDatasetBuffer(**columns(**changes), **options)


def mapped(**changes):
    options = {k: changes.pop(k) for k in ("normalize", "guard") if k in changes}
    return OfflineDatasetBuffer._from_columns(columns(**changes), **options)


def random_set(rng, n, end=0.1, stored=True, discrete=False, image=False):
    obs = rng.integers(0, 255, (n, 4, 4, 1)).astype(np.uint8) if image else rng.standard_normal((n, 5), np.float32)
    after = np.roll(obs, -1, axis=0)
    kind = rng.random(n)
    ends = kind < end
    after[ends] = obs[ends] // 2
    return {
        "obs": obs,
        "next_obs": after if stored else None,
        "actions": rng.integers(0, 6, n) if discrete else rng.random((n, 2), np.float32),
        "rewards": rng.standard_normal(n).astype(np.float32),
        "terminated": kind < end / 2,
        "truncated": ends & (kind >= end / 2),
    }


@pytest.mark.parametrize("build", [make, mapped])
def test_next_obs_is_inferred_inside_episodes_only(build):
    data = build()
    batch = data.take(np.arange(N))
    inner = [0, 1, 2, 4, 5, 7, 8]
    np.testing.assert_array_equal(batch["next_obs"][inner], OBS[np.add(inner, 1)])
    np.testing.assert_array_equal(batch["next_obs"][3], OBS[3])  # terminated: its own, masked
    assert batch["terminated"].tolist() == TERMINATED.tolist()
    assert batch["truncated"].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 1]
    assert data.n_td == 8 and data.tail
    drawn = data.sample(500, 0)
    assert set(drawn["indices"]) == set(range(N)) - {6, 9}
    assert set(data.sample(500, 0, rows="all")["indices"]) == set(range(N))
    assert drawn["truncated"].sum() == 0


@pytest.mark.parametrize("build", [make, mapped])
def test_stored_next_obs_is_kept_and_makes_truncated_rows_usable(build):
    data = build(next_obs=NEXT)
    batch = data.take(np.arange(N))
    np.testing.assert_array_equal(batch["next_obs"], NEXT)
    assert data.n_td == N
    assert set(data.sample(500, 0)["indices"]) == set(range(N))


def test_stored_next_obs_that_differs_inside_an_episode_wins_over_the_next_row():
    jump = NEXT.copy()
    jump[1] = 99
    np.testing.assert_array_equal(make(next_obs=jump).take(np.arange(N))["next_obs"], jump)


def test_stored_next_obs_takes_memory_only_where_no_row_holds_it():
    rng = np.random.default_rng(0)
    data = random_set(rng, 5000, end=0.02)
    once, inferred = OfflineDatasetBuffer(**data).nbytes, OfflineDatasetBuffer(**{**data, "next_obs": None}).nbytes
    assert once < inferred * 1.1
    shuffled = rng.permutation(5000)
    apart = OfflineDatasetBuffer(**{k: v[shuffled] for k, v in data.items()})
    np.testing.assert_array_equal(apart.take(np.arange(5000))["next_obs"], data["next_obs"][shuffled])


def test_terminated_wins_where_both_flags_are_set():
    both = make(truncated=TRUNCATED | TERMINATED).take(np.arange(N))
    assert both["truncated"].tolist() == make().take(np.arange(N))["truncated"].tolist()


def test_a_flagged_last_row_is_no_tail():
    assert not make(truncated=np.isin(np.arange(N), [6, 9])).tail
    assert not make(terminated=np.isin(np.arange(N), [3, 9])).tail
    assert make(truncated=None).starts.tolist() == [0, 4]


def test_episodes_and_statistics_by_hand():
    data = make()
    assert data.starts.tolist() == [0, 4, 7] and data.lengths.tolist() == [4, 3, 3]
    assert data.n_episodes() == 3 and len(data) == N
    returns = np.array([6.0, 15.0, 24.0])
    assert data.stats() == {
        "n_transitions": 10,
        "n_episodes": 3,
        "obs_dim": 3,
        "act_dim": 2,
        "return_mean": 15.0,
        "return_std": returns.std(),
        "return_min": 6.0,
        "return_max": 24.0,
        "length_mean": 10 / 3,
    }
    np.testing.assert_array_equal(data.action_min, ACTIONS.min(axis=0))
    np.testing.assert_array_equal(data.action_max, ACTIONS.max(axis=0))


@pytest.mark.parametrize("build", [make, mapped])
def test_normalize_uses_the_observations_of_rows_only(build):
    data = build(next_obs=NEXT, normalize=True)
    mean, std = OBS.astype(float).mean(axis=0), OBS.astype(float).std(axis=0)
    np.testing.assert_allclose(data.obs_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(data.obs_std, std, rtol=1e-6)
    assert data.obs_mean.dtype == data.obs_std.dtype == np.float32
    batch = data.sample(64, 3)
    for key, raw in (("obs", OBS), ("next_obs", NEXT)):
        expected = (raw[batch["indices"]] - data.obs_mean) / (data.obs_std + np.float32(1e-3))
        np.testing.assert_allclose(batch[key], expected, rtol=1e-6)
        assert batch[key].dtype == np.float32
    data.normalize = False
    np.testing.assert_array_equal(data.sample(64, 3)["obs"], OBS[batch["indices"]])


def test_a_constant_far_dimension_has_no_deviation():
    obs = np.full((N, 2), 30_000.5, np.float32)
    data = make(obs=obs, normalize=True)
    assert data.obs_std.tolist() == [0, 0] and not data.sample(4, 0)["obs"].any()


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("n", [1, 2, 100])
def test_columns_read_in_place_equal_memory_seed_for_seed(stored, discrete, image, n, tmp_path):
    given = random_set(np.random.default_rng(n), n, stored=stored, discrete=discrete, image=image)
    given["terminated"][0] |= n == 1
    files = {}
    for name, column in given.items():
        if column is not None:
            (tmp_path / name).write_bytes(column.tobytes())
            files[name] = np.memmap(tmp_path / name, column.dtype, "r", shape=column.shape)
    normalize = not image
    ram = OfflineDatasetBuffer(**given, normalize=normalize)
    disk = OfflineDatasetBuffer._from_columns(files, normalize=normalize)
    assert disk.nbytes < 64 + n * 20
    for seed in range(5):
        pairs = [(ram.sample(64, seed, rows=rows), disk.sample(64, seed, rows=rows)) for rows in ("td", "all")]
        pairs.append((ram.sample_trajectories(16, 7, seed), disk.sample_trajectories(16, 7, seed)))
        for one, other in pairs:
            assert one.keys() == other.keys()
            for key in one:
                assert one[key].dtype == other[key].dtype
                np.testing.assert_array_equal(one[key], other[key], err_msg=key)
    assert ram.fingerprint() == disk.fingerprint() and ram.stats() == disk.stats()
    np.testing.assert_array_equal(ram.obs_std, disk.obs_std)


def test_columns_of_other_dtypes_are_converted_and_counted():
    data = mapped(obs=OBS.astype(np.float64), rewards=REWARDS.astype(np.float64)[:, None])
    np.testing.assert_array_equal(data.take(np.arange(N))["obs"], OBS)
    assert data.nbytes > mapped().nbytes + OBS.nbytes


def test_the_guard_runs_before_every_read_of_columns():
    calls = []
    data = mapped(guard=lambda: calls.append(1))
    reads = [
        lambda: data.sample(4, 0),
        lambda: data.take([0]),
        lambda: data.sample_trajectories(2, 3, 0),
        data.stats,
        data.fingerprint,
        lambda: data.obs_mean,
        lambda: data.action_min,
    ]
    for read in reads:
        calls.clear()
        read()
        assert calls

    def stop():
        raise DatasetError("it changed")

    data._guard = stop
    with pytest.raises(DatasetError, match="it changed"):
        data.sample(4, 0)


def test_pieces_of_episodes_carry_returns_to_the_end_of_the_episode():
    data = make()
    batch = data.sample_trajectories(200, 3, seed=1)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "obs": ((200, 3, 3), "float32"),
        "actions": ((200, 3, 2), "float32"),
        "rewards": ((200, 3), "float32"),
        "returns_to_go": ((200, 3), "float32"),
        "timesteps": ((200, 3), "int64"),
        "mask": ((200, 3), "float32"),
    }
    to_go = [6, 6, 5, 3, 15, 11, 6, 24, 17, 9]
    seen = set()
    for k in range(200):
        start = int(np.flatnonzero((OBS == batch["obs"][k, 0]).all(axis=1))[0])
        episode = np.searchsorted(data.starts, start, side="right") - 1
        stop = min(start + 3, data.starts[episode] + data.lengths[episode])
        rows = np.arange(start, stop)
        seen.add(start)
        real = len(rows)
        assert batch["mask"][k].tolist() == [1.0] * real + [0.0] * (3 - real)
        np.testing.assert_array_equal(batch["obs"][k, :real], OBS[rows])
        np.testing.assert_array_equal(batch["actions"][k, :real], ACTIONS[rows])
        np.testing.assert_array_equal(batch["returns_to_go"][k, :real], np.take(to_go, rows))
        np.testing.assert_array_equal(batch["timesteps"][k, :real], rows - data.starts[episode])
        assert not any(v[k, real:].any() for v in batch.values())
    assert seen == set(range(N))
    again = data.sample_trajectories(200, 3, seed=1)
    assert all(np.array_equal(batch[key], again[key]) for key in batch)
    np.testing.assert_array_equal(data.sample_trajectories(200, 9, 1)["obs"][:, 0], batch["obs"][:, 0])


def test_pieces_start_in_episodes_in_proportion_to_their_length():
    lengths = [1, 9, 90]
    ends = np.isin(np.arange(100), np.cumsum(lengths) - 1)
    data = OfflineDatasetBuffer(np.arange(100.0)[:, None], None, np.zeros((100, 1)), np.ones(100), ends)
    batch = data.sample_trajectories(20_000, 1, 0)
    counts = np.bincount(batch["obs"][:, 0, 0].astype(int), minlength=100)
    assert abs(counts[0] - 200) < 5 * 200**0.5 and abs(counts[1:10].sum() - 1800) < 5 * 1800**0.5
    assert (counts > 100).all()


def test_normalized_pieces_stay_zero_where_there_is_no_row():
    batch = make(normalize=True).sample_trajectories(50, 6, 0)
    assert not batch["obs"][batch["mask"] == 0].any()
    assert batch["obs"][batch["mask"] == 1].any(axis=1).all()


def test_discrete_actions():
    data = make(actions=np.arange(N) % 4)
    assert (data.discrete, data.act_dim, data.n_actions) == (True, 1, 4)
    batch = data.sample(20, 0)
    assert batch["actions"].dtype == np.int64 and batch["actions"].shape == (20,)
    assert data.action_min.tolist() == [0] and data.action_max.tolist() == [3]
    assert data.sample_trajectories(3, 5, 0)["actions"].shape == (3, 5)
    assert make(actions=(np.arange(N) % 4)[:, None]).discrete
    continuous = make(actions=np.linspace(0, 1, N))
    assert (continuous.discrete, continuous.act_dim, continuous.n_actions) == (False, 1, None)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", ">f4", "bool"])
def test_any_dtype_that_casts_becomes_float32(dtype):
    obs = np.arange(N * 3).reshape(N, 3) % 2
    batch = make(obs=obs.astype(dtype), actions=np.zeros((N, 2), dtype), rewards=np.ones(N, dtype)).take(np.arange(N))
    assert batch["obs"].dtype == batch["actions"].dtype == batch["rewards"].dtype == np.float32
    np.testing.assert_array_equal(batch["obs"], obs)


def test_flat_arrays_are_cut_by_the_number_of_rewards_or_by_the_sizes_given():
    shaped = make(next_obs=NEXT)
    flat = {"obs": OBS.ravel(), "next_obs": NEXT.ravel(), "actions": ACTIONS.ravel(), "rewards": REWARDS[:, None]}
    for data in (make(**flat), make(**flat, obs_dim=3, act_dim=2)):
        assert data.fingerprint() == shaped.fingerprint()
        assert (data.obs_shape, data.obs_dim, data.act_dim) == ((3,), 3, 2)
    image = make(obs=np.arange(N * 12, dtype=np.uint8), obs_dim=(2, 3, 2))
    assert image.obs_shape == (2, 3, 2) and image.obs_dim == 12 and image.sample(2, 0)["obs"].dtype == np.uint8
    assert image.obs_mean.shape == (12,)


def test_images_are_not_normalized():
    with pytest.raises(ConfigError, match="normalize needs float32 observations, these are uint8"):
        make(obs=np.zeros((N, 4, 4, 3), np.uint8), normalize=True)


def spoil(array, *rows, value=np.nan):
    array = np.array(array, float)
    array[list(rows)] = value
    return array


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"obs": spoil(OBS, 4, 7)}, "'obs' has 6 values that are NaN or infinite, first in row 4"),
        (
            {"next_obs": spoil(NEXT, 2, value=np.inf)},
            "'next_obs' has 3 values that are NaN or infinite, first in row 2",
        ),
        ({"actions": spoil(ACTIONS, 9)}, "'actions' has 2 values that are NaN or infinite, first in row 9"),
        ({"rewards": spoil(REWARDS, 5)}, "'rewards' has 1 value that is NaN or infinite, first in row 5"),
        ({"obs": spoil(OBS, 5, value=1e300)}, "'obs' holds 1e\\+300, which float32 cannot hold"),
        ({"obs": OBS[:9]}, "'obs' has 9 rows, 'rewards' has 10"),
        ({"next_obs": NEXT[:9]}, "'next_obs' has 9 rows, 'rewards' has 10"),
        ({"actions": ACTIONS[:9]}, "'actions' has 9 rows, 'rewards' has 10"),
        ({"terminated": TERMINATED[:9]}, "'terminated' has 9 rows, 'rewards' has 10"),
        ({"truncated": TRUNCATED[:9]}, "'truncated' has 9 rows, 'rewards' has 10"),
        ({"terminated": TERMINATED * 2}, "'terminated' holds 2, which bool cannot hold"),
        ({"terminated": spoil(TERMINATED, 1)}, "'terminated' holds nan"),
        ({"rewards": np.zeros((N, 2))}, r"'rewards' has shape \(10, 2\), must be \(n,\)"),
        ({"rewards": []}, "the dataset has no rows"),
        ({"obs": np.zeros((N, 0))}, r"'obs' has shape \(10, 0\)"),
        ({"obs": np.zeros(31)}, r"'obs' has shape \(31,\), which is not 10 rows"),
        ({"obs": OBS, "obs_dim": 4}, r"'obs' has shape \(10, 3\), must be \(10, 4\)"),
        ({"next_obs": np.zeros((N, 2))}, r"'next_obs' has shape \(10, 2\), must be \(10, 3\)"),
        ({"obs": OBS.astype(object)}, "'obs' has dtype object"),
        ({"obs": OBS.astype(complex)}, "'obs' has dtype complex128"),
        ({"actions": np.array(["left"] * N)}, "'actions' has dtype <U4"),
        ({"actions": np.arange(N) - 2}, "'actions' has the discrete action -2, first in row 0"),
        ({"obs": [[1], [2, 3]]}, "inhomogeneous"),
    ],
)
def test_bad_arrays_are_named(changes, text):
    with pytest.raises(DatasetError, match=text) as raised:
        make(**changes)
    assert raised.value.exit_code == 4


def test_a_set_without_a_row_for_targets_is_sampled_by_all_rows_only():
    data = make(terminated=np.zeros(N), truncated=np.ones(N))
    with pytest.raises(DatasetMismatchError, match="none of 10 rows"):
        data.sample(4, 0)
    assert len(data.sample(4, 0, rows="all")["obs"]) == 4
    with pytest.raises(ConfigError, match="rows is 'some'"):
        data.sample(4, 0, rows="some")


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"seq_len": 0}, {"seq_len": 1.5}, {"seed": -1}])
def test_bad_sizes_of_pieces_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        make().sample_trajectories(**{"batch_size": 4, "seq_len": 3, "seed": 0, **change})


def test_out_is_overwritten_and_equal_to_fresh_memory():
    data = make(normalize=True)
    out = data.sample(8, 0)
    held = out["obs"]
    assert data.sample(8, 1, out=out) is out and out["obs"] is held
    np.testing.assert_array_equal(held, data.sample(8, 1)["obs"])


def test_same_seed_same_batch_and_ten_held_batches_do_not_change():
    data = make()
    batches = [data.sample(8, seed) for seed in range(10)]
    copies = [{k: v.copy() for k, v in batch.items()} for batch in batches]
    for seed in range(10):
        data.sample(8, 100 + seed)
        again = data.sample(8, seed)
        for key in again:
            np.testing.assert_array_equal(batches[seed][key], copies[seed][key])
            np.testing.assert_array_equal(again[key], copies[seed][key])
    assert len({batch["indices"].tobytes() for batch in batches}) == 10


def test_the_callers_arrays_are_not_changed():
    truncated, obs = TRUNCATED.copy(), OBS.copy()
    data = make(truncated=truncated, obs=obs, normalize=True)
    obs[:] = 0
    assert truncated.tolist() == TRUNCATED.tolist()
    data.normalize = False
    np.testing.assert_array_equal(data.take([5])["obs"], OBS[[5]])


def test_fingerprint_depends_on_every_column():
    prints = {make().fingerprint(), make(next_obs=NEXT).fingerprint(), make(truncated=None).fingerprint()}
    for name, array in (("obs", OBS), ("actions", ACTIONS), ("rewards", REWARDS)):
        changed = array.copy()
        changed.flat[-1] += 1
        prints.add(make(**{name: changed}).fingerprint())
    prints.add(make(terminated=TERMINATED | TRUNCATED).fingerprint())
    assert len(prints) == 7 and all(len(p) == hashlib.sha256().digest_size * 2 for p in prints)
    assert make(normalize=True).fingerprint() == make().fingerprint()


def test_a_set_larger_than_memory_is_refused_with_a_way_out(monkeypatch):
    monkeypatch.setattr(layout, "available_memory", lambda: 100)
    with pytest.raises(ConfigError, match=r"a store of 10 rows needs .* 100 B are free") as raised:
        make()
    assert "--storage mmap" in raised.value.hint


def test_the_class_is_reached_from_the_package_and_starts_without_a_source():
    import rlox.data

    assert rlox.data.OfflineDatasetBuffer is OfflineDatasetBuffer
    assert make().source is None and make().meta == {}


def test_open_reads_a_file_with_its_options(monkeypatch):
    from rlox.data import d4rl

    seen = {}
    monkeypatch.setattr(d4rl, "open_dataset", lambda path, **options: seen.update(path=path, **options))
    OfflineDatasetBuffer.open("d4rl.h5", "mmap", "2GB", keys={"obs": "o"})
    assert seen == {"path": "d4rl.h5", "storage": "mmap", "max_memory": "2GB", "keys": {"obs": "o"}}


def test_the_columns_are_public_as_they_were_given():
    rng = np.random.default_rng(0)
    given = {
        "obs": rng.normal(size=(6, 2)).astype("f4"), "next_obs": rng.normal(size=(6, 2)).astype("f4"),
        "actions": rng.normal(size=(6, 1)).astype("f4"), "rewards": rng.normal(size=6).astype("f4"),
        "terminated": np.array([0, 0, 1, 0, 0, 0], "f4"), "truncated": np.array([0, 0, 0, 0, 0, 1], "f4"),
    }  # fmt: skip
    data = OfflineDatasetBuffer(**given)
    for name, column in given.items():
        np.testing.assert_array_equal(getattr(data, name), column)
        getattr(data, name)[:] = 7  # the caller's own memory
        np.testing.assert_array_equal(getattr(data, name), column)
