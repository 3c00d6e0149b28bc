"""Twenty mutated files of each kind at every run; ``mutate_files.py`` makes thousands."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import mutate_files
import mutated_checkpoints
import mutated_datasets
import pytest
from plain_reading import dataset_fingerprint, read_checkpoint, same

from rlox import checkpoint
from rlox.data import open_dataset


@pytest.mark.parametrize("kind", ["checkpoint", "dataset"])
def test_twenty_mutants_are_refused_or_read_right_and_run_nothing(kind: str) -> None:
    report = mutate_files.examine(kind, 20, seed=1, first=0, keep=None, info_every=10, limit_s=60)
    assert report.faults == []
    assert report.n == 20 and len(report.refusals) > 5
    assert report.text().startswith(f"20 mutated {kind}s\n")


def test_a_number_and_a_seed_make_the_same_mutant_again(tmp_path: Path) -> None:
    sound = [path.read_bytes() for path in mutated_checkpoints.sound_files(tmp_path)]
    mutator = mutated_checkpoints.Mutator(sound, tmp_path / "canary")
    first, again, other = (mutator.mutant(random.Random(f"0 checkpoint {n}")) for n in (5, 5, 6))
    assert first == again and first.data not in (other.data, *sound)


def test_the_sound_files_can_be_read_and_the_other_reader_agrees(tmp_path: Path) -> None:
    for path in mutated_checkpoints.sound_files(tmp_path):
        assert same(list(checkpoint.load(path)), list(read_checkpoint(path)))
    (tmp_path / "data").mkdir()
    os.mkfifo(tmp_path / "secret")
    paths = mutated_datasets.sound_files(tmp_path / "data", tmp_path / "secret")
    readable = [path for path in paths if path.stem != "links"]
    assert len(readable) > 10
    for path in readable[::5]:
        assert open_dataset(path).fingerprint() == dataset_fingerprint(path)


def test_the_other_reader_sees_a_weight_that_differs(tmp_path: Path) -> None:
    one, two = (read_checkpoint(path)[0]["learner"] for path in mutated_checkpoints.sound_files(tmp_path))
    assert same(one, one) and not same(one, two)
    two = read_checkpoint(tmp_path / "sound-0.pt")[0]["learner"]
    assert same(one, two)
    two["actor"][next(iter(two["actor"]))].reshape(-1)[0] += 1e-6
    assert not same(one, two)


def test_checksums_of_hdf5_are_those_of_hdf5(tmp_path: Path) -> None:
    assert mutated_datasets.lookup3(b"Four score and seven years ago") == 0x17770551  # from Jenkins's own driver
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file["x"] = [1.0]
    data = (tmp_path / "a.h5").read_bytes()
    assert mutated_datasets.lookup3(data[:44]) == int.from_bytes(data[44:48], "little")


@pytest.mark.parametrize("act", ["import os; os.system('true')", "open('x', 'w')", "import evil_module"])
def test_the_watch_on_the_checking_process_sees_what_it_may_not_do(tmp_path: Path, act: str) -> None:
    (tmp_path / "evil_module.py").touch()
    shutil.copy(Path(__file__).with_name("watched_child.py"), tmp_path / "sitecustomize.py")
    code = f"import rlox.data.walk\nprint(1, flush=True)\n{act}"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{mutate_files.ROOT}"}
    command = [sys.executable, "-B", "-c", code, "rlox.data.child"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-31, "1\n"), done.stderr


def test_a_canary_or_a_wrong_outcome_is_reported() -> None:
    report = mutate_files.Report("checkpoint")
    assert not report.add(0, "x", {"outcome": "exit 4", "message": "no", "seen": [], "seconds": 0.1})
    assert report.add(1, "x", {"outcome": "crashed", "message": "?", "seen": [], "seconds": 0.1})
    assert report.add(2, "x", {"outcome": "equal", "message": "", "seen": ["os.system"], "seconds": 0.1})
    assert report.add(3, "x", {"outcome": "exit 4", "message": "no", "seen": [], "seconds": 6.0})
    assert len(report.faults) == 3 and "wrong: 3" in report.text()


def test_a_process_that_dies_is_reported_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = "import sys\nsys.stdin.readline()\nprint('{\"outcome\": \"equal\", \"peaks_kib\": [1, 1], \"seconds\": 0}', flush=True)\nsys.stdin.readline()"
    (tmp_path / "watched_opening.py").write_text(served)
    monkeypatch.setattr(mutate_files, "__file__", str(tmp_path / "mutate_files.py"))
    opener = mutate_files.Opener(tmp_path, tmp_path / "canary")
    try:
        answer = opener.ask({"path": "a", "sound": "b"})
    finally:
        opener.close()
    assert answer["outcome"] == "crashed" and opener.process is None
