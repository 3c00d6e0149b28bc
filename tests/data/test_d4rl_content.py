"""Sound HDF5 files whose content is wrong or odd: what is said, and with which exit code."""

import json

import h5py
import numpy as np
import pytest

from rlox.data.d4rl import describe, memory_budget, open_dataset, parse_bytes
from rlox.errors import ConfigError, DatasetError, RloxError

N = 10


def write(path, attrs=None, **replace):
    values = np.random.default_rng(0)
    columns = {
        "observations": values.normal(size=(N, 3)).astype("f4"),
        "actions": values.uniform(-1, 1, (N, 2)).astype("f4"),
        "rewards": values.normal(size=N).astype("f4"),
        "terminals": np.arange(N) == 3,
        "timeouts": np.arange(N) == N - 1,
    } | replace
    with h5py.File(path, "w") as file:
        for key, value in columns.items():
            if value is not None:
                file[key] = value
        for key, value in (attrs or {}).items():
            file.attrs[key] = json.dumps(value)
    return path


def refusal(path, code=4, **options):
    with pytest.raises(RloxError) as caught:
        open_dataset(path, **options)
    assert caught.value.exit_code == code, caught.value
    return caught.value


# Keys


@pytest.mark.parametrize(
    ("old", "new", "flag"),
    [
        ("observations", "obs", "obs=obs"),
        ("rewards", "reward", "rewards=reward"),
        ("terminals", "dones", "terminated=dones"),
        ("actions", "Actions", "actions=Actions"),
    ],
)
def test_renamed_key_is_named_with_the_flag_that_maps_it(tmp_path, old, new, flag):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file.move(old, new)
    error = refusal(path)
    assert f"has no '{old}'" in error.message
    assert f"`--keys {flag}`" in error.hint
    assert describe(path, keys=dict([flag.split("=")]))["problem"] is None


def test_renamed_optional_key_is_not_silently_ignored(tmp_path):
    path = write(tmp_path / "a.h5", next_obs=np.zeros((N, 3), "f4"))
    error = refusal(path)
    assert "next_observations" in error.message
    assert "`--keys next_obs=next_obs`" in error.hint
    assert "next_obs" in describe(path, keys={"next_obs": "next_obs"})["columns"]
    assert "next_obs" not in describe(path, keys={"next_obs": ""})["columns"]


def test_keys_may_use_the_names_of_d4rl_and_reach_into_groups(tmp_path):
    path = write(tmp_path / "a.h5", rewards=None)
    with h5py.File(path, "a") as file:
        file["extra/reward"] = np.zeros(N, "f4")
    assert describe(path, keys={"rewards": "/extra/reward"})["columns"]["rewards"] == "extra/reward"
    assert describe(path, keys={"observations": "observations", "rewards": "extra/reward"})["problem"] is None


@pytest.mark.parametrize("keys", [{"observatons": "x"}, {"obs": ""}, {"obs": "observations", "observations": "x"}])
def test_keys_that_make_no_sense_are_usage_errors(tmp_path, keys):
    error = refusal(write(tmp_path / "a.h5"), code=2, keys=keys)
    assert isinstance(error, ConfigError)


def test_key_that_is_not_there_is_named(tmp_path):
    error = refusal(write(tmp_path / "a.h5"), keys={"truncated": "ends"})
    assert "has no 'ends'" in error.message


# Shapes and lengths


def test_lengths_that_differ_are_listed_by_key(tmp_path):
    error = refusal(write(tmp_path / "a.h5", rewards=np.zeros(N - 1, "f4")))
    assert "'observations' has 10 rows" in error.message
    assert "'rewards' has 9 rows" in error.message


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("observations", (N,)),
        ("observations", (N, 0)),
        ("actions", (N, 2, 2)),
        ("actions", (N, 0)),
        ("rewards", (N, 2)),
        ("terminals", ()),
        ("timeouts", (N, 1, 1)),
    ],
)
def test_wrong_rank_shows_the_shape(tmp_path, key, shape):
    error = refusal(write(tmp_path / "a.h5", **{key: np.zeros(shape, "f4")}))
    assert f"'{key}' has shape {shape}" in error.message


def test_next_observations_of_another_shape_show_both_shapes(tmp_path):
    error = refusal(write(tmp_path / "a.h5", next_observations=np.zeros((N, 4), "f4")))
    assert "(10, 4)" in error.message
    assert "(10, 3)" in error.message


