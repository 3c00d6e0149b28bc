"""Which checkpoints of a run are deleted, and which never are."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from rlox.errors import NotFoundError, WriteError
from rlox.runs.pruning import plan_pruning, prune


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints at 100, 200, … 1000, a resume generation, and other files."""
    run = tmp_path / "run"
    for folder in ("checkpoints", "resume"):
        (run / folder).mkdir(parents=True)
    for name in ("run.lock", "meta.json", "resume/manifest.json", "checkpoints/best.pt", "checkpoints/notes.txt"):
        (run / name).write_bytes(b"1234 2026\n")
    for step in range(100, 1001, 100):
        (run / "checkpoints" / f"step_{step:09d}.pt").write_bytes(bytes(step))
    os.link(run / "checkpoints" / "step_000001000.pt", run / "checkpoints" / "last.pt")
    os.link(run / "checkpoints" / "step_000000100.pt", run / "resume" / "model-000000001.pt")
    return run


def steps(files: object) -> list[int]:
    return [file.step for file in files]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("keep", "deleted"),
    [
        ({}, [100, 200, 300, 400, 500, 600, 700]),
        ({"keep_last": 1}, [100, 200, 300, 400, 500, 600, 700, 800, 900]),
        ({"keep_last": 0}, [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]),
        ({"keep_last": 10}, []),
        ({"keep_last": 100}, []),
        ({"keep_last": 2, "keep_every": 300}, [100, 200, 400, 500, 700, 800]),
    ],
)
def test_the_newest_and_the_periodic_ones_are_kept(run: Path, keep: dict[str, int], deleted: list[int]) -> None:
    assert steps(plan_pruning(run, **keep).deleted) == deleted


def test_only_the_planned_step_files_are_deleted(run: Path) -> None:
    before = {path for path in run.rglob("*") if path.is_file()}
    pruning = plan_pruning(run, keep_last=0)
    assert {path for path in run.rglob("*") if path.is_file()} == before
    prune(pruning)
    gone = before - {path for path in run.rglob("*") if path.is_file()}
    assert gone == {file.path for file in pruning.files} and len(gone) == 10
    assert (run / "checkpoints" / "last.pt").stat().st_size == 1000
    assert (run / "resume" / "model-000000001.pt").stat().st_size == 100


def test_a_name_among_several_of_a_file_frees_nothing(run: Path) -> None:
    assert plan_pruning(run, keep_last=0).bytes == sum(range(200, 1000, 100))


def test_steps_are_compared_as_numbers(tmp_path: Path) -> None:
    for step in (9, 10, 1_000_000_000, 2_000_000_000):
        (tmp_path / f"step_{step}.pt").touch()
    assert steps(plan_pruning(tmp_path, keep_last=2).deleted) == [9, 10]


def test_what_best_or_last_link_to_is_kept(run: Path) -> None:
    folder = run / "checkpoints"
    (folder / "best.pt").unlink()
    (folder / "best.pt").symlink_to("step_000000300.pt")
    assert 300 not in steps(plan_pruning(run, keep_last=0).deleted)


def test_links_and_folders_of_that_name_are_left_alone(run: Path) -> None:
    (run / "elsewhere.pt").write_bytes(b"x")
    (run / "checkpoints" / "step_000000001.pt").symlink_to(run / "elsewhere.pt")
    (run / "checkpoints" / "step_000000002.pt").mkdir()
    assert steps(plan_pruning(run, keep_last=0).files)[0] == 100


def test_the_checkpoints_and_a_link_to_them_name_the_run_too(run: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    for folder in (run / "checkpoints", tmp_path / "checkpoints"):
        pruning = plan_pruning(folder)
        assert pruning.run == run and len(pruning.deleted) == 7


def test_a_run_in_use_is_left_alone(run: Path) -> None:
    pruning = plan_pruning(run)
    with open(run / "run.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(WriteError, match="is locked by pid 1234 since 2026"):
            prune(pruning)
    assert all(file.path.exists() for file in pruning.files)
    prune(pruning)
    assert not any(file.path.exists() for file in pruning.deleted)


def test_a_file_that_cannot_be_deleted_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruning = plan_pruning(run)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(WriteError, match=r"cannot delete .*step_000000100\.pt: Permission denied"):
        prune(pruning)


@pytest.mark.parametrize("name", ["absent", "file", "empty", "a\0b", "x" * 300])
def test_a_folder_that_is_no_run_is_not_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError) as caught:
        plan_pruning(f"{tmp_path}/{name}")
    assert caught.value.exit_code == 3 and caught.value.message.isprintable()
