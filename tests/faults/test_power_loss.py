"""A power loss at any instant leaves a whole generation and a whole model, and no fsync can be spared."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from committed import commit, contents, model_digest, newest, publish, state_of
from power_loss import Recording, Replayed, Tree, subsets

from rlox.checkpoint import listing
from rlox.checkpoint.generation import Generation, Generations
from rlox.errors import RloxError

COMMITS = 3
EVERY = 2**14  # more states than there are


def record(root: Path, *, links: bool = True) -> Recording:
    """Record commits into ``run/resume``, each followed by the names of its model in ``run/checkpoints``."""
    root.mkdir()
    recording = Recording(root)
    run = root / "runs" / "a"
    store, after = Generations(run / "resume"), None
    with recording.watch(), pytest.MonkeyPatch.context() as patch:
        if not links:
            patch.setattr(os, "link", no_links)
        for n in range(1, COMMITS + 1):
            recording.note("committing", n)
            generation = commit(store, n, after=after)
            recording.note("committed", n)
            publish(generation, run, lambda name: recording.note(name, n))  # noqa: B023
            after = n
    return recording


def no_links(*args: Any, **options: Any) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


class Judge:
    """Says what a reader makes of a state of the disk; equal states are read once."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.replayed = Replayed(root)
        self.run = root / "runs" / "a"
        self.known: dict[Any, tuple[Any, ...]] = {}

    def read(self, tree: Tree) -> tuple[int, int, tuple[int, ...], str]:
        """Return the newest whole generation, the model in ``last.pt`` (0: none), those in files of their own, and what is wrong."""
        key = frozenset(tree.items())
        if key not in self.known:
            self.replayed.put(tree)
            self.known[key] = self._read()
        return self.known[key]  # type: ignore[return-value]

    def _read(self) -> tuple[int, int, tuple[int, ...], str]:
        try:
            found = newest(self.run / "resume") or 0
        except (RuntimeWarning, RloxError) as error:
            return 0, 0, (), f"damage is reported: {error}"
        wrong = ""
        try:
            if found:
                self._check_two_kept()
        except (RuntimeWarning, RloxError, AssertionError) as error:
            wrong = f"beside state {found}: {error}"
        models = {contents(n)["model"]: n for n in range(1, 10)}
        checkpoints = sorted((self.run / "checkpoints").glob("*.pt"))
        named = {path.name: models.get(path.read_bytes(), 0) for path in checkpoints}
        wrong = wrong or next((f"{name} is torn" for name, n in named.items() if n == 0), "")
        return found, named.pop("last.pt", 0), tuple(named.values()), wrong


    def _check_two_kept(self) -> None:
        """Check that the newest generation has its own list, and that the one before it is whole."""
        folder = self.run / "resume"
        kept = list(Generations(folder)._candidates([]))[:2]
        listed = listing.read(folder / f"generation-{kept[0].number:09d}.json")
        assert Generation(folder, *listed) == kept[0]
        assert len(kept) == min(kept[0].number, 2), "the one before is gone"
        for generation in kept:
            found = Generations(folder).find(model_digest(generation.info["n"]))
            assert found == generation and state_of(found)


def violations(recording: Recording, judge: Judge, *, without: int | None = None, start: int = 0, limit: int = 64) -> Iterator[str]:
    """Yield every broken promise in every state that a power loss may leave."""
    told = {"committing": 0, "committed": 0, "last": 0, "step": 0}
    for n, step in enumerate([("note", "start", 0), *recording.steps]):
        if step[0] == "note":
            told[step[1]] = step[2]
        if n < start or (without is not None and n <= without):
            continue  # as in the recording that this one goes on with
        for tree in recording.states(n, without=without, limit=limit):
            found, last, own, wrong = judge.read(tree)
            if wrong:
                yield f"step {n}: {wrong}"
            if not told["committed"] <= found <= told["committing"]:
                yield f"step {n}: generation {found} is found, told was {told}"
            if not told["last"] <= last <= told["committed"] or not set(range(1, told["step"] + 1)) <= {*own}:
                yield f"step {n}: last.pt is model {last}, others are {own}, told was {told}"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record(tmp_path_factory.mktemp("recorded") / "root")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return Judge(tmp_path_factory.mktemp("replayed") / "root")