@pytest.mark.parametrize("n", [0, 1])
def test_no_row_and_one_row_are_too_few(tmp_path, n):
    empty = {"observations": (n, 3), "actions": (n, 2), "rewards": (n,), "terminals": (n,), "timeouts": (n,)}
    error = refusal(write(tmp_path / "a.h5", **{key: np.ones(shape, "f4") for key, shape in empty.items()}))
    assert f"has {n} row" in error.message


# Values


def test_what_another_column_is_read_from_is_never_suggested_for_a_missing_one(tmp_path):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        del file["actions"]
    error = refusal(path)
    assert "has no 'actions'" in error.message and error.hint == "name its key with `--keys actions=KEY`"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "next_observations"])
def test_nonfinite_values_are_counted_and_located(tmp_path, key, value):
    shape = {"rewards": (N,), "actions": (N, 2)}.get(key, (N, 3))
    values = np.zeros(shape, "f4")
    values[6] = value
    error = refusal(write(tmp_path / "a.h5", **{key: values}))
    count = values[6].size
    assert f"'{key}' has {count} value" in error.message
    assert "first in row 6" in error.message
    assert "leave out" in error.hint


def test_first_bad_row_is_found_across_blocks_of_column_chunks(tmp_path):
    path = tmp_path / "a.h5"
    n = 200_000
    obs = np.zeros((n, 12), "f4")
    obs[[150_000, 130_000], [1, 11]] = np.nan
    ends = np.arange(n) % 1000 == 999
    write(path, observations=None, actions=np.zeros((n, 1), "f4"), rewards=np.zeros(n, "f4"), terminals=ends, timeouts=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", data=obs, chunks=(n, 1), compression="gzip", compression_opts=1)
    assert "has 2 values that are NaN or infinite, first in row 130000" in refusal(path).message


def test_float64_that_overflows_float32_is_refused(tmp_path):
    rewards = np.zeros(N)
    rewards[2] = 1e39
    error = refusal(write(tmp_path / "a.h5", rewards=rewards))
    assert "too large for float32, first in row 2" in error.message


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5, np.nan])
def test_flags_other_than_zero_and_one_are_refused(tmp_path, value):
    flags = np.zeros(N, "f4")
    flags[4] = value
    error = refusal(write(tmp_path / "a.h5", terminals=flags))
    assert "'terminals' has 1 value" in error.message
    assert "row 4" in error.message


def test_file_without_any_end_is_refused(tmp_path):
    error = refusal(write(tmp_path / "a.h5", terminals=np.zeros(N, bool), timeouts=None))
    assert "no row ends an episode" in error.message


BOX = {"type": "Box", "shape": [2], "dtype": "float32", "low": -1.0, "high": [1.0, 0.5]}


def test_action_outside_the_files_space_is_located(tmp_path):
    actions = np.zeros((N, 2), "f4")
    actions[7, 1] = 0.6
    error = refusal(write(tmp_path / "a.h5", {"action_space": BOX}, actions=actions))
    assert "'actions' has 1 value that is outside the action space" in error.message
    assert "first in row 7" in error.message


def test_action_that_rounding_put_outside_is_a_note(tmp_path):
    actions = np.zeros((N, 2), "f4")
    actions[7, 1] = 0.5001
    about = describe(write(tmp_path / "a.h5", {"action_space": BOX}, actions=actions))
    assert about["problem"] is None
    assert "slightly outside" in about["notes"][0]


def test_actions_of_another_size_than_their_space_show_both(tmp_path):
    error = refusal(write(tmp_path / "a.h5", {"action_space": BOX}, actions=np.zeros((N, 3), "f4")))
    assert "(10, 3)" in error.message
    assert "Box" in error.message


@pytest.mark.parametrize("value", [1.5, 2.0, -1.0])
def test_discrete_action_that_is_none_is_located(tmp_path, value):
    actions = np.zeros((N, 1), "f4")
    actions[5] = value
    space = {"type": "Discrete", "n": 2, "start": 0}
    error = refusal(write(tmp_path / "a.h5", {"action_space": space}, actions=actions))
    assert "'actions' has 1 value" in error.message
    assert "row 5" in error.message


def test_negative_discrete_action_without_a_space_is_refused(tmp_path):
    actions = np.zeros(N, "i4")
    actions[5] = -3
    assert "-3" in refusal(write(tmp_path / "a.h5", actions=actions)).message


@pytest.mark.parametrize("space", [{"type": "os:system"}, {"type": "Box", "shape": [10**9], "dtype": "f4"}])
def test_space_that_is_none_is_refused(tmp_path, space):
    error = refusal(write(tmp_path / "a.h5", {"action_space": space}))
    assert "action_space" in error.message


