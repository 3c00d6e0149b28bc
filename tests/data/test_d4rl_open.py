"""What a D4RL file becomes: values, episode ends, types, reading in place, and what is said about it."""

import os

import gymnasium as gym
import h5py
import numpy as np
import pytest

from rlox.data import OfflineDatasetBuffer, open_dataset, write_d4rl
from rlox.data.collect import collect
from rlox.envs import EnvSource, space_from_json
from rlox.errors import ConfigError, DatasetError

N = 2000


def columns(n=N, length=100):
    """Episodes of a walk: every third ends by termination, the others by a time limit."""
    random = np.random.default_rng(5)
    row = np.arange(n)
    over = row % length == length - 1
    terminal = over & (row // length % 3 == 0)
    obs = random.normal(size=(n, 3)).astype("f4")
    next_obs = np.roll(obs, -1, axis=0)
    next_obs[over] = random.normal(size=(over.sum(), 3))
    return {
        "obs": obs,
        "actions": random.uniform(-1, 1, (n, 2)).astype("f4"),
        "rewards": random.normal(size=n).astype("f4"),
        "terminated": terminal,
        "truncated": over & ~terminal,
        "next_obs": next_obs,
    }


def d4rl(path, options=None, **replace):
    """Write a D4RL file key by key, as other tools do."""
    data = columns()
    values = {
        "observations": data["obs"],
        "actions": data["actions"],
        "rewards": data["rewards"],
        "terminals": data["terminated"],
        "timeouts": data["truncated"],
        "next_observations": data["next_obs"],
    } | replace
    with h5py.File(path, "w") as file:
        for key, value in values.items():
            if value is not None:
                file.create_dataset(key, data=value, **(options or {}))
    return path


def assert_holds(dataset, data):
    """Every row of the dataset equals the arrays, bit for bit."""
    rows = dataset.take(np.arange(len(dataset)))
    for name, wanted in data.items():
        np.testing.assert_array_equal(rows[name], wanted.astype(rows[name].dtype), err_msg=name)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_written_file_opens_equal_bit_for_bit(tmp_path, compression):
    meta = {"env_id": "Walk-v0", "seed": 7, "mean": 0.1, "list": [1, 2]}
    path = write_d4rl(tmp_path / "a.h5", columns(), meta, compression=compression)
    dataset = OfflineDatasetBuffer.open(path)
    assert_holds(dataset, columns())
    assert {key: dataset.meta[key] for key in meta} == meta
    assert dataset.meta["storage"] == "ram"
    assert dataset.meta["notes"] == []
    assert dataset.source == str(path)
    assert dataset.n_episodes() == N // 100


def test_mapped_batches_equal_decoded_ones_seed_for_seed(tmp_path):
    path = write_d4rl(tmp_path / "a.h5", columns())
    ram, mapped = (open_dataset(path, storage=storage) for storage in ("ram", "mmap"))
    assert mapped.meta["storage"] == "mmap"
    assert mapped.nbytes < ram.nbytes / 4
    for seed in range(20):
        a, b = ram.sample(64, seed), mapped.sample(64, seed)
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)
    assert ram.fingerprint() == mapped.fingerprint()
    np.testing.assert_array_equal(ram.obs_mean, mapped.obs_mean)
    assert ram.stats() == mapped.stats()


def test_auto_maps_what_does_not_fit_and_decodes_what_does(tmp_path):
    path = write_d4rl(tmp_path / "a.h5", columns())
    assert open_dataset(path).meta["storage"] == "ram"
    assert open_dataset(path, max_memory=10_000).meta["storage"] == "mmap"
    assert open_dataset(path, max_memory="1MB").meta["storage"] == "ram"


def test_file_with_a_user_block_is_mapped_at_the_right_place(tmp_path):
    path = tmp_path / "a.h5"
    data = columns()
    with h5py.File(path, "w", userblock_size=1024) as file:
        for key, name in (("observations", "obs"), ("actions", "actions"), ("rewards", "rewards")):
            file[key] = data[name]
        file["terminals"], file["timeouts"] = data["terminated"], data["truncated"]
    dataset = open_dataset(path, storage="mmap")
    assert_holds(dataset, {name: data[name] for name in ("obs", "actions", "rewards", "terminated", "truncated")})


