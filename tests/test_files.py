"""Writing so that there is always a whole file, and small helpers for sizes and names."""

from __future__ import annotations

import os
import stat

import pytest

from rlox import files
from rlox.errors import WriteError
from rlox.files import (
    atomic_write,
    atomic_write_text,
    available_memory,
    human_bytes,
    make_parents,
    remove_temporaries,
    shortest,
    slug,
    write_error,
)


def put(content: bytes):
    return lambda file: file.write(content)


def test_atomic_write_creates_parents_and_returns_the_path(tmp_path):
    path = atomic_write(tmp_path / "a" / "b" / "x.bin", put(b"new"))
    assert path == tmp_path / "a" / "b" / "x.bin"
    assert path.read_bytes() == b"new"


def test_atomic_write_replaces_the_old_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    atomic_write(target, put(b"new"))
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_the_old_file_is_whole_until_the_new_one_is_complete(tmp_path):
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        file.flush()
        assert target.read_bytes() == b"old"

    atomic_write(target, write)
    assert target.read_bytes() == b"half"


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt()])
def test_any_exception_keeps_the_old_file_and_removes_the_temporary_one(tmp_path, error):
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        atomic_write(target, write)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_a_full_disk_is_a_write_error_with_the_systems_reason_and_the_sizes(tmp_path):
    def write(file):
        file.write(b"x" * 1500)
        file.flush()
        raise OSError(28, "No space left on device")

    with pytest.raises(WriteError, match=r"No space left on device \(1\.5 kB written, .* free\)") as caught:
        atomic_write(tmp_path / "x.bin", write)
    assert caught.value.value == str(tmp_path / "x.bin")
    assert os.listdir(tmp_path) == []


def test_a_failing_fsync_gives_the_file_up_and_keeps_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")

    def fail(fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(WriteError, match="Input/output error"):
        atomic_write(target, put(b"new"))
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_the_file_is_synced_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    is_folder = stat.S_ISDIR

    def watched_fsync(fd):
        order.append("folder" if is_folder(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    monkeypatch.setattr(files.os, "fsync", watched_fsync)
    monkeypatch.setattr(files.os, "replace", lambda a, b: (order.append("rename"), replace(a, b)))
    atomic_write(tmp_path / "x.bin", put(b"new"))
    assert order == ["file", "rename", "folder"]


@pytest.mark.parametrize("name", ["n" * 300, "null\0byte", "."])
def test_a_name_that_the_system_refuses_is_a_write_error(tmp_path, name):
    with pytest.raises(WriteError):
        atomic_write(tmp_path / name, put(b"new"))
    assert os.listdir(tmp_path) == []


def test_a_folder_or_a_pipe_in_the_way_is_a_write_error(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WriteError, match="Is a directory"):
        atomic_write(tmp_path / "folder", put(b"new"))
    with pytest.raises(WriteError, match="not a file"):
        atomic_write(tmp_path / "pipe", put(b"new"))
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_a_file_where_a_folder_is_needed_is_a_write_error_naming_the_path(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="file/below"):
        make_parents(tmp_path / "file" / "below" / "x.bin")


def test_long_and_odd_names_are_written(tmp_path):
    for name in ("é" * 120, "with space.pt", "line\nbreak", "a" * 250):
        assert atomic_write(tmp_path / name, put(b"1")).read_bytes() == b"1"


def test_write_error_shows_a_foreign_path_on_one_line():
    assert "\n" not in str(write_error("a\nb", OSError(13, "Permission denied")))


def test_text_is_written_as_utf8(tmp_path):
    assert atomic_write_text(tmp_path / "x.txt", "é漢\n").read_bytes() == "é漢\n".encode()


def test_remove_temporaries_takes_only_what_a_killed_write_left(tmp_path):
    left = tmp_path / ".x.pt.123.0a1b2c3d.tmp"
    kept = [tmp_path / ".x.pt.tmp", tmp_path / "x.123.0a1b2c3d.tmp", tmp_path / "x.pt"]
    for path in (left, *kept):
        path.write_bytes(b"x")
    link = tmp_path / ".y.1.0a1b2c3d.tmp"
    link.symlink_to(kept[-1])
    assert remove_temporaries(tmp_path) == [left]
    assert sorted(tmp_path.iterdir()) == sorted([*kept, link])


def test_what_atomic_write_leaves_behind_has_the_name_that_is_removed(tmp_path):
    seen = []
    atomic_write(tmp_path / "x.pt", lambda file: seen.extend(p.name for p in tmp_path.iterdir()))
    (tmp_path / seen[0]).write_bytes(b"as if killed")
    assert [p.name for p in remove_temporaries(tmp_path)] == seen


def test_available_memory_is_below_the_machines(tmp_path):
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory() <= total


def test_file_pages_of_a_control_group_count_as_free(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    assert files._group_memory(tmp_path) == 100
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 500\n")
    assert files._group_memory(tmp_path) == 600
    (tmp_path / "memory.current").write_text("2000\n")
    assert files._group_memory(tmp_path) == 0


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (166_000_000, "166.0 MB"), (2e9, "2.0 GB"), (3.5e12, "3.5 TB")]
)
def test_human_bytes_counts_in_thousands(n, text):
    assert human_bytes(n) == text


@pytest.mark.parametrize(
    ("text", "part"),
    [("Pendulum-v1", "Pendulum-v1"), ("a/b c:d", "a-b-c-d"), ("..", "x"), ("", "x"), ("é", "x"), ("a" * 100, "a" * 64)],
)
def test_slug_is_one_safe_part_of_a_path(text, part):
    assert slug(text) == part


def test_a_path_outside_the_working_folder_is_shown_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shortest(tmp_path / "a" / "b") == "a/b"
    assert shortest("/usr/lib") == "/usr/lib"