def test_a_power_loss_at_any_instant_leaves_a_whole_generation(recording: Recording, judge: Judge) -> None:
    assert list(violations(recording, judge, limit=EVERY)) == []
    found = {outcome[:3] for outcome in judge.known.values()}
    assert found >= {(0, 0, ()), (1, 0, ()), (1, 1, ()), (2, 1, (1,)), (2, 2, (1, 2)), (3, 3, (1, 2, 3))} and len(judge.known) > 300


def test_copies_where_links_are_not_possible_survive_as_well(tmp_path: Path, judge: Judge) -> None:
    recording = record(tmp_path / "root", links=False)
    assert not any(step[0] == "link" for step in recording.steps)
    assert list(violations(recording, judge, limit=EVERY)) == []


def go_on(recording: Recording, killed_after: int, root: Path, *, tidy: bool = True) -> Recording:
    """Record a second process that goes on where the first was killed, and saves twice."""
    first = recording.steps[:killed_after]
    root.mkdir()
    second = Recording(root)
    second.steps = list(first)
    Replayed(root).put(second.live())
    told = {step[1]: step[2] for step in first if step[0] == "note"}
    store = Generations(root / "runs" / "a" / "resume")
    with second.watch():
        if tidy:
            store.tidy()
        found = store.newest()
        after = None if found is None else state_of(found)
        for n in (told["committing"] + 1, told["committing"] + 2):
            second.note("committing", n)
            generation = commit(store, n, after=after)
            second.note("committed", n)
            publish(generation, root / "runs" / "a", lambda name: second.note(name, n) if name == "last" else None)  # noqa: B023
            after = n
    return second


def check_going_on(recording: Recording, killed_after: int, folder: Path, judge: Judge, limit: int) -> None:
    second = go_on(recording, killed_after, folder / f"root{killed_after}")
    assert list(violations(second, judge, start=killed_after, limit=limit)) == []


def commits(recording: Recording) -> list[int]:
    """Return the places just after the renames that are the commits."""
    return [i for i, step in enumerate(recording.steps, 1) if step[0] == "replace" and step[2].endswith("manifest.json")]


def test_a_power_loss_after_a_kill_and_a_restart_leaves_a_whole_generation(
    recording: Recording, judge: Judge, tmp_path: Path
) -> None:
    first, _, last = commits(recording)
    for killed_after in (first - 6, first - 4, first, last, last + 4):
        check_going_on(recording, killed_after, tmp_path, judge, limit=2)


@pytest.mark.slow
def test_every_power_loss_after_every_kill_and_a_restart_leaves_a_whole_generation(
    recording: Recording, judge: Judge, tmp_path: Path
) -> None:
    for killed_after in range(1, len(recording.steps)):
        check_going_on(recording, killed_after, tmp_path, judge, limit=64)


AGAIN = "runs, again"  # in case that whoever made it was killed; see the test after the next

# Every fsync of the workload in order; the last part of a path is enough to tell what it is.
FSYNCS = [
    ".", "runs", "runs/a",  # the entries of the folders that are made
    "model-000000001", "state-000000001", "rows.0000-000000001", "rows.0001-000000001", "generation-000000001.json",
    "resume", "manifest.json", "resume",
    AGAIN, "runs/a", "checkpoints", "checkpoints",
    "model-000000002", "state-000000002", "rows.0000-000000002", "generation-000000002.json",
    "resume", "manifest.json", "resume",
    "checkpoints", "checkpoints",
    "model-000000003", "state-000000003", "generation-000000003.json",
    "resume", "manifest.json", "resume",
    "checkpoints", "checkpoints",
]  # fmt: skip


