"""A disk that is full or fails at any step: said once, with the path, never called saved; the old generation stays."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import full_disk
import pytest
from committed import commit, commit_all, contents, model_digest, names, newest, publish, put
from watched_disk import Step, watched

from rlox import files
from rlox.checkpoint.generation import Generations
from rlox.errors import WriteError
from rlox.files import link_atomically

SCRIPT = Path(full_disk.__file__)


class Failing:
    """Fails at the k-th step, and from then on at every step of the same kind when it is for good."""

    def __init__(self, k: int, code: int, *, for_good: bool = False) -> None:
        self.left, self.code, self.for_good = k, code, for_good
        self.failed: Step | None = None
        self.steps: list[Step] = []

    def __call__(self, step: Step) -> None:
        self.steps.append(step)
        self.left -= 1
        again = self.for_good and self.failed is not None and step[0] == self.failed[0]
        if self.left == -1 or again:
            self.failed = self.failed or step
            raise OSError(self.code, os.strerror(self.code))


def place(step: Step) -> str:
    """The file that a step is about; for a temporary file the one that it becomes."""
    found = re.fullmatch(r"\.(.+)\.\d+\.[0-9a-f]{8}\.tmp", os.path.basename(step[1]))
    return found[1] if found else os.path.basename(step[1])


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("for_good", [False, True])
def test_a_step_that_fails_is_reported_and_not_tried_again(tmp_path: Path, code: int, for_good: bool) -> None:
    folder = tmp_path / "resume"
    store, n, failed = commit_all(folder, 1), 1, []
    for k in range(100):
        failing = Failing(k, code, for_good=for_good)
        try:
            with watched(failing):
                commit(store, n + 1, after=n)
        except WriteError as error:
            assert failing.failed is not None and error.exit_code == 6
            assert os.strerror(code) in error.message and str(folder) in error.message
            is_commit = place(failing.failed) == "resume" and any(step[0] == "replace" for step in failing.steps)
            assert place(failing.failed) in error.message or is_commit
            # Reported before the rename: nothing of it is left. After it: it may be there, but was not called saved.
            assert newest(folder) == (n + 1 if is_commit else n)
            if not is_commit and not (for_good and failing.failed[0] == "unlink"):
                assert not any(name.endswith(("2", ".tmp")) for name in set(names(folder)) - known(folder))
            synced = [step for step in failing.steps if step[0] == "fsync"]
            assert failing.failed[0] != "fsync" or synced[-1] is failing.failed  # nothing was synced after that
            failed.append(failing.failed[0])
            commit(store, n + 2, after=n)
        else:  # what cannot be deleted is of no consequence
            assert failing.failed is None or failing.failed[0] == "unlink"
            commit(store, n + 2, after=n + 1)
        n += 2
        assert newest(folder) == n and set(names(folder)) == known(folder)
        if failing.failed is None:
            break
    assert {"create", "write", "fsync", "replace"} == set(failed) and failed.count("fsync") >= 5


def known(folder: Path) -> set[str]:
    """The files that the generations in a folder name."""
    kept = list(Generations(folder)._candidates([]))
    lists = {f"generation-{generation.number:09d}.json" for generation in kept}
    return {"manifest.json", *lists, *(part.file for generation in kept for part in generation.parts.values())}


def test_a_failed_fsync_is_not_repeated_on_any_descriptor_of_the_file(tmp_path: Path) -> None:
    for k in range(4):
        folder, synced = tmp_path / str(k), list[str]()

        def fail_once(step: Step, synced: list[str] = synced, k: int = k) -> None:
            if step[0] == "fsync" and step[1].endswith(("1", ".json", ".tmp")):
                synced.append(step[1])
                if len(synced) == k + 1:
                    raise OSError(errno.EIO, "Input/output error")

        with pytest.raises(WriteError, match="Input/output error"), watched(fail_once):
            commit_all(folder, 1)
        assert len(synced) == len(set(synced)) == k + 1
        assert newest(folder) is None and names(folder) == []


@pytest.mark.parametrize("name", ["model-000000002", "state-000000002", "generation-000000002.json", "manifest.json"])
def test_a_full_device_is_reported_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    store, real = commit_all(tmp_path, 1), os.open

    def onto_the_full_device(path: Any, flags: int, mode: int = 0o777) -> int:
        full = flags & os.O_CREAT and name in str(path)
        return real("/dev/full", os.O_RDWR) if full else real(path, flags, mode)

    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "open", onto_the_full_device)
        with pytest.raises(WriteError, match=rf"cannot write .*{name}: No space left on device") as caught:
            commit(store, 2, after=1)
    assert caught.value.exit_code == 6
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    commit(store, 2, after=1)
    assert newest(tmp_path) == 2


def test_short_and_interrupted_writes_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n, fdopen = 0, os.fdopen

    class Short(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal n
            n += 1
            if n % 3 == 0:
                raise InterruptedError(errno.EINTR, "Interrupted system call")
            return io.FileIO.write(self, memoryview(data)[: max(len(data) // 3, 1)]) or 0

    monkeypatch.setattr(os, "fdopen", lambda fd, mode, **o: io.BufferedRandom(Short(fd, "r+")) if mode == "w+b" else fdopen(fd, mode, **o))
    commit_all(tmp_path, 1, 2)
    Generations(tmp_path).commit({}, {"rows.0000": put(bytes(range(256)) * 4000)})
    assert n > 100
    found = Generations(tmp_path).newest()
    assert found is not None and found.path("rows.0000").read_bytes() == bytes(range(256)) * 4000
    earlier = Generations(tmp_path).find(model_digest(2))
    assert earlier is not None and earlier.path("state").read_bytes() == contents(2)["state"]


@pytest.mark.parametrize("raised", [MemoryError(), ValueError("of the user"), RuntimeError("enforce fail at inline_container.cc")])
def test_what_a_writer_raises_comes_through_and_leaves_nothing(tmp_path: Path, raised: Exception) -> None:
    store = commit_all(tmp_path, 1)
    before = names(tmp_path)

    def write(file: Any) -> None:
        file.write(b"half")
        raise raised

    with pytest.raises(type(raised)) as caught:
        store.commit({}, {"model": put(b"x" * 50), "state": write})
    assert caught.value is raised
    assert names(tmp_path) == before and newest(tmp_path) == 1


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMLINK, errno.EXDEV, errno.EOPNOTSUPP])
def test_a_model_is_copied_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    generation = commit(Generations(tmp_path / "resume"), 1, after=None)
    publish(generation, tmp_path)
    last = tmp_path / "checkpoints" / "last.pt"
    assert last.read_bytes() == contents(1)["model"] and last.stat().st_ino != generation.path("model").stat().st_ino
    assert names(tmp_path / "checkpoints") == ["last.pt", "step_000000001.pt"]


def test_a_link_is_the_same_file_under_another_name(tmp_path: Path) -> None:
    generation = commit(Generations(tmp_path / "resume"), 1, after=None)
    for _ in range(2):  # the second time it is the same file already
        publish(generation, tmp_path)
        assert (tmp_path / "checkpoints" / "last.pt").stat().st_ino == generation.path("model").stat().st_ino
        assert names(tmp_path / "checkpoints") == ["last.pt", "step_000000001.pt"]


@pytest.mark.parametrize("what", ["replace", "fsync"])
def test_a_name_that_cannot_be_given_is_a_write_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    source, path = tmp_path / "source", tmp_path / "last.pt"
    source.write_bytes(b"new")
    path.write_bytes(b"old")

    def fail(*args: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, what, fail)
    with pytest.raises(WriteError, match=r"last\.pt: Read-only file system"):
        link_atomically(source, path)
    monkeypatch.undo()
    assert path.read_bytes() == (b"old" if what == "replace" else b"new") and names(tmp_path) == ["last.pt", "source"]
    with pytest.raises(WriteError, match=r"other: No such file"):
        link_atomically(tmp_path / "missing", tmp_path / "other")


def test_folders_that_cannot_be_synced_are_no_failure_where_the_file_system_has_no_such_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def files_only(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", files_only)
    commit_all(tmp_path / "a" / "b", 1, 2)
    assert newest(tmp_path / "a" / "b") == 2


def test_a_folder_whose_parent_may_not_be_read_can_be_saved_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, flags: int, mode: int = 0o777) -> int:
        if os.fspath(path) == str(tmp_path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    commit_all(tmp_path / "resume", 1, 2)
    assert newest(tmp_path / "resume") == 2


def test_a_folder_that_cannot_be_made_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "resume", tmp_path / ("x" * 300)):
        with pytest.raises(WriteError, match="cannot write") as caught:
            commit_all(folder, 1)
        assert caught.value.exit_code == 6


def run_script(*arguments: object, before: tuple[str, ...] = ()) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[2])}
    done = subprocess.run([*before, sys.executable, str(SCRIPT), *map(str, arguments)], env=environment,
                          capture_output=True, text=True, timeout=240)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_limits_of_size_and_of_descriptors_leave_the_old_generation(tmp_path: Path) -> None:
    report = run_script("limits", tmp_path)
    assert len(report["size"]) == 8 and len(report["descriptors"]) == 3
    for message, state in report["size"]:
        assert state == 1
        assert re.search(r"cannot write .*resume/\S+: File too large \(\d[\d.]* k?B written, \d[\d.]* [kMGT]?B free\)", message)
    for message, state in report["descriptors"]:
        assert state == 1 and re.search(r"cannot write .*resume.*: Too many open files", message)
    assert report["after"] == 2 and report["left"] == []


def in_a_namespace(mount: Path, options: str) -> tuple[str, ...]:
    """The command that runs another with a small file system of its own at ``mount``."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    shell = f'mount -t tmpfs -o {options} none "$0" && exec "$@"'
    command = ("unshare", "-Urm", "sh", "-c", shell, str(mount))
    done = subprocess.run([*command, "true"], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        pytest.skip(f"may not mount here: {done.stderr.strip()[:100]}")
    return command


@pytest.mark.slow
@pytest.mark.parametrize("size_kib", [64, 256, *range(1024, 9 * 1024, 1024)])
def test_a_full_file_system_leaves_the_old_generation_and_takes_the_next_when_there_is_space(tmp_path: Path, size_kib: int) -> None:
    report = run_script("fill", tmp_path, before=in_a_namespace(tmp_path, f"size={size_kib}k"))
    check_filled(report, "space")


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4, 6, 8, 10, 12, 14, 20, 30])
def test_a_file_system_without_inodes_leaves_the_old_generation(tmp_path: Path, n: int) -> None:
    report = run_script("fill", tmp_path, before=in_a_namespace(tmp_path, f"size=64m,nr_inodes={n}"))
    check_filled(report, "space")


