"""Files that must be refused: unsafe, damaged, in use, or of another kind; each with its exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from rlox.data.d4rl import describe, open_dataset
from rlox.errors import DatasetError, DatasetNotFoundError, MissingDependencyError, RloxError

N = 8


def write_good(path: Path, n: int = N, **replace) -> Path:
    """Write a plain D4RL file; keyword arguments replace or (None) leave out a key."""
    random = np.random.default_rng(0)
    columns = {
        "observations": random.normal(size=(n, 3)).astype("f4"),
        "actions": random.uniform(-1, 1, (n, 2)).astype("f4"),
        "rewards": random.normal(size=n).astype("f4"),
        "terminals": np.arange(n) == 3,
        "timeouts": np.arange(n) == n - 1,
    } | replace
    with h5py.File(path, "w") as file:
        for key, value in columns.items():
            if value is not None:
                file[key] = value
    return path


def refusal(path, code=4, **options) -> RloxError:
    """Open the file, expect the exit code, and return the error, whose text must fit on the terminal."""
    with pytest.raises(RloxError) as caught:
        open_dataset(path, **options)
    error = caught.value
    assert error.exit_code == code, error
    assert error.message.isprintable()
    assert len(error.message) < 600
    return error


# Not an HDF5 file at all (no process is started for these)


def test_missing_file_is_not_found(tmp_path):
    error = refusal(tmp_path / "no.h5", code=3)
    assert isinstance(error, DatasetNotFoundError)
    assert "no.h5" in error.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"observations,actions\n1,2\n", "text"),
        (b"PK\x03\x04" + b"\0" * 60, "zip archive"),
        (b"\x80\x04\x95rest of a pickle", "pickle"),
        (b"\x93NUMPY\x01\0", "NumPy .npy"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\x89HDF\r\n\x1a", "damaged HDF5"),
        (b"\x00\x01\x02\x03\xff" * 300, "00 01 02 03 ff"),
    ],
)
def test_content_of_another_kind_is_named(tmp_path, content, words):
    path = tmp_path / "d4rl.h5"
    path.write_bytes(content)
    error = refusal(path)
    assert words in error.message
    assert error.hint is not None


def test_folder_is_refused_and_a_minari_folder_is_recognised(tmp_path):
    assert "folder" in refusal(tmp_path).message
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.json").write_text("{}")
    assert "Minari" in refusal(tmp_path).message


def test_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refusal(tmp_path / "pipe").message


def test_null_character_and_escape_sequence_in_a_path_are_escaped(tmp_path):
    assert "\\x00" in refusal(str(tmp_path / "a\0b")).message
    assert "\\x1b[31m" in refusal(str(tmp_path / "\x1b[31m"), code=3).message


# Damaged or in use


def test_truncated_file_says_so(tmp_path):
    path = write_good(tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[:1500])
    assert "truncated" in refusal(path).message


def test_signature_followed_by_junk_is_invalid(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 8)
    assert "invalid" in refusal(path).message


def test_file_that_another_process_writes_names_its_holder(tmp_path):
    path = tmp_path / "a.h5"
    code = "import sys, h5py; file = h5py.File(sys.argv[1], 'w'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout.readline() == b"open\n"
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))  # the content does not matter: the lock comes first
        error = refusal(path)
        writer.stdin.close()
        writer.kill()
    assert "open for writing" in error.message
    assert str(writer.pid) in error.message or "another process" in error.message


def test_dirty_write_flag_hints_at_h5clear(tmp_path):
    path = tmp_path / "swmr.h5"
    code = (
        "import sys, os, h5py\n"
        "file = h5py.File(sys.argv[1], 'w', libver='latest')\n"
        "data = file.create_dataset('observations', (10, 2), 'f4', maxshape=(None, 2), chunks=(10, 2))\n"
        "file.swmr_mode = True\n"
        "data[0] = 1\n"
        "file.flush()\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    error = refusal(path)
    assert "h5clear" in error.hint


# Links and storage outside the file. The canary is a pipe: whoever opened it to read would hang, not just read it.


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    os.mkfifo(path)
    return path


def test_external_link_is_refused_and_its_target_never_opened(tmp_path, canary):
    path = write_good(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["ext"] = h5py.ExternalLink(canary.name, "/x")
    error = refusal(path)
    assert error.message == f"{path}: links outside the file are not allowed: /ext → canary:/x"


def test_soft_link_is_refused(tmp_path):
    path = write_good(tmp_path / "a.h5", timeouts=None)
    with h5py.File(path, "a") as file:
        file["timeouts"] = h5py.SoftLink("/terminals")
    assert "/timeouts → /terminals" in refusal(path).message


def test_external_raw_storage_is_refused_and_its_bytes_never_read(tmp_path, canary):
    path = write_good(tmp_path / "a.h5", rewards=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (N,), "f4", external=[(str(canary), 0, 4 * N)])
    assert "external storage" in refusal(path).message


def test_virtual_dataset_is_refused_and_its_source_never_opened(tmp_path, canary):
    path = write_good(tmp_path / "a.h5", rewards=None)
    layout = h5py.VirtualLayout((N,), "f4")
    layout[:] = h5py.VirtualSource(str(canary), "/x", (N,))
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("rewards", layout)
    error = refusal(path)
    assert "virtual dataset" in error.message
    assert "canary" in error.message


def test_link_below_a_group_is_found_too(tmp_path):
    path = write_good(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file.create_group("infos")["qpos"] = h5py.ExternalLink("other.h5", "/x")
    assert "/infos/qpos" in refusal(path).message


def test_named_datatype_is_refused(tmp_path):
    path = write_good(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["type"] = np.dtype("f4")
    assert "named datatypes" in refusal(path).message


# Bombs


def test_shape_bomb_is_refused_before_anything_is_read(tmp_path):
    path = write_good(tmp_path / "a.h5", observations=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", (10**12, 10), "f4", chunks=(1000, 10))
    assert path.stat().st_size < 20_000
    assert "declares 40000000000000 bytes" in refusal(path).message


def test_declared_size_without_any_stored_byte_is_refused(tmp_path):
    path = write_good(tmp_path / "a.h5", observations=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", (10**7, 10), "f4", chunks=(1000, 10))
    assert "stores none" in refusal(path).message


def test_rows_that_all_columns_declare_and_hardly_any_chunk_stores_are_refused(tmp_path):
    rows = 10**7
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for key, width in (("observations", (3,)), ("actions", (2,)), ("rewards", ()), ("terminals", ())):
            data = file.create_dataset(key, (rows, *width), "f4", chunks=(4096, *width), compression="gzip")
            data[:4096] = data[-5:] = 1
    assert path.stat().st_size < 20_000
    assert "/actions declares 80000000 bytes and stores " in refusal(path).message


def test_a_column_of_zeros_that_compresses_a_thousand_times_is_no_bomb(tmp_path):
    rows = 17 * 10**6
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("zeros", data=np.zeros(rows, "f4"), chunks=(2**20,), compression="gzip", compression_opts=9)
    assert 64 << 20 < 4 * rows < 1100 * path.stat().st_size
    assert "zeros" in describe(path)["problem"]  # it is looked at, and no column


def test_chunk_bomb_is_refused(tmp_path):
    path = write_good(tmp_path / "a.h5", observations=None)
    with h5py.File(path, "a") as file:
        data = file.create_dataset("observations", (3 * 10**7, 1), "f4", chunks=(3 * 10**7, 1), compression="gzip")
        data.id.write_direct_chunk((0, 0), b"x" * 100)
    assert "chunks of 120000000 bytes" in refusal(path).message


def test_huge_number_of_objects_is_refused(tmp_path):
    path = write_good(tmp_path / "a.h5")
    with h5py.File(path, "a", libver="latest") as file:
        target = file.create_group("many")
        source = file["rewards"].id
        for i in range(100_001):
            h5py.h5o.link(source, target.id, b"%d" % i)
    assert "more than 100000 objects" in refusal(path).message


def test_deep_nesting_is_refused(tmp_path):
    path = write_good(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        group = file
        for _ in range(10_000):
            group = group.create_group("g")
    assert "deeper than 8" in refusal(path).message


def test_group_that_holds_itself_is_refused(tmp_path):
    path = write_good(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        inner = file.create_group("a/b")
        inner["loop"] = file["a"]
    assert "/a/b/loop" in refusal(path).message


def test_second_name_for_one_dataset_is_no_cycle(tmp_path):
    path = write_good(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["zz"] = file["rewards"]
    assert describe(path)["problem"] is None


@pytest.mark.parametrize("value", [np.zeros(1 << 19), "x" * (1 << 21)])
def test_huge_attribute_is_refused(tmp_path, value):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["big"] = value
    assert "attribute" in refusal(path).message


def test_too_many_dimensions_are_refused(tmp_path):
    path = write_good(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["deep"] = np.zeros((1,) * 9, "f4")
    assert "9 dimensions" in refusal(path).message


# Types and filters


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros(N, [("a", "f4"), ("b", "f4")]), "compound"),
        (np.zeros(N, "c8"), "complex"),
        (np.array([b"text"] * N), "dtype"),
    ],
)
def test_types_other_than_plain_numbers_are_refused(tmp_path, values, words):
    error = refusal(write_good(tmp_path / "a.h5", rewards=values))
    assert words in error.message
    assert "rewards" in error.message


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (h5py.string_dtype(), "variable length"),
        (h5py.vlen_dtype(np.uint8), "variable length"),
        (np.dtype(("f4", (2,))), "arrays inside"),
        (h5py.ref_dtype, "references"),
        (h5py.opaque_dtype(np.dtype("M8[s]")), "opaque"),
    ],
)
def test_variable_and_nested_types_are_refused(tmp_path, dtype, words):
    path = write_good(tmp_path / "a.h5", rewards=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (N,), dtype)
    assert words in refusal(path).message


def test_unknown_filter_is_a_missing_dependency_with_its_number(tmp_path):
    path = write_good(tmp_path / "a.h5", observations=None)
    with h5py.File(path, "a") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((N, 3))
        plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        space = h5py.h5s.create_simple((N, 3))
        data = h5py.h5d.create(file.id, b"observations", h5py.h5t.IEEE_F32LE, space, plist)
        data.write_direct_chunk((0, 0), b"whatever")
    error = refusal(path, code=8)
    assert isinstance(error, MissingDependencyError)
    assert "32015" in error.message


@pytest.mark.parametrize("rows", [2, 10, 100])
def test_what_a_decoder_leaves_unwritten_is_zero_and_no_memory_of_the_process(tmp_path, rows):
    path = write_good(tmp_path / "a.h5", n=400, observations=None)
    with h5py.File(path, "a") as file:
        data = file.create_dataset("observations", (400, 3), "f4", chunks=(rows, 3), compression="lzf")
        for row in range(0, 400, rows):
            data.id.write_direct_chunk((row, 0), b"\x03" + np.float32(2.5).tobytes())  # the first number of many
    for _ in range(2):
        obs = open_dataset(path).obs
        assert (obs[::rows, 0] == 2.5).all() and np.count_nonzero(obs) == 400 // rows


# Names from strangers


def test_hostile_names_are_escaped_and_cut(tmp_path):
    path = write_good(tmp_path / "a.h5", rewards=None)
    with h5py.File(path, "a") as file:
        file["[/red]\x1b[2J\nx"] = np.zeros(N, "f4")
        file[b"\xff\xfe"] = np.zeros(N, "f4")
        file["k" * 60_000] = np.zeros(N, "f4")
    error = refusal(path)
    assert "no 'rewards'" in error.message
    assert "\\x1b[2J\\nx" in error.message
    about = describe(path)
    assert "no 'rewards'" in about["problem"]
    json.dumps(about)


def test_other_layouts_are_named(tmp_path):
    path = tmp_path / "minari.h5"
    with h5py.File(path, "w") as file:
        file.create_group("episode_0").attrs["total_steps"] = 10**18
    assert "Minari" in refusal(path).message
    path = tmp_path / "d3rlpy.h5"
    with h5py.File(path, "w") as file:
        file["columns"] = np.array([b"observations"])
        file["num_episodes"] = 10**18
        file["version"] = np.bytes_(b"2.1")
    assert "d3rlpy 2" in refusal(path).message


def test_v1_file_of_d3rlpy_hints_at_its_ends(tmp_path):
    path = write_good(tmp_path / "a.h5", timeouts=None, episode_terminals=np.arange(N) >= N - 1)
    assert "truncated=episode_terminals" in refusal(path).hint


def test_verdict_is_the_same_when_repeated(tmp_path):
    path = write_good(tmp_path / "a.h5", rewards=np.full(N, np.nan, "f4"))
    assert refusal(path).message == refusal(path).message
    assert isinstance(refusal(path), DatasetError)