def test_the_fsyncs_are_those_that_the_next_test_removes(recording: Recording) -> None:
    paths = [path for _, path in recording.fsyncs()]
    assert len(paths) == len(FSYNCS)
    for path, name in zip(paths, FSYNCS, strict=True):
        assert path == name.removesuffix(", again") or os.path.basename(path) == name or f".{name}." in path


@pytest.mark.parametrize("i", [i for i, name in enumerate(FSYNCS) if name != AGAIN], ids=lambda i: f"{i}-{FSYNCS[i]}")
def test_the_model_finds_a_loss_when_one_fsync_is_removed(recording: Recording, judge: Judge, i: int) -> None:
    place, _ = recording.fsyncs()[i]
    assert next(violations(recording, judge, without=place), None) is not None


@pytest.mark.parametrize(("made", "synced"), [(["runs"], "."), (["runs", "runs/a"], "runs"), (["runs", "runs/a", "runs/a/resume"], "runs/a")])
def test_the_names_of_folders_that_a_killed_process_made_are_synced_by_the_next(
    recording: Recording, judge: Judge, tmp_path: Path, made: list[str], synced: str
) -> None:
    killed_after = next(i for i, step in enumerate(recording.steps) if step == ("mkdir", made[-1])) + 1
    second = go_on(recording, killed_after, tmp_path / "root")
    assert list(violations(second, judge, start=killed_after, limit=4)) == []
    place = next(i for i, path in second.fsyncs() if path == synced and i >= killed_after)
    assert next(violations(second, judge, start=killed_after, without=place, limit=4), None) is not None


@pytest.mark.parametrize(("n", "tidy"), [(0, False), (2, True)])
def test_a_rename_that_a_killed_process_did_not_sync_is_synced_by_the_next(
    recording: Recording, judge: Judge, tmp_path: Path, n: int, tidy: bool
) -> None:
    killed_after = commits(recording)[n]
    second = go_on(recording, killed_after, tmp_path / "root", tidy=tidy)
    assert list(violations(second, judge, start=killed_after, limit=4)) == []
    place = next(i for i, path in second.fsyncs() if path == "runs/a/resume" and i >= killed_after)
    assert next(violations(second, judge, start=killed_after, without=place, limit=64), None) is not None


@cache
def choices(k: int) -> set[tuple[bool, ...]]:
    return {tuple(s) for s in subsets(k, 2**k, 0)}


def test_all_sets_of_changes_are_tried_where_they_are_few() -> None:
    assert choices(0) == {()} and len(choices(3)) == 8
    sampled = [tuple(s) for s in subsets(12, 64, 0)]
    assert {(True,) * 12, (False,) * 12} <= set(sampled) and 64 < len(sampled) < 200


def test_the_model_loses_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    recording = Recording(tmp_path / "root")
    with recording.watch():
        fd = os.open(tmp_path / "root" / "a", os.O_CREAT | os.O_EXCL | os.O_RDWR)
        with os.fdopen(fd, "w+b") as file:
            file.write(b"1234")
    every = [{}, {"a": b""}, {"a": b"12"}, {"a": b"1234"}, {"a": b"\0\0\0\0"}]
    found = list(recording.states(2))
    assert all(tree in found for tree in every) and len(found) == len(every)
    with recording.watch():
        fd = os.open(tmp_path / "root" / "a", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        assert list(recording.states(3)) == [{}, {"a": b"1234"}]
        fd = os.open(tmp_path / "root", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        assert list(recording.states(4)) == [{"a": b"1234"}]
        os.replace(tmp_path / "root" / "a", tmp_path / "root" / "b")
        assert list(recording.states(5)) == [{"a": b"1234"}, {"b": b"1234"}]
        os.link(tmp_path / "root" / "b", tmp_path / "root" / "c")
        os.unlink(tmp_path / "root" / "b")
    assert {"a": b"1234", "c": b"1234"} in recording.states(7)
    assert {} in recording.states(7)  # the removal is on disk and the link is not