def check_filled(report: dict[str, Any], words: str) -> None:
    saved, refused = report["saved"], report["refused"]
    assert refused and all(f"No {words} left on device" in message and code == 6 for message, code, _ in refused)
    for _, _, state in refused:
        assert state == (saved[-1] if saved else None)
    assert report["after"] == report["attempted"] and report["left"] == []


def losing(data: bytes) -> bytes:
    return data[:-1]


def changing(data: bytes) -> bytes:
    return data.replace(b"r", b"?")


@pytest.mark.parametrize("disk", [losing, changing])
def test_a_disk_that_keeps_something_else_than_was_written_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Callable[[bytes], bytes]
) -> None:
    store, fdopen = commit_all(tmp_path, 1), os.fdopen

    class Lying(io.FileIO):
        def write(self, data: Any) -> int:
            io.FileIO.write(self, disk(bytes(data)))
            return len(data)

    before = names(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", lambda fd, mode, **o: io.BufferedRandom(Lying(fd, "r+")) if mode == "w+b" else fdopen(fd, mode, **o))
        with pytest.raises(WriteError, match=r"rows\.0002-000000002: what was written does not verify"):
            store.commit({}, {"rows.0001": None, "rows.0002": put(b"rows of a ring")})
    assert names(tmp_path) == before and newest(tmp_path) == 1
