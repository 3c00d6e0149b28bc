"""Generations: what is committed comes back, unchanged parts are shared, two are kept and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from committed import commit, commit_all, contents, model_digest, names, newest, put, state_of

from rlox import checkpoint
from rlox.checkpoint.generation import Generation, Generations, folder_of
from rlox.errors import CheckpointError, WriteError


def files_of(*generations: Generation) -> list[str]:
    """What a folder with these generations holds, sorted."""
    found = {"manifest.json"}
    for g in generations:
        found |= {f"generation-{g.number:09d}.json", *(part.file for part in g.parts.values())}
    return sorted(found)


def test_what_was_committed_comes_back(tmp_path: Path) -> None:
    generation = commit(Generations(tmp_path / "resume"), 1, after=None)
    found = Generations(tmp_path / "resume").newest()
    assert found == generation and state_of(found) == 1
    assert found.number == 1 and found.folder == tmp_path / "resume"
    assert found.path("model").read_bytes() == contents(1)["model"]
    assert [(p.name, p.size) for p in found.parts.values()] == [(n, len(d)) for n, d in contents(1).items()]


def test_info_is_whatever_json_gives_back(tmp_path: Path) -> None:
    info = {"step": 5, "why": ["a", None, True, 0.1], "words": 2**127, "deep": {"é\x1b": {"": []}}}
    generation = Generations(tmp_path).commit({**info, "pair": (1, 2)}, {})
    assert generation.info == {**info, "pair": [1, 2]}
    assert Generations(tmp_path).newest() == generation


@pytest.mark.parametrize("info", [{"x": float("nan")}, {"x": {1: 2}}, {"x": np.float32(1)}, {"x": "y" * 5_000_000}])
def test_an_info_that_json_cannot_hold_is_refused_and_nothing_is_left(tmp_path: Path, info: dict[str, object]) -> None:
    with pytest.raises(CheckpointError):
        Generations(tmp_path).commit(info, {"state": put(b"x")})
    assert names(tmp_path) == []


def test_a_folder_without_generations_has_no_newest_one(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        store = Generations(folder)
        assert store.newest() is None and store.find(model_digest(1)) is None
        store.tidy()
    (tmp_path / "file").write_bytes(b"x")
    assert Generations(tmp_path / "file").newest() is None


def test_two_generations_are_kept_and_shared_parts_with_them(tmp_path: Path) -> None:
    store, kept = Generations(tmp_path), []
    for n in range(1, 8):
        kept.append(commit(store, n, after=n - 1 or None))
        assert names(tmp_path) == files_of(*kept[-2:])
        assert newest(tmp_path) == n
    assert kept[-1].number == 7
    assert kept[-1].parts["rows.0001"].file == "rows.0001-000000001"
    assert kept[-1].parts["rows.0000"].file == "rows.0000-000000006"
    assert state_of(kept[-2]) == 6


def test_an_unchanged_part_is_not_written_again(tmp_path: Path) -> None:
    store = commit_all(tmp_path, 1)
    before = (tmp_path / "rows.0001-000000001").stat()
    generation = commit(store, 2, after=1)
    after = generation.path("rows.0001").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len([n for n in names(tmp_path) if n.startswith("rows.0001")]) == 1


def test_a_part_that_is_left_out_is_dropped_from_the_next_generation(tmp_path: Path) -> None:
    store = commit_all(tmp_path, 1)
    second = store.commit({}, {"state": put(b"a")})
    assert list(second.parts) == ["state"]
    store.commit({}, {"state": put(b"b")})
    assert [n for n in names(tmp_path) if n.startswith("rows")] == []


def test_going_on_from_a_found_generation_carries_its_parts_over(tmp_path: Path) -> None:
    commit_all(tmp_path, 1, 2)
    store = Generations(tmp_path)
    assert store.newest() is not None
    assert state_of(commit(store, 3, after=2)) == 3
    other = Generations(tmp_path)
    found = other.find(model_digest(2))
    assert found is not None and state_of(found) == 2
    assert state_of(commit(other, 4, after=2)) == 4
    assert newest(tmp_path) == 4
    # what is kept beside the new one is what it was gone on from, not what came after that
    assert Generations(tmp_path).find(model_digest(3)) is None
    assert Generations(tmp_path).find(model_digest(2)) is not None


def test_an_unknown_folder_is_committed_to_without_losing_its_newest_generation(tmp_path: Path) -> None:
    commit_all(tmp_path, 1, 2, 3)
    generation = commit(Generations(tmp_path), 4, after=None)
    assert generation.number == 4 and newest(tmp_path) == 4
    assert Generations(tmp_path).find(model_digest(3)) is not None
    assert Generations(tmp_path).find(model_digest(2)) is None


def test_a_part_can_only_be_unchanged_where_it_is_known(tmp_path: Path) -> None:
    commit_all(tmp_path, 1)
    before = names(tmp_path)
    with pytest.raises(CheckpointError, match=r"no generation in .* is known"):
        Generations(tmp_path).commit({}, {"rows.0000": None})
    store = Generations(tmp_path)
    store.newest()
    with pytest.raises(CheckpointError, match=r"generation 1 in .* has no part rows\.0007"):
        store.commit({}, {"rows.0007": None})
    assert names(tmp_path) == before


def test_a_part_that_is_gone_or_changed_is_not_carried_over(tmp_path: Path) -> None:
    store = commit_all(tmp_path, 1)
    path = tmp_path / "rows.0001-000000001"
    path.write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"rows\.0001-000000001 has 5 bytes"):
        commit(store, 2, after=1)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"rows\.0001-000000001 is missing"):
        commit(store, 2, after=1)


@pytest.mark.parametrize("name", ["", "Model", "../model", "rows/1", "rows.", "rows.x", "a" * 40, "rows.0123456789", "a-b"])
def test_names_of_parts_are_letters_and_a_number(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="must be like"):
        Generations(tmp_path).commit({}, {name: put(b"x")})
    assert names(tmp_path) == []


def test_parts_of_any_size_are_read_into_memory_of_that_size(tmp_path: Path) -> None:
    data = {"empty": b"", "one": b"x", "large": np.arange(400_001, dtype=np.float64).tobytes()}
    generation = Generations(tmp_path).commit({}, {name: put(d) for name, d in data.items()})
    for name, expected in data.items():
        out = np.empty(len(expected), np.uint8)
        generation.read_into(name, out)
        assert out.tobytes() == expected
    rows = np.empty((400_001, 1), np.float64)
    generation.read_into("large", memoryview(rows))
    assert rows[-1, 0] == 400_000


def test_reading_into_memory_of_another_size_is_refused(tmp_path: Path) -> None:
    generation = commit(Generations(tmp_path), 1, after=None)
    with pytest.raises(CheckpointError, match="has 480 bytes, 479 are expected"):
        generation.read_into("model", bytearray(479))
    with pytest.raises(CheckpointError, match=r"has no part rows\.0009"):
        generation.read_into("rows.0009", bytearray(1))
    with pytest.raises(CheckpointError, match="has no part"):
        generation.path("../../etc/passwd")


def test_damage_after_the_check_is_found_by_reading(tmp_path: Path) -> None:
    generation = commit(Generations(tmp_path), 1, after=None)
    path = generation.path("state")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match="state-000000001 is damaged"):
        generation.read_into("state", bytearray(generation.parts["state"].size))


def test_a_model_is_a_checkpoint_and_finds_its_generation(tmp_path: Path) -> None:
    store = Generations(tmp_path / "resume")
    for step in (1, 2, 3):
        write = checkpoint.writer({"w": torch.full((3,), float(step))}, {"step": step})
        generation = store.commit({"step": step}, {"model": write, "state": put(b"x")})
    path = generation.path("model")
    assert checkpoint.load(path)[0]["w"].tolist() == [3.0] * 3
    assert checkpoint.file_digest(path) == checkpoint.verify(path)["digest"] == generation.info["model_digest"]
    assert Generations(tmp_path / "resume").find(checkpoint.file_digest(path)) == generation
    other = checkpoint.save(tmp_path / "other.pt", {"w": torch.zeros(3)}, {})
    assert store.find(checkpoint.file_digest(other)) is None


def test_a_writer_writes_what_save_writes(tmp_path: Path) -> None:
    state, manifest = {"w": torch.arange(5)}, {"step": 3}
    saved = checkpoint.save(tmp_path / "a.pt", state, manifest)
    generation = Generations(tmp_path / "resume").commit({}, {"model": checkpoint.writer(state, manifest)})
    assert generation.path("model").read_bytes() == saved.read_bytes()


def test_a_state_that_cannot_be_saved_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    store = commit_all(tmp_path, 1)
    before = names(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot save .*model-000000002: state\['w'\] is a object"):
        store.commit({}, {"state": put(b"x"), "model": checkpoint.writer({"w": object()}, {})})
    assert names(tmp_path) == before and newest(tmp_path) == 1
    with pytest.raises(CheckpointError, match="JSON cannot hold it"):
        checkpoint.writer({}, {"x": object()})


def test_the_digest_of_a_file_is_of_checkpoints_only(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x" * 100)
    with pytest.raises(CheckpointError, match="text"):
        checkpoint.file_digest(tmp_path / "text")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.file_digest(tmp_path / "missing.pt")
    assert caught.value.exit_code == 3


def test_the_next_start_deletes_what_a_killed_commit_left(tmp_path: Path) -> None:
    commit_all(tmp_path, 1, 2, 3)
    whole = names(tmp_path)
    left = ["model-000000004", "generation-000000004.json", "rows.0000-000000001", ".manifest.json.12.0a1b2c3d.tmp"]
    others = ["notes.txt", "model", "model-4", "generation-1.json", "Model-000000004", ".x.tmp"]
    for name in (*left, *others):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "state-000000009").symlink_to(tmp_path / "notes.txt")
    Generations(tmp_path).tidy()
    assert names(tmp_path) == sorted([*whole, *others])
    assert newest(tmp_path) == 3 and (tmp_path / "notes.txt").read_bytes() == b"x"


def test_tidying_keeps_both_generations_and_the_one_in_use(tmp_path: Path) -> None:
    commit_all(tmp_path, 1, 2)
    store = Generations(tmp_path)
    store.newest()
    commit_all(tmp_path, 3, 4)
    (tmp_path / "model-000000002").write_bytes(contents(2)["model"])
    store.tidy()
    assert (tmp_path / "model-000000002").exists() and newest(tmp_path) == 4
    Generations(tmp_path).tidy()
    assert not (tmp_path / "model-000000002").exists() and newest(tmp_path) == 4


def test_tidying_a_folder_whose_first_commit_was_killed_empties_it(tmp_path: Path) -> None:
    for name in ("model-000000001", "state-000000001", "generation-000000001.json"):
        (tmp_path / name).write_bytes(b"x")
    assert newest(tmp_path) is None
    Generations(tmp_path).tidy()
    assert names(tmp_path) == []


def test_tidying_leaves_a_folder_alone_that_cannot_be_read(tmp_path: Path) -> None:
    commit_all(tmp_path, 1, 2)
    for path in tmp_path.glob("*.json"):
        path.write_bytes(b"{}")
    before = names(tmp_path)
    Generations(tmp_path).tidy()
    assert names(tmp_path) == before


def test_a_first_generation_that_was_written_but_not_yet_named_is_used(tmp_path: Path) -> None:
    commit_all(tmp_path, 1)
    (tmp_path / "manifest.json").unlink()
    Generations(tmp_path).tidy()
    assert newest(tmp_path) == 1


def test_files_have_the_permissions_that_new_files_have(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        commit_all(tmp_path / "resume", 1)
    finally:
        os.umask(previous)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "resume").iterdir()} == {0o640}


def test_a_file_that_is_in_the_way_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = commit_all(tmp_path, 1)
    (tmp_path / "state-000000002").write_bytes(b"of another process")
    monkeypatch.setattr(store, "_numbers", lambda: iter([1]))  # it came after the look at the folder
    with pytest.raises(WriteError, match="state-000000002: File exists"):
        commit(store, 2, after=1)
    assert (tmp_path / "state-000000002").read_bytes() == b"of another process"
    assert newest(tmp_path) == 1


def test_the_folder_of_a_file_is_the_runs_or_one_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs" / "a"
    (run / "checkpoints").mkdir(parents=True)
    assert folder_of(run / "checkpoints" / "last.pt") == run / "checkpoints" / "last.resume"
    (run / "run.lock").touch()
    assert folder_of(run / "checkpoints" / "last.pt") == folder_of(run / "checkpoints" / "step_1.pt") == run / "resume"
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    monkeypatch.chdir(tmp_path)
    assert folder_of("checkpoints/best.pt") == run / "resume"
    (run / "run.lock").rename(run / "meta.json")
    monkeypatch.chdir(run / "checkpoints")
    assert folder_of("last.pt") == run / "resume"
    monkeypatch.chdir(tmp_path)
    assert folder_of("model.v1.pt") == Path("model.v1.resume")
    assert folder_of("model") == Path("model.resume") and folder_of("a.resume") == Path("a.resume.resume")
    assert folder_of(run / "last.pt") == run / "last.resume"


def test_importing_generations_imports_no_torch() -> None:
    code = "import sys, rlox.checkpoint.generation; print(any(m in sys.modules for m in ('torch', 'h5py')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr
