"""The checking process: limits, deadlines, mutated files, and that every chunk is read exactly once."""

import json
import os
import random
import subprocess
import sys

import h5py
import numpy as np
import pytest

from rlox.data import child, reader
from rlox.data.d4rl import describe
from rlox.data.reader import Reader, time_limit
from rlox.errors import DatasetError, RloxError


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain.h5"
    values = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for key, shape in (("observations", (64, 3)), ("actions", (64, 2)), ("rewards", (64,))):
            file.create_dataset(key, data=values.normal(size=shape).astype("f4"), compression="gzip", fletcher32=True)
        file["terminals"] = np.arange(64) % 8 == 7
        file.attrs["env_id"] = "Pendulum-v1"
    return path


def verdict(path):
    try:
        return describe(path)
    except RloxError as error:
        assert error.exit_code in (4, 8), error
        assert error.message.isprintable()
        return error.message


@pytest.mark.parametrize("seed", range(20))
def test_mutated_file_gets_a_verdict_and_the_parent_lives(plain, tmp_path, seed):
    draw = random.Random(seed)
    data = bytearray(plain.read_bytes())
    if seed % 4 == 3:
        del data[draw.randrange(8, len(data)) :]
    else:
        for _ in range((1, 8, 64)[seed % 4]):
            data[draw.randrange(8, min(len(data), 3000 if seed % 2 else len(data)))] = draw.randrange(256)
    path = tmp_path / "mutated.h5"
    path.write_bytes(data)
    first = verdict(path)
    if seed < 4:
        assert verdict(path) == first


def test_child_imports_neither_torch_nor_gymnasium(tmp_path):
    code = "import sys, rlox.data.child, rlox.data.walk; print([m for m in sys.modules if m in ('torch', 'gymnasium')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_child_cannot_write_dump_or_grow_beyond_its_limits():
    code = (
        "import resource as r\n"
        "from rlox.data.child import _limit, BASE_MEMORY\n"
        "_limit(5_000_000, 7)\n"
        "assert r.getrlimit(r.RLIMIT_FSIZE) == (0, 0)\n"
        "assert r.getrlimit(r.RLIMIT_CORE) == (0, 0)\n"
        "assert r.getrlimit(r.RLIMIT_CPU) == (7, 8)\n"
        "assert r.getrlimit(r.RLIMIT_AS) == (BASE_MEMORY, BASE_MEMORY + 5_000_000)\n"
        "try:\n"
        "    bytearray(2 * BASE_MEMORY)\n"
        "except MemoryError:\n"
        "    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr


def test_time_limit_grows_with_the_file_beyond_50_mb():
    assert time_limit(49_999_999) == 5
    assert time_limit(200_000_000) == 15


def fake_child(monkeypatch, body):
    """Put a process that runs ``body`` in the child's place; it must report that it is ready first."""
    real = subprocess.Popen
    code = "import os, sys, time\nprint('{\"ready\": true}', flush=True)\n" + body
    monkeypatch.setattr(
        reader.subprocess, "Popen", lambda command, **options: real([sys.executable, "-c", code], **options)
    )


def test_hanging_child_is_killed_at_the_deadline(plain, monkeypatch):
    fake_child(monkeypatch, "time.sleep(600)")
    monkeypatch.setattr(reader, "BASE_S", 0.2)
    with Reader(plain, 10**6) as open_file, pytest.raises(DatasetError, match="took longer than"):
        open_file.structure()
    assert open_file._process.returncode == -9


def test_crashing_child_is_an_invalid_file(plain, monkeypatch):
    fake_child(monkeypatch, "os.kill(os.getpid(), 11)")
    with Reader(plain, 10**6) as open_file, pytest.raises(DatasetError, match=r"invalid: .*crashed \(signal 11\)"):
        open_file.structure()


def test_a_file_that_makes_hdf5_spin_is_found_by_the_limit_on_processor_time(plain, monkeypatch):
    requests = []
    real = Reader.__enter__

    def enter(self):
        opened = real(self)
        requests.append(json.loads(opened._process.args[-1]))
        return opened

    monkeypatch.setattr(Reader, "__enter__", enter)
    describe(plain)
    assert requests[0]["cpu_s"] < time_limit(plain.stat().st_size)
    monkeypatch.setattr(Reader, "__enter__", real)
    fake_child(monkeypatch, "import signal\nos.kill(os.getpid(), signal.SIGXCPU)")
    with Reader(plain, 10**6) as open_file, pytest.raises(DatasetError, match="invalid: checking it took longer than 5 s"):
        open_file.structure()


@pytest.mark.parametrize("said", ["not json", "[1, 2]", "", '{"error": 5}', '{"error": {"code": "unsafe"}}'])
def test_nonsense_from_the_child_is_an_invalid_file(plain, monkeypatch, said):
    fake_child(monkeypatch, f"print({said!r}, flush=True)")
    with Reader(plain, 10**6) as open_file, pytest.raises(DatasetError):
        open_file.structure()


def test_escape_sequences_in_the_childs_words_are_escaped(plain, monkeypatch):
    fake_child(monkeypatch, """print('{"error": {"code": "unsafe", "message": "\\\\u001b[31m"}}', flush=True)""")
    with Reader(plain, 10**6) as open_file, pytest.raises(DatasetError) as caught:
        open_file.structure()
    assert "\\x1b[31m" in caught.value.message


def test_child_that_cannot_start_says_why_and_blames_no_file(plain, monkeypatch):
    real = subprocess.Popen
    monkeypatch.setattr(
        reader.subprocess, "Popen", lambda command, **options: real([sys.executable, "-c", "1/0"], **options)
    )
    with pytest.raises(RloxError, match="did not start: ZeroDivisionError") as caught, Reader(plain, 10**6):
        pass
    assert not isinstance(caught.value, DatasetError)


def test_no_descriptor_or_process_is_left_behind(plain):
    describe(plain)
    before = set(os.listdir("/proc/self/fd"))
    describe(plain)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [((10,), (3,)), ((7, 5), (2, 2)), ((7, 5), (7, 1)), ((4, 3, 2), (1, 2, 2)), ((9, 4), None), ((0, 3), (2, 3))],
)
def test_blocks_cover_every_value_once_and_cut_no_chunk(shape, chunks, monkeypatch):
    monkeypatch.setattr(child, "BLOCK_BYTES", 40)
    count = np.zeros(shape, int)
    for block in child.blocks(shape, chunks, 4):
        count[block] += 1
        for part, length, step in zip(block, shape, chunks or [1] * len(shape), strict=True):
            assert part.start % step == 0
            assert part.stop % step == 0 or part.stop == length
    assert (count == 1).all()


def test_blocks_of_column_chunks_stay_small():
    sizes = [
        (rows.stop - rows.start) * (cols.stop - cols.start) * 4
        for rows, cols in child.blocks((10**6, 111), (15625, 2), 4)
    ]
    assert max(sizes) <= child.BLOCK_BYTES
    assert sum(sizes) == 10**6 * 111 * 4
    assert len(sizes) <= 128