@pytest.mark.parametrize(
    "options", [{"compression": "gzip"}, {"compression": "gzip", "chunks": True, "shuffle": True, "fletcher32": True}]
)
def test_gzip_with_automatic_chunks_is_decoded_right(tmp_path, options):
    assert_holds(open_dataset(d4rl(tmp_path / "a.h5", options)), columns())


def test_chunks_of_one_column_are_decoded_right(tmp_path, monkeypatch):
    path = d4rl(tmp_path / "a.h5", observations=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", data=columns()["obs"], chunks=(300, 1), compression="lzf")
    assert_holds(open_dataset(path), columns())


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "i8", ">f4"])
def test_flags_of_any_type_that_holds_0_and_1_are_read(tmp_path, dtype):
    data = columns()
    path = d4rl(tmp_path / "a.h5", terminals=data["terminated"].astype(dtype), timeouts=data["truncated"].astype(dtype))
    assert_holds(open_dataset(path), data)


def test_single_columns_are_squeezed(tmp_path):
    data = columns()
    path = d4rl(tmp_path / "a.h5", rewards=data["rewards"][:, None], terminals=data["terminated"][:, None])
    assert_holds(open_dataset(path), data)


def test_both_flags_in_one_row_are_terminal_and_said_once(tmp_path):
    data = columns()
    over = data["terminated"] | data["truncated"]
    path = d4rl(tmp_path / "a.h5", timeouts=over)
    with pytest.warns(UserWarning, match="7 rows are terminal and timed out, first row 99") as caught:
        dataset = open_dataset(path)
    assert len(caught) == 1
    assert_holds(dataset, data)
    assert dataset.meta["notes"] == [str(caught[0].message)]


@pytest.mark.parametrize("stored", [True, False])
def test_unflagged_tail_is_truncated_and_reported(tmp_path, stored):
    data = columns()
    data["truncated"][-1] = False
    replace = {} if stored else {"next_observations": None}
    path = d4rl(tmp_path / "a.h5", timeouts=data["truncated"], **replace)
    with pytest.warns(UserWarning, match="last row has no end flag"):
        dataset = open_dataset(path)
    assert dataset.take([N - 1])["truncated"] == 1
    assert dataset.n_episodes() == N // 100
    # without its next observation a truncated row teaches no value
    seen = np.unique(np.concatenate([dataset.sample(512, seed)["indices"] for seed in range(40)]))
    assert (N - 1 in seen) == stored


def test_missing_timeouts_mean_that_only_terminals_end_episodes(tmp_path):
    path = d4rl(tmp_path / "a.h5", timeouts=None)
    with pytest.warns(UserWarning, match="last row"):
        dataset = open_dataset(path)
    assert dataset.n_episodes() == 8


def test_stored_next_observations_are_used_at_truncation(tmp_path):
    data = columns()
    dataset = open_dataset(d4rl(tmp_path / "a.h5"))
    cut = np.flatnonzero(data["truncated"])
    np.testing.assert_array_equal(dataset.take(cut)["next_obs"], data["next_obs"][cut])


def test_float64_and_integers_become_float32_and_are_said_once(tmp_path):
    data = columns()
    path = d4rl(tmp_path / "a.h5", observations=data["obs"].astype("f8"), rewards=np.arange(N))
    with pytest.warns(UserWarning) as caught:
        dataset = open_dataset(path)
    said = [str(w.message) for w in caught]
    assert said == [f"{path}: reading 'observations' (f8) as f4, 'rewards' (i8) as f4"]
    assert_holds(dataset, data | {"rewards": np.arange(N)})


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
@pytest.mark.parametrize("dtype", ["i4", "u1", "i8", ">i2"])
def test_integer_actions_are_discrete(tmp_path, shape, dtype):
    actions = (np.arange(N) % 5).astype(dtype)
    dataset = open_dataset(d4rl(tmp_path / "a.h5", actions=actions.reshape(shape)))
    assert dataset.discrete
    assert dataset.n_actions == 5
    assert_holds(dataset, columns() | {"actions": actions})


def test_discrete_actions_are_mapped_in_place_too(tmp_path):
    data = columns() | {"actions": np.arange(N) % 5}
    path = write_d4rl(tmp_path / "a.h5", data)
    assert_holds(open_dataset(path, storage="mmap"), data)