def test_attributes_that_only_look_like_json_stay_text(tmp_path):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file.attrs["deep"] = "[" * 60_000
        file.attrs["brace"] = "{x"
        file.attrs["many"] = np.arange(5)
        file.attrs["bytes"] = np.bytes_(b"a\xff")
        file.attrs["number"] = 3.5
    attributes = describe(path)["attributes"]
    assert attributes["deep"] == "[" * 60_000
    assert attributes["brace"] == "{x"
    assert "many" not in attributes
    assert attributes["bytes"] == "a\\xff"
    assert attributes["number"] == 3.5


# Memory and storage


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("500 mb", 5 * 10**8), ("1.5GiB", 1610612736), ("7", 7), (12, 12), ("3k", 3000)],
)
def test_sizes_are_read_from_text(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "2XB", "-1GB", "GB", 0, -5, True, 1.5, "nan", "2 G B", "0.1"])
def test_text_that_is_no_size_is_a_usage_error(text):
    with pytest.raises(ConfigError, match="max_memory is"):
        parse_bytes(text)


def test_budget_is_half_of_the_free_memory_at_most(monkeypatch):
    monkeypatch.setattr("rlox.data.d4rl.available_memory", lambda: 1000)
    assert memory_budget(None) == 500
    assert memory_budget(400) == 400
    assert memory_budget("2GB") == 500


def test_ram_beyond_the_limit_names_both_sizes(tmp_path):
    error = refusal(write(tmp_path / "a.h5"), code=2, storage="ram", max_memory=100)
    assert "100 B are allowed" in error.message
    assert "mmap" in error.hint


def test_auto_that_can_neither_decode_nor_map_says_why(tmp_path):
    path = write(tmp_path / "a.h5", observations=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", data=np.zeros((N, 3), "f4"), compression="gzip")
    error = refusal(path, code=2, max_memory=100)
    assert "'observations' is compressed (gzip)" in error.message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compression": "gzip"}, "compressed (gzip)"),
        ({"chunks": (5, 3)}, "not contiguous"),
        ({"dtype": ">f4"}, ">f4 instead of f4"),
        ({"dtype": "f8"}, "f8 instead of f4"),
    ],
)
def test_file_that_cannot_be_mapped_says_why(tmp_path, options, words):
    path = write(tmp_path / "a.h5", observations=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", data=np.zeros((N, 3), "f4"), **options)
    error = refusal(path, storage="mmap")
    assert words in error.message
    assert describe(path)["why_not_mmap"] == f"'observations' is {words}"


def test_unknown_storage_is_a_usage_error(tmp_path):
    assert "pool" in refusal(write(tmp_path / "a.h5"), code=2, storage="pool").message


# What describe says


def test_description_of_a_sound_file_is_complete_and_json(tmp_path):
    path = write(tmp_path / "a.h5", {"observation_space": BOX}, timeouts=None, infos=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("infos/qpos", data=np.zeros((N, 4)), chunks=(5, 4), compression="gzip")
    about = json.loads(json.dumps(describe(path)))
    assert about["format"] == "d4rl"
    assert (about["n_rows"], about["n_episodes"], about["n_terminated"], about["n_truncated"]) == (N, 2, 1, 1)
    assert (about["obs_shape"], about["act_dim"], about["discrete"]) == ([3], 2, False)
    assert about["storage"] == "ram"
    assert about["why_not_mmap"] is None
    assert about["memory_bytes"] == N * (12 + 8 + 4 + 1)
    assert about["attributes"] == {"observation_space": BOX}
    assert about["notes"] == [f"{path}: the last row has no end flag; taken as truncated"]
    assert about["columns"]["terminated"] == "terminals"
    qpos = next(d for d in about["datasets"] if d["key"] == "infos/qpos")
    assert (qpos["shape"], qpos["chunks"], qpos["filters"]) == ([N, 4], [5, 4], ["gzip"])


def test_description_of_inconsistent_content_names_the_problem(tmp_path):
    about = describe(write(tmp_path / "a.h5", rewards=np.full(N, np.nan, "f4")))
    assert "NaN" in about["problem"]
    assert about["n_rows"] == N
    assert about["n_episodes"] is None


def test_description_of_an_unsafe_file_is_an_error(tmp_path):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["soft"] = h5py.SoftLink("/x")
    with pytest.raises(DatasetError, match="links are not allowed"):
        describe(path)
