"""At every instant a checkpoint is the old one or the new one, whole; what was not saved is never called saved."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from rlox import checkpoint, files
from rlox.errors import WriteError

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = {"w": torch.zeros(2000)}, {"w": torch.ones(4000)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path / "a.pt", OLD, {"step": 1})


def generation(path: Path) -> int:
    """Return the step of a checkpoint that is whole."""
    state, manifest = checkpoint.load(path)
    assert state["w"].equal((OLD if manifest["step"] == 1 else NEW)["w"])
    return int(manifest["step"])


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script, folder = Path(__file__).with_name("killed_save.py"), tmp_path_factory.mktemp("killed")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_a_kill_at_each_write_fsync_and_rename_leaves_a_whole_checkpoint(killed: dict[str, Any]) -> None:
    steps, outcomes = killed["kill"]["steps"], killed["kill"]["outcomes"]
    assert len(outcomes) == len(steps) + 1 > 5
    # The steps end with the fsync of the file, the rename and the fsync of the folder: only after the rename it is new.
    assert steps[-3:] == ["fsync", "replace", "fsync"] and set(steps[:-3]) == {"write"}
    assert outcomes == ["old"] * (len(steps) - 1) + ["new"] * 2


def test_the_next_start_removes_what_a_kill_left(killed: dict[str, Any]) -> None:
    left = killed["kill"]["temporaries"]
    assert set(left[:-2]) == {1} and left[-2:] == [0, 0]
    assert killed["kill"]["names"] == ["a.pt", "steps.json"]


def test_a_full_disk_leaves_the_old_checkpoint_and_names_the_sizes(killed: dict[str, Any]) -> None:
    full = killed["full"]
    assert full["intact"] and full["names"] == ["b.pt"]
    for message in full["messages"]:
        assert "cannot write" in message and "b.pt: File too large (" in message and " written, " in message


def test_dev_full_is_reported_as_no_space(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def onto_the_full_device(name: Any, flags: int, mode: int = 0o777) -> int:
        return real("/dev/full", os.O_RDWR) if str(name).endswith(".tmp") else real(name, flags, mode)

    monkeypatch.setattr(files.os, "open", onto_the_full_device)
    with pytest.raises(WriteError, match=r"a\.pt: No space left on device") as caught:
        checkpoint.save(path, NEW, {"step": 2})
    assert caught.value.exit_code == 6
    monkeypatch.undo()
    assert generation(path) == 1


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failing_fsync_or_rename_is_reported_and_not_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    calls = []

    def fail(*args: object) -> None:
        calls.append(args)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, name, fail)
    with pytest.raises(WriteError) as caught:
        checkpoint.save(path, NEW, {"step": 2})
    monkeypatch.undo()
    assert os.strerror(code) in caught.value.message and str(path) in caught.value.message
    assert len(calls) == 1
    assert generation(path) == 1 and len(list(path.parent.iterdir())) == 1


def _with_writes(monkeypatch: pytest.MonkeyPatch, write: Callable[[io.FileIO, Any], int]) -> None:
    """Send the raw writes of atomic_write through ``write``."""
    fdopen = os.fdopen

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            return write(self, data)

    def opened(fd: int, mode: str) -> Any:
        return io.BufferedRandom(Raw(fd, "r+")) if mode == "w+b" else fdopen(fd, mode)

    monkeypatch.setattr(files.os, "fdopen", opened)


def test_short_and_interrupted_writes_lose_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 0

    def short(raw: io.FileIO, data: Any) -> int:
        nonlocal n
        n += 1
        if n % 3 == 0:
            raise InterruptedError(errno.EINTR, "Interrupted system call")
        return io.FileIO.write(raw, memoryview(data)[: max(len(data) // 3, 1)]) or 0

    _with_writes(monkeypatch, short)
    checkpoint.save(path, NEW, {"step": 2})
    assert n > 10 and generation(path) == 2


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_io_error_at_a_write_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    n = 0

    def fail(raw: io.FileIO, data: Any) -> int:
        nonlocal n
        n += 1
        if n >= at:
            raise OSError(errno.EIO, "Input/output error")
        return io.FileIO.write(raw, data) or 0

    _with_writes(monkeypatch, fail)
    with pytest.raises(WriteError, match=r"a\.pt: Input/output error"):
        checkpoint.save(path, NEW, {"step": 2})
    assert generation(path) == 1 and len(list(path.parent.iterdir())) == 1


def test_a_write_that_the_disk_changed_is_found_before_the_rename(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupt(raw: io.FileIO, data: Any) -> int:
        return io.FileIO.write(raw, bytes(data).replace(b"\x80?" * 2, b"\x80>" * 2)) or 0

    _with_writes(monkeypatch, corrupt)
    before = path.read_bytes()
    with pytest.raises(WriteError, match="what was written does not verify") as caught:
        checkpoint.save(path, {"w": torch.ones(4000, dtype=torch.bfloat16)}, {"step": 2})
    assert str(path) in str(caught.value) and path.read_bytes() == before


@pytest.mark.parametrize(("kind", "every"), [(KeyboardInterrupt, 1), (SystemExit, 6), (MemoryError, 7)])
def test_an_exception_at_any_line_of_a_save_leaves_a_whole_checkpoint(
    path: Path, kind: type[BaseException], every: int
) -> None:
    reached: list[tuple[str, int]] = []
    wanted, fired = 0, False

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal fired
        if "/rlox/" not in frame.f_code.co_filename or fired:
            return None
        place = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and place not in reached:
            reached.append(place)
            if len(reached) > wanted:
                fired = True
                raise kind("injected")
        return trace

    outcomes = []
    for wanted in range(0, 1000, every):  # noqa: B007 - the tracer reads it
        checkpoint.save(path, OLD, {"step": 1})
        reached.clear()
        fired = False
        previous = sys.gettrace()
        sys.settrace(trace)
        try:
            checkpoint.save(path, NEW, {"step": 2})
        except BaseException as error:
            raised: BaseException | None = error
        else:
            raised = None
        finally:
            sys.settrace(previous)
        outcomes.append((generation(path), type(raised)))
        if not fired:
            break
    assert len(outcomes) > 150 / every
    assert outcomes[-1] == (2, type(None))
    # Whatever ends well has saved, and whatever saved nothing has raised.
    assert all(error is not type(None) for step, error in outcomes if step == 1)
    assert {error for _, error in outcomes[:-1]} == {kind}
    files.remove_temporaries(path.parent)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.pt"]


class Disk:
    """What survives a power loss: content that was fsynced, names whose folder was fsynced."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str, str]] = []

    def crashes(self, name: str) -> Iterator[bool]:
        """Yield for every point of the log, and each legal state of the disk there, whether ``name`` is whole."""
        for n in range(len(self.log) + 1):
            written: set[str] = set()  # files with bytes that are not on disk
            current = True
            for event, source, target in self.log[:n]:
                if event == "write":
                    written.add(source)
                elif event == "fsync":
                    written.discard(source)
                elif event == "replace" and target == name:
                    current = source not in written
            yield True  # the rename was lost: the old file
            yield current  # the rename reached the disk, with or before the content

    def record(self, monkeypatch: pytest.MonkeyPatch, *, lose_fsync: bool = False) -> None:
        fsync, replace = os.fsync, os.replace

        def where(fd: int) -> str:
            return os.readlink(f"/proc/self/fd/{fd}")

        def logged_fsync(fd: int) -> None:
            if not lose_fsync or os.path.isdir(where(fd)):
                self.log.append(("fsync", where(fd), ""))
            fsync(fd)

        def logged_replace(source: Any, target: Any) -> None:
            self.log.append(("replace", str(source), str(target)))
            replace(source, target)

        def logged_write(raw: io.FileIO, data: Any) -> int:
            self.log.append(("write", where(raw.fileno()), ""))
            return io.FileIO.write(raw, data) or 0

        _with_writes(monkeypatch, logged_write)
        monkeypatch.setattr(files.os, "fsync", logged_fsync)
        monkeypatch.setattr(files.os, "replace", logged_replace)