def test_images_stay_bytes(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(N, 4, 4, 3), dtype=np.uint8)
    dataset = open_dataset(d4rl(tmp_path / "a.h5", observations=images, next_observations=None))
    assert dataset.obs_shape == (4, 4, 3)
    assert dataset.take([5])["obs"].dtype == np.uint8
    np.testing.assert_array_equal(dataset.take(np.arange(N))["obs"], images)


def test_keys_map_names(tmp_path):
    data = columns()
    path = d4rl(tmp_path / "a.h5", observations=None, obs=data["obs"])
    assert_holds(open_dataset(path, keys={"obs": "obs"}), data)


def test_v1_file_of_d3rlpy_opens_with_its_key(tmp_path):
    data = columns()
    over = data["terminated"] | data["truncated"]
    path = d4rl(tmp_path / "a.h5", timeouts=None, episode_terminals=over)
    with pytest.warns(UserWarning, match="taken as terminal"):
        dataset = open_dataset(path, keys={"truncated": "episode_terminals"})
    assert_holds(dataset, data)


# Files that change while they are in use


def spoil_by_truncating(path):
    os.truncate(path, 4096)


def spoil_by_growing(path):
    with open(path, "ab") as file:
        file.write(b"x")


def spoil_by_replacing(path):
    write_d4rl(path, columns())


def spoil_by_removing(path):
    os.unlink(path)


def spoil_by_writing(path):
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(8192)
        file.write(b"xxxx")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


@pytest.mark.parametrize(
    "spoil", [spoil_by_truncating, spoil_by_growing, spoil_by_replacing, spoil_by_removing, spoil_by_writing]
)
def test_mapped_file_that_changed_is_an_error_at_the_next_pass(tmp_path, spoil):
    path = write_d4rl(tmp_path / "a.h5", columns())
    dataset = open_dataset(path, storage="mmap")
    dataset.sample(32, 0)
    spoil(path)
    for read in (
        lambda: dataset.sample(32, 1),
        lambda: dataset.sample_trajectories(4, 5, 1),
        dataset.stats,
        lambda: dataset.obs_mean,
    ):
        with pytest.raises(DatasetError, match=r"a\.h5 (changed while|is gone)") as caught:
            read()
        assert caught.value.exit_code == 4


def test_decoded_file_may_be_removed(tmp_path):
    path = write_d4rl(tmp_path / "a.h5", columns())
    dataset = open_dataset(path, storage="ram")
    path.unlink()
    assert_holds(dataset, columns())


def test_file_replaced_between_check_and_mapping_is_refused(tmp_path, monkeypatch):
    path = write_d4rl(tmp_path / "a.h5", columns())
    monkeypatch.setattr("rlox.data.d4rl.check_values", lambda *_: spoil_by_replacing(path) or [])
    with pytest.raises(DatasetError, match="changed"):
        open_dataset(path, storage="mmap")


def test_bad_storage_is_refused_before_the_file_is_looked_at(tmp_path):
    with pytest.raises(ConfigError, match="storage is 'disk'"):
        open_dataset(tmp_path / "no.h5", storage="disk")


# Collected files


@pytest.mark.parametrize(("env_id", "discrete"), [("Pendulum-v1", False), ("CartPole-v1", True)])
def test_collected_file_opens_with_its_spaces_and_environment(tmp_path, env_id, discrete):
    done = collect(EnvSource.of(env_id), None, n_steps=450, n_envs=2, seed=1, out=tmp_path / "a.h5")
    dataset = open_dataset(tmp_path / "a.h5")
    assert len(dataset) == 450
    assert dataset.discrete == discrete
    assert dataset.meta["env_id"] == env_id
    assert dataset.meta["return_mean"] == pytest.approx(done.returns.mean())
    env = gym.make(env_id)
    assert space_from_json(dataset.meta["action_space"]) == env.action_space
    assert space_from_json(dataset.meta["observation_space"]) == env.observation_space
    env.close()


def test_collected_random_policy_scores_what_offline_tables_say(tmp_path):
    done = collect(EnvSource.of("CartPole-v1"), None, n_episodes=300, n_envs=4, out=tmp_path / "a.h5")
    assert 19 < done.returns.mean() < 26  # 22.4 ± 0.7 in long runs
    assert open_dataset(tmp_path / "a.h5").stats()["return_mean"] == pytest.approx(done.returns.mean())
