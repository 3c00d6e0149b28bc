"""An exception at any line of a commit leaves the old generation or the new one, and the same object can go on saving."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import committed
import pytest
from committed import commit, commit_all, names, newest, publish

import rlox
from rlox.checkpoint.generation import Generations

PACKAGE = os.path.dirname(rlox.__file__) + os.sep


class Injector:
    """Raises at the k-th line of the package that runs; ``once``: at the k-th that has not run before."""

    def __init__(self, kind: type[BaseException], k: int, *, event: str = "line", once: bool = True) -> None:
        self.kind, self.left, self.event, self.once = kind, k, event, once
        self.fired: str | None = None
        self._seen: set[tuple[CodeType, int]] = set()

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if self.fired is not None or not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = self.event == "opcode"
        place = (frame.f_code, frame.f_lasti if event == "opcode" else frame.f_lineno)
        if event == self.event and not (self.once and place in self._seen):
            self._seen.add(place)
            self.left -= 1
            if self.left < 0:
                self.fired = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                raise self.kind("injected")
        return self._trace

    @contextmanager
    def running(self) -> Iterator[None]:
        previous = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(previous)


def interrupt_everywhere(folder: Path, make: Callable[[int], Injector], step: int = 1) -> Counter[tuple[str, bool]]:
    """Interrupt one save after the other, each at a later place; count what was found after it, and whether it raised."""
    run = folder / "run"
    store, outcomes, n = commit_all(run / "resume", 1), Counter[tuple[str, bool]](), 1
    for k in range(0, 10**6, step):
        injector, after, raised = make(k), n, None
        try:
            with injector.running():
                generation = commit(store, n + 1, after=n)
                after = n + 1  # whoever saves takes note only now
                publish(generation, run)
        except BaseException as error:
            raised = error
        assert (raised is None) == (injector.fired is None) and (raised is None or type(raised) is injector.kind), injector.fired
        found = newest(run / "resume")
        assert found in (after, n + 1), injector.fired
        outcomes["new" if found == n + 1 else "old", raised is not None] += 1
        commit(store, n + 2, after=after)
        n += 2
        assert newest(run / "resume") == n, injector.fired
        if injector.fired is None:
            break
    store.tidy()
    kept = list(Generations(run / "resume")._candidates([]))
    assert len(kept) == 2 and len(names(run / "resume")) == 3 + len({p.file for g in kept for p in g.parts.values()})
    return outcomes


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.mark.parametrize(("kind", "step"), [(KeyboardInterrupt, 1), (SystemExit, 5), (MemoryError, 4)])
def test_an_exception_at_any_line_of_a_save_leaves_the_old_or_the_new_generation(
    tmp_path: Path, kind: type[BaseException], step: int
) -> None:
    outcomes = interrupt_everywhere(tmp_path, lambda k: Injector(kind, k), step)
    assert outcomes["new", False] == 1 and outcomes["old", False] == 0
    assert outcomes["old", True] > 120 / step and outcomes["new", True] > 20 / step


def test_an_exception_while_a_checkpoint_is_written_leaves_the_old_or_the_new_generation(
    tmp_path: Path, checkpoints: None
) -> None:
    outcomes = interrupt_everywhere(tmp_path, lambda k: Injector(KeyboardInterrupt, k), 11)
    assert outcomes["new", False] == 1 and outcomes["old", True] > 30


# Between the instruction that opens a file and the one that will close it nothing can close it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.slow
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize(("event", "once", "step"), [("opcode", True, 1), ("line", False, 13)])
def test_an_exception_at_any_instruction_of_a_save_leaves_the_old_or_the_new_generation(
    tmp_path: Path, kind: type[BaseException], event: str, once: bool, step: int
) -> None:
    outcomes = interrupt_everywhere(tmp_path, lambda k: Injector(kind, k, event=event, once=once), step)
    assert outcomes["new", False] == 1 and outcomes["old", True] > 200


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the models and the states be real checkpoints."""
    from killed_commit import use_checkpoints

    monkeypatch.setattr(committed, "contents", committed.contents)
    monkeypatch.setattr(committed, "put", committed.put)
    use_checkpoints()
