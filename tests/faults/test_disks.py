"""Disks that are full, fail or may not be written to, under whole runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from fault_runs import TINY, checkpoints, contents, digest_of, goes_on_exactly, left_over, status, train
from run_digest import differing, generation_state, rows
from run_server import HERE

from rlox.checkpoint.generation import Generations

# Each part of the save at step 80, and the evaluation at step 60 that found the best model so far.
PARTS = {
    "model": dict(where="save", step=80),
    "state": dict(where="save", step=80, nth=2),
    "rows": dict(where="save", step=80, nth=3),
    "generation-": dict(where="list of a save", step=80),
    "manifest.json": dict(where="manifest of a save", step=80),
    "best.pt": dict(where="best model", step=60),
}


def is_refused(ended, folder, photo, *words):
    """Assert that a run ended with "cannot write", saying what and how much, and that what was saved is untouched."""
    assert ended.code == 6, ended.err
    for word in ("error: cannot write", "written, ", " free)", "the last good checkpoint is run/checkpoints/last.pt", *words):
        assert word in ended.err, (word, ended.err)
    assert "Traceback" not in ended.err and len(ended.err.splitlines()) <= 6
    assert json.loads(photo.read_text()).items() <= contents(folder).items()
    assert left_over(folder) == [] and checkpoints(folder) == ["step_000000040.pt"]


@pytest.mark.parametrize("part", PARTS)
def test_a_disk_that_is_full_in_mid_save_costs_nothing_that_was_saved(runs, undisturbed, tmp_path, folder, part):
    photo = tmp_path / "photo.json"
    ended = train(runs, folder, fault="fill_disk", after=100, photo=photo, **PARTS[part])
    is_refused(ended, folder, photo, part, "No space left on device")
    goes_on_exactly(runs, folder, undisturbed())


def test_a_file_that_may_not_grow_costs_nothing_that_was_saved(runs, undisturbed, tmp_path, folder):
    photo = tmp_path / "photo.json"
    ended = train(runs, folder, fault="limit_files", size=3000, where="save", step=80, photo=photo)
    is_refused(ended, folder, photo, "model", "File too large", "(3.0 kB written")
    assert status(folder)["status"] == "failed" and status(folder)["exit_code"] == 6
    goes_on_exactly(runs, folder, undisturbed())


def test_a_disk_error_costs_nothing_that_was_saved(runs, undisturbed, tmp_path, folder):
    photo = tmp_path / "photo.json"
    ended = train(runs, folder, fault="fill_disk", after=100, error="EIO", photo=photo, **PARTS["state"])
    is_refused(ended, folder, photo, "state", "Input/output error")
    goes_on_exactly(runs, folder, undisturbed())


@pytest.mark.parametrize(
    ("fault", "words"),
    [("limit_descriptors", "Too many open files"), ("make_read_only", "Read-only file system")],
)
def test_what_cannot_be_opened_costs_nothing_that_was_saved(runs, undisturbed, tmp_path, folder, fault, words):
    photo = tmp_path / "photo.json"
    ended = train(runs, folder, fault=fault, where="save", step=80, photo=photo)
    assert ended.code == 6 and "error: cannot write" in ended.err and words in ended.err, ended.err
    assert "Traceback" not in ended.err
    assert json.loads(photo.read_text()).items() <= contents(folder).items()
    goes_on_exactly(runs, folder, undisturbed())


def test_a_signal_on_a_full_disk_is_a_failed_save_and_not_an_interruption(runs, undisturbed, tmp_path, folder):
    photo = tmp_path / "photo.json"
    ended = train(runs, folder, fault="signal_on_full_disk", name="SIGTERM", where="step", step=93, photo=photo)
    assert ended.code == 6 and "No space left on device" in ended.err, ended.err
    assert json.loads(photo.read_text()).items() <= contents(folder).items()
    goes_on_exactly(runs, folder, undisturbed())


MOUNTS = """
set -e
python=$1 size=$2 result=$3; shift 3
mount -t tmpfs -o size=${size}k none /mnt
code=0; "$python" -m rlox "$@" --run-dir /mnt/run --resume auto 2> "$result/first.err" > /dev/null || code=$?
echo $code > "$result/code"
if [ $code = 6 ] && [ -d /mnt/run ]; then (cd /mnt/run && find . -name '.*.tmp') > "$result/left"; fi
mount -o remount,size=64m /mnt
"$python" -m rlox "$@" --run-dir /mnt/run --resume auto 2> "$result/second.err" > /dev/null
cp -r /mnt/run "$result/run"
"""
namespaces = pytest.mark.skipif(
    subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode != 0
    if shutil.which("unshare") else True,
    reason="needs user namespaces with mounts",
)  # fmt: skip


@namespaces
@pytest.mark.slow
def test_small_disks_of_all_sizes(undisturbed, tmp_path):
    """The first run fails sooner or later, or not at all; with more space the second one always ends as undisturbed."""
    codes = []
    for size in (8, 40, *range(64, 512, 64)):
        result = tmp_path / str(size)
        result.mkdir()
        words = [sys.executable, str(size), str(result), *map(str, TINY), "-q"]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
        done = subprocess.run(["unshare", "-Urm", "sh", "-c", MOUNTS, "sh", *words], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + (result / "second.err").read_text()
        codes.append(int((result / "code").read_text()))
        said = (result / "first.err").read_text()
        assert codes[-1] in (0, 6) and "Traceback" not in said and len(said.splitlines()) <= 6, said
        assert codes[-1] == 0 or "No space left on device" in said
        assert not (result / "left").exists() or (result / "left").read_text() == ""
        assert digest_of(result / "run") == undisturbed().digest
    assert codes[0] == 6 and codes[-1] == 0 and codes == sorted(codes, reverse=True)


READ_ONLY = """
set -e
python=$1 folder=$2; shift 2
mount -o bind "$folder" "$folder" && mount -o remount,bind,ro "$folder"
exec "$python" -m rlox "$@"
"""


@namespaces
@pytest.mark.slow
def test_a_folder_that_may_not_be_written_to_is_refused_at_once(runs, tmp_path, folder):
    assert train(runs, folder, fault="kill", where="step", step=93).code < 0
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    before = contents(folder)
    for name in ("run", "new"):
        words = [*map(str, TINY), "--run-dir", f"{tmp_path}/{name}", "--resume", "auto"]
        command = ["unshare", "-Urm", "sh", "-c", READ_ONLY, "sh", sys.executable, str(tmp_path), *words]
        ended = subprocess.run(command, env=env, capture_output=True, text=True)
        assert ended.returncode == 6 and "Read-only file system" in ended.stderr, ended.stderr
        assert f"{tmp_path}/{name}" in ended.stderr and "Traceback" not in ended.stderr
    assert contents(folder) == before and not (tmp_path / "new").exists()


def test_a_disk_that_is_full_for_logs_only_stops_nothing(runs, undisturbed, folder):
    ended = train(runs, folder, fault="refuse_logs", step=50, until=90)
    assert ended.code == 0, ended.err
    whole = undisturbed().folder
    ours, theirs = (generation_state(Generations(f / "resume").newest()) for f in (folder, whole))
    assert differing(ours, theirs) == []
    kept, all_rows = rows(folder / "metrics.jsonl"), rows(whole / "metrics.jsonl")
    lost = [row for row in all_rows if row not in kept]
    assert [row for row in all_rows if row in kept] == kept
    assert {row["step"] for row in lost} == {60, 80}
