"""What is written in D4RL's layout, and that it appears whole or not at all."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from rlox.data.writer import write_d4rl
from rlox.errors import ConfigError, DatasetError, WriteError


def columns(n=10, **replace):
    random = np.random.default_rng(1)
    return {
        "obs": random.normal(size=(n, 3)),
        "actions": random.normal(size=(n, 2)).astype("f4"),
        "rewards": random.normal(size=n),
        "terminated": np.arange(n) == 4,
    } | replace


def test_keys_types_and_layout_are_those_of_d4rl(tmp_path):
    path = write_d4rl(tmp_path / "new" / "a.h5", columns(next_obs=np.ones((10, 3)), **{"infos/x": np.ones(10)}))
    with h5py.File(path) as file:
        types = {key: file[key].dtype.str for key in file if key != "infos"}
        assert types == {
            "observations": "<f4",
            "actions": "<f4",
            "rewards": "<f4",
            "terminals": "|b1",
            "timeouts": "|b1",
            "next_observations": "<f4",
        }
        assert file["observations"].chunks is None
        assert file["infos/x"].shape == (10,)


def test_large_columns_start_at_a_page_so_that_they_can_be_mapped(tmp_path):
    path = write_d4rl(tmp_path / "a.h5", columns(5000))
    with h5py.File(path) as file:
        for key in ("observations", "actions", "rewards"):
            assert file[key].id.get_offset() % 4096 == 0


def test_gzip_chunks_hold_whole_rows(tmp_path):
    path = write_d4rl(tmp_path / "a.h5", columns(5000), compression="gzip")
    with h5py.File(path) as file:
        assert file["observations"].chunks == (4096, 3)
        assert file["observations"].compression == "gzip"


def test_last_row_is_flagged_unless_it_is_terminal(tmp_path):
    for last, timeout in ((False, True), (True, False)):
        terminated = np.zeros(10)
        terminated[-1] = last
        path = write_d4rl(tmp_path / "a.h5", columns(terminated=terminated))
        with h5py.File(path) as file:
            assert file["timeouts"][-1] == timeout


def test_both_flags_in_one_row_are_written_as_terminal(tmp_path):
    flags = np.arange(10) % 5 == 4
    path = write_d4rl(tmp_path / "a.h5", columns(terminated=flags, truncated=flags))
    with h5py.File(path) as file:
        assert file["terminals"][:].tolist() == flags.tolist()
        assert not file["timeouts"][:].any()


def test_images_and_discrete_actions_keep_their_types(tmp_path):
    path = write_d4rl(tmp_path / "a.h5", columns(obs=np.zeros((10, 4, 4, 1), np.uint8), actions=np.arange(10) % 3))
    with h5py.File(path) as file:
        assert file["observations"].dtype == np.uint8
        assert file["actions"].dtype == np.int64


def test_attributes_hold_numbers_text_and_json(tmp_path):
    meta = {"env_id": "Pendulum-v1", "seed": 3, "space": {"type": "Discrete", "n": 2}, "mean": np.float64(1.5)}
    path = write_d4rl(tmp_path / "a.h5", columns(), meta)
    with h5py.File(path) as file:
        assert file.attrs["env_id"] == "Pendulum-v1"
        assert file.attrs["seed"] == 3
        assert json.loads(file.attrs["space"]) == {"type": "Discrete", "n": 2}
        assert file.attrs["mean"] == 1.5


def test_same_input_gives_the_same_bytes(tmp_path):
    a = write_d4rl(tmp_path / "a.h5", columns(), {"seed": 1}, compression="gzip").read_bytes()
    b = write_d4rl(tmp_path / "b.h5", columns(), {"seed": 1}, compression="gzip").read_bytes()
    assert a == b


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rewards": np.zeros(9)}, "'rewards' has 9 rows"),
        ({"rewards": np.full(10, np.nan)}, "rewards has 10 values"),
        ({"rewards": np.full(10, 1e300)}, "not finite float32"),
        ({"terminated": np.full(10, 2)}, "0 and 1 only"),
        ({"obs": np.array(["x"] * 10)}, "dtype"),
    ],
)
def test_columns_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, change, words):
    with pytest.raises(DatasetError, match=words):
        write_d4rl(tmp_path / "a.h5", columns(**change))
    assert list(tmp_path.iterdir()) == []


def test_missing_and_unknown_columns_are_named(tmp_path):
    some = columns()
    del some["rewards"]
    with pytest.raises(DatasetError, match="rewards are missing"):
        write_d4rl(tmp_path / "a.h5", some)
    with pytest.raises(ConfigError, match="unknown column 'reward'"):
        write_d4rl(tmp_path / "a.h5", columns(reward=np.zeros(10)))


@pytest.mark.parametrize("value", [None, object(), "x" * 100_000])
def test_attributes_that_hdf5_cannot_hold_are_refused(tmp_path, value):
    with pytest.raises(ConfigError, match="attribute 'odd'"):
        write_d4rl(tmp_path / "a.h5", columns(), {"odd": value})


def test_unknown_compression_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="compression"):
        write_d4rl(tmp_path / "a.h5", columns(), compression="lzf")


def test_folder_in_the_way_is_a_write_error(tmp_path):
    with pytest.raises(WriteError):
        write_d4rl(tmp_path, columns())


@pytest.mark.parametrize("limit", [0, 3000, 150_000])
def test_full_disk_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path, limit):
    """A limit on file size stands for a full disk: writes fail at the start, at the metadata, in the data."""
    path = write_d4rl(tmp_path / "a.h5", columns())
    before = path.read_bytes()
    code = (
        "import resource, sys, numpy as np\n"
        "from rlox.data.writer import write_d4rl\n"
        "from rlox.errors import WriteError\n"
        "import h5py\n"
        "n = 20_000\n"
        "columns = {'obs': np.ones((n, 3)), 'actions': np.ones((n, 2)), 'rewards': np.ones(n), 'terminated': np.ones(n)}\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "try:\n"
        "    write_d4rl(sys.argv[1], columns)\n"
        "except WriteError as error:\n"
        "    print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path), str(limit)], capture_output=True, text=True)
    assert "cannot write" in done.stdout, done.stderr
    assert "too large" in done.stdout
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


