"""Bad datasets through ``rlox offline`` and ``rlox dataset info``: in a line, with a code, before a run is made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from cli_run import refused, run

from rlox.data import reader

N = 40
TRAIN = ("--env", "none", "--steps", 5, "--batch-size", 8, "--no-tensorboard", "--no-link")
BOX = json.dumps({"type": "Box", "shape": [2], "dtype": "float32", "low": -1.0, "high": 1.0})
DISCRETE = json.dumps({"type": "Discrete", "n": 3, "start": 0})


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLOX_RUNS_DIR", raising=False)


def columns(**replaced: Any) -> dict[str, Any]:
    """Return a sound dataset's columns; keyword arguments replace or (None) leave out one."""
    values = np.random.default_rng(0)
    plain = {
        "observations": values.normal(size=(N, 3)).astype("f4"),
        "actions": values.uniform(-1, 1, (N, 2)).astype("f4"),
        "rewards": values.normal(size=N).astype("f4"),
        "terminals": np.arange(N) % 10 == 9,
        "timeouts": np.arange(N) % 20 == 4,
    }
    return {key: value for key, value in (plain | replaced).items() if value is not None}


def written(attributes: dict[str, Any] | None = None, more: Callable[[Any], object] | None = None, **replaced: Any) -> Callable[[Path], None]:
    """Return a function that writes such a file; ``more(file)`` adds to it."""

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for key, value in columns(**replaced).items():
                file[key] = value
            file.attrs.update(attributes or {})
            if more is not None:
                more(file)

    return write


def spoiled(key: str, value: Any, *rows: int, dtype: str = "f4") -> Callable[[Path], None]:
    """Return a function that writes a file with a value in these rows of a column."""
    column = columns()[key].astype(dtype)
    column[list(rows)] = value
    return written(**{key: column})


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def truncated(path: Path) -> None:
    written()(path)
    path.write_bytes(path.read_bytes()[:1500])


def minari(path: Path) -> None:
    (path / "data").mkdir(parents=True)
    (path / "data" / "metadata.json").write_text("{}")