def test_power_loss_at_any_point_leaves_a_whole_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    disk.record(monkeypatch)
    checkpoint.save(path, NEW, {"step": 2})
    assert [event for event, _, _ in disk.log][-3:] == ["fsync", "replace", "fsync"]
    assert disk.log[-1][1] == str(path.parent)  # after the fsync of the folder the rename is certain
    assert all(disk.crashes(str(path)))


def test_the_model_of_power_loss_fails_without_the_fsync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    disk.record(monkeypatch, lose_fsync=True)
    checkpoint.save(path, NEW, {"step": 2})
    assert not all(disk.crashes(str(path)))


def test_a_folder_device_or_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, words in [("folder", "Is a directory"), ("pipe", "not a file"), ("file/a.pt", "Is a file, not a folder")]:
        with pytest.raises(WriteError, match=words):
            checkpoint.save(tmp_path / name, {}, {})
    with pytest.raises(WriteError, match="not a file"):
        checkpoint.save("/dev/null", {}, {})
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["x" * 300, "ü" * 120, "a\0b"])
def test_long_and_odd_names_are_saved_or_refused_with_the_name(tmp_path: Path, name: str) -> None:
    if len(os.fsencode(name)) < 256 and "\0" not in name:
        assert checkpoint.load(checkpoint.save(tmp_path / name, {"a": 1}, {}))[0] == {"a": 1}
    else:
        with pytest.raises(WriteError, match="cannot write"):
            checkpoint.save(tmp_path / name, {}, {})


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        path = checkpoint.save(tmp_path / "a.pt", {}, {})
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o777 == 0o640


def test_only_temporary_files_of_our_pattern_are_removed(tmp_path: Path) -> None:
    ours, others = (
        ".a.pt.123.0a1b2c3d.tmp",
        ["a.tmp", ".a.tmp", ".a.pt.123.0A1B2C3D.tmp", "a.pt", ".b.12.0a1b2c3d.tmp.x"],
    )
    for name in (ours, *others):
        (tmp_path / name).touch()
    assert files.remove_temporaries(tmp_path) == [tmp_path / ours]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(others)