def minari_file(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("episode_0").attrs["total_steps"] = 10**18


def d3rlpy_file(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["columns"], file["num_episodes"], file["version"] = np.array([b"observations"]), 10**18, np.bytes_(b"2.1")


def swmr(path: Path) -> None:
    code = ("import sys, os, h5py\nfile = h5py.File(sys.argv[1], 'w', libver='latest')\n"
            "file.create_dataset('observations', (10, 2), 'f4', maxshape=(None, 2), chunks=(10, 2))\n"
            "file.swmr_mode = True\nfile.flush()\nos._exit(0)\n")  # fmt: skip
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def no_such_filter(file: Any) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((N,))
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    data = h5py.h5d.create(file.id, b"rewards", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((N,)), plist)
    data.write_direct_chunk((0,), b"whatever")


def typed_column(dtype: Any) -> Callable[[Any], object]:
    return lambda file: file.create_dataset("rewards", (N,), dtype)


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((N,), "f4")
    layout[:] = h5py.VirtualSource("secret", "/x", (N,))
    file.create_virtual_dataset("rewards", layout)


def nested(file: Any) -> None:
    for _ in range(10_000):
        file = file.create_group("g")


def cycle(file: Any) -> None:
    inner = file.create_group("a/b")
    inner["loop"] = file["a"]


def huge_attribute(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["big"] = np.zeros(1 << 19)


def crowd(file: Any) -> None:
    group = file.create_group("many")
    for i in range(100_001):
        h5py.h5o.link(file["rewards"].id, group.id, b"%d" % i)


def bomb(file: Any) -> None:
    file.create_dataset("observations", (10**12, 10), "f4", chunks=(1000, 10))


def chunk_bomb(file: Any) -> None:
    file.create_dataset("observations", (3 * 10**7, 1), "f4", chunks=(3 * 10**7, 1), compression="gzip").id.write_direct_chunk((0, 0), b"x" * 100)


OUTSIDE = "links outside the file are not allowed: /"

# What a file is -> (how it is written, options, exit code of offline, what is said, exit code of dataset info).
BAD: dict[str, tuple[Callable[[Path], object], tuple[Any, ...], int, list[str], int]] = {
    # Not a dataset
    "missing": (lambda path: None, (), 3, ["d.h5 does not exist", "`rlox dataset collect"], 3),
    "folder": (lambda path: path.mkdir(), (), 4, ["d.h5 is a folder, not a dataset file", "D4RL"], 4),
    "minari folder": (minari, (), 4, ["looks like a Minari dataset"], 4),
    "empty": (content(b""), (), 4, ["d.h5 is empty, not an HDF5 file"], 4),
    "text": (content(b"a,b\n1,2\n"), (), 4, ["d.h5 is text, not an HDF5 file"], 4),
    "pickle": (content(b"\x80\x04\x95rest"), (), 4, ["a pickle (rlox never reads pickles)"], 4),
    "checkpoint": (content(b"PK\x03\x04" + bytes(60)), (), 4, ["a zip archive (npz, or a checkpoint)"], 4),
    "truncated": (truncated, (), 4, ["is truncated", "copy or download it again"], 4),
    "junk": (content(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 8), (), 4, ["d.h5 is invalid"], 4),
    "left by SWMR": (swmr, (), 4, ["was not closed", "h5clear -s"], 4),
    # Another layout
    "renamed key": (written(observations=None, more=lambda f: f.create_dataset("states", data=columns()["observations"])),
                    (), 4, ["no 'observations'", "`--keys obs=states`"], 0),
    "near next_observations": (written(more=lambda f: f.create_dataset("next_obs", data=columns()["observations"])),
                               (), 4, ["no 'next_observations'", "--keys next_obs=next_obs", "to do without"], 0),
    "no such key": (written(), ("--keys", "obs=state[/x]"), 4, ["no 'state[/x]'"], 0),
    "unknown column": (written(), ("--keys", "osb=x"), 2, ["unknown column 'osb'", "'obs'"], 2),
    "minari file": (minari_file, (), 4, ["looks like a Minari data file"], 0),
    "d3rlpy file": (d3rlpy_file, (), 4, ["looks like a d3rlpy 2 dataset"], 0),
    "d3rlpy 1 file": (written(timeouts=None, episode_terminals=np.arange(N) >= N - 1), (), 4,
                      ["looks like a d3rlpy 1 dataset", "`--keys truncated=episode_terminals`"], 0),
    # Shapes and types
    "lengths": (written(rewards=np.zeros(N - 1, "f4")), (), 4, [f"'observations' has {N} rows", f"'rewards' has {N - 1} rows"], 0),
    "rank of observations": (written(observations=np.zeros(N, "f4")), (), 4, ["'observations' has shape (40,), must be (N, obs_dim)"], 0),
    "rank of rewards": (written(rewards=np.zeros((N, 2), "f4")), (), 4, ["'rewards' has shape (40, 2)"], 0),
    "rank of actions": (written(actions=np.zeros((N, 2, 2), "f4")), (), 4, ["'actions' has shape (40, 2, 2)"], 0),
    "size of actions": (written({"action_space": BOX}, actions=np.zeros((N, 5), "f4")), (), 4, ["'actions' has shape (40, 5)", "Box"], 0),
    "compound": (written(rewards=np.zeros(N, [("a", "f4")])), (), 4, ["/rewards has values that are compound"], 4),
    "complex": (written(rewards=np.zeros(N, "c8")), (), 4, ["/rewards has values that are compound or complex"], 4),
    "string": (written(rewards=np.array([b"text"] * N)), (), 4, ["'rewards' has dtype |S4, must be bool, int or float"], 0),
    "object": (written(rewards=None, more=typed_column(h5py.string_dtype())), (), 4, ["strings of variable length"], 4),
    "reference": (written(rewards=None, more=typed_column(h5py.ref_dtype)), (), 4, ["references"], 4),
    "overflow": (spoiled("rewards", 1e300, 7, 9, dtype="f8"), (), 4, ["'rewards' has 2 values that are finite but too large for float32, first in row 7"], 0),
    # Values
    "NaN observation": (spoiled("observations", np.nan, 11, 30), (), 4, ["'observations' has 6 values that are NaN or infinite, first in row 11", "leave out the episodes"], 0),
    "infinite action": (spoiled("actions", np.inf, 3), (), 4, ["'actions' has 2 values that are NaN or infinite, first in row 3"], 0),
    "NaN reward": (spoiled("rewards", np.nan, 39), (), 4, ["'rewards' has 1 value that is NaN or infinite, first in row 39"], 0),
    "action outside": (lambda path: (written({"action_space": BOX}, actions=np.full((N, 2), 1.01, "f4"))(path)), (), 4,
                       ["outside the action space Box", "first in row 0"], 0),
    "action of 1.5": (written({"action_space": DISCRETE}, actions=np.full(N, 1.5, "f4")), (), 4, ["not whole numbers, first in row 0"], 0),
    "action beyond n": (written({"action_space": DISCRETE}, actions=np.full(N, 3, "i8")), (), 4, ["outside the action space Discrete(3)"], 0),
    "flag of 2": (spoiled("terminals", 2, 5), (), 4, ["'terminals' has 1 value that is neither 0 nor 1, first in row 5"], 0),
    "no row": (written(**{key: value[:0] for key, value in columns().items()}), (), 4, ["has 0 rows, at least 2 are needed"], 0),
    "one row": (written(**{key: value[:1] for key, value in columns().items()}), (), 4, ["has 1 row, at least 2 are needed"], 0),
    "no end": (written(terminals=np.zeros(N, bool), timeouts=None), (), 4, ["no row ends an episode", "`--keys truncated=KEY`"], 0),
    "smaller than a batch": (written(), ("--batch-size", 64), 5, ["40 rows", "batch_size 64"], 0),
    "space of nothing": (written({"action_space": '{"type": "os:system"}'}), (), 4, ["attribute 'action_space' is not the description of a space"], 0),
    # Out of the file
    "external link": (written(rewards=None, more=lambda f: f.__setitem__("rewards", h5py.ExternalLink("secret", "/x"))), (), 4, [OUTSIDE + "rewards → secret:/x"], 4),
    "soft link": (written(rewards=None, more=lambda f: f.__setitem__("rewards", h5py.SoftLink("/actions"))), (), 4, ["links are not allowed: /rewards → /actions"], 4),
    "virtual dataset": (written(rewards=None, more=virtual), (), 4, [OUTSIDE + "rewards → secret (virtual dataset)"], 4),
    "external storage": (written(rewards=None, more=lambda f: f.create_dataset("rewards", (N,), "f4", external=[("secret", 0, 4 * N)])),
                         (), 4, [OUTSIDE + "rewards → secret (external storage)"], 4),
    # Too much
    "shape bomb": (written(observations=None, more=bomb), (), 4, ["/observations declares 40000000000000 bytes and stores none"], 4),
    "chunk bomb": (written(observations=None, more=chunk_bomb), (), 4, ["chunks of 120000000 bytes, at most 67108864"], 4),
    "crowd": (written(more=crowd), (), 4, ["more than 100000 objects are not allowed"], 4),
    "depth": (written(more=nested), (), 4, ["nested deeper than 8"], 4),
    "cycle": (written(more=cycle), (), 4, ["a group that holds itself is not allowed: /a/b/loop"], 4),
    "attribute": (huge_attribute, (), 4, ["an attribute of / has 4194304 bytes, at most 1048576 are allowed"], 4),
    "filter": (written(rewards=None, more=no_such_filter), (), 8, ["'rewards' needs HDF5 filter 32015", "plugins are not loaded", "h5repack"], 0),
    # Names from strangers
    "hostile names": (written(rewards=None, more=lambda f: [f.create_dataset(n, data=np.zeros(N)) for n in ("[/red]\x1b[2J\nx", b"\xff\xfe", "k" * 60_000)]),
                      (), 4, ["no 'rewards'", "[/red]\\x1b[2J\\nx", "(60000 characters)"], 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_offline_refuses_it_in_a_line_before_a_run_is_made(capsys, kind):
    write, flags, code, words, _ = BAD[kind]
    os.mkfifo("secret")  # whoever opens it hangs
    write(Path("d.h5"))
    before = sorted(os.listdir())
    ran = run(capsys, "offline", "bc", "--dataset", "d.h5", *TRAIN, *flags)
    ran.err = "".join(line for line in ran.err.splitlines(True) if not line.startswith(("warning: ", "run: ")))
    refused(ran, code, *words)
    assert "\x1b" not in ran.err and sorted(os.listdir()) == before


UNSOUND = ("renamed key", "d3rlpy 1 file", "lengths", "string", "NaN reward", "no end", "smaller than a batch", "hostile names")


@pytest.mark.parametrize("kind", [kind for kind in BAD if BAD[kind][-1] or kind in UNSOUND])
def test_info_refuses_what_is_unsafe_and_names_what_cannot_be_trained_on(capsys, kind):
    write, flags, _, words, code = BAD[kind]
    os.mkfifo("secret")
    write(Path("d.h5"))
    flags = () if flags and flags[0] == "--batch-size" else flags
    ran = run(capsys, "dataset", "info", "d.h5", *flags)
    if code:
        refused(ran, code, *words)
    else:
        assert ran.code == 0 and "Traceback" not in ran.err and "\x1b" not in ran.out + ran.err
        problem = dict(line.split("\t", 1) for line in ran.out.splitlines() if "\t" in line)["problem"]
        if kind == "smaller than a batch":
            assert problem == "-"
        else:
            assert words[0] in problem and f"it cannot be trained on as it is: {problem[:100]}" in ran.err


# --- files in use, and processes that die over a file ---


@pytest.mark.parametrize("argv", [("offline", "bc", *TRAIN, "--dataset"), ("dataset", "info")], ids=["offline", "info"])
def test_a_file_that_another_process_writes_is_refused_with_its_holder(capsys, argv):
    code = "import sys, h5py; file = h5py.File(sys.argv[1], 'w'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, "d.h5"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdin is not None
        assert writer.stdout.readline() == b"open\n"
        Path("d.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
        refused(run(capsys, *argv, "d.h5"), 4, "d.h5 is open for writing by process", "wait until it is closed")
        writer.stdin.close()
        writer.kill()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("os.kill(os.getpid(), 11)", ["invalid: the process that checks it crashed (signal 11)"]),
        ("os.kill(os.getpid(), 24)", ["invalid: checking it took longer than 5 s"]),
        ("time.sleep(600)", ["invalid: checking it took longer than 0 s"]),
        ("print('{', flush=True)", ["invalid: the process that checks it gave up"]),
    ],
)
@pytest.mark.parametrize("argv", [("offline", "bc", *TRAIN, "--dataset"), ("dataset", "info")], ids=["offline", "info"])
def test_a_file_that_brings_hdf5_down_harms_the_checking_process_alone(capsys, monkeypatch, body, words, argv):
    written()(Path("d.h5"))
    real = subprocess.Popen
    code = "import os, sys, time\nprint('{\"ready\": true}', flush=True)\n" + body
    monkeypatch.setattr(reader.subprocess, "Popen", lambda command, **options: real([sys.executable, "-c", code], **options))
    if "sleep" in body:
        monkeypatch.setattr(reader, "BASE_S", 0.2)
    refused(run(capsys, *argv, "d.h5"), 4, *words)
    assert os.listdir() == ["d.h5"]


@pytest.mark.parametrize("act", ["os.truncate('d.h5', 2000)", "os.remove('d.h5')", "os.utime('d.h5', (1, 1))"])
def test_a_mapped_file_that_changes_while_it_is_trained_on_is_an_error_and_no_crash(capsys, act):
    rows = 20_000
    values = {key: np.concatenate([value] * (rows // N)) for key, value in columns().items()}
    written(**values)(Path("d.h5"))
    Path("changing.py").write_text(
        "import os\nfrom rlox.offline.base import OfflineAlgorithm\n\n\nclass Changing(OfflineAlgorithm):\n"
        f"    def _update(self, batch):\n        if self.step == 5:\n            {act}\n        return {{'loss': 0.0}}\n"
    )
    argv = ("offline", "changing.py:Changing", "--dataset", "d.h5", *TRAIN, "--steps", 50, "--storage", "mmap")
    ran = run(capsys, *argv)
    assert ran.code == 4 and "Traceback" not in ran.err, ran.err
    tail = ran.err[ran.err.index("error: ") :]
    assert "d.h5 changed while it was in use" in tail or "d.h5 is gone" in tail
    assert "`--storage ram`" in tail and len(tail.splitlines()) <= 6
