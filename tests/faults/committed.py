"""Generations of known contents, for the tests of what interrupts a commit and what damages one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO

from rlox.checkpoint.generation import Generation, Generations
from rlox.files import link_atomically


def put(data: bytes) -> Callable[[IO[bytes]], object]:
    """Return a writer of these bytes."""
    return lambda file: file.write(data)


def contents(n: int) -> dict[str, bytes]:
    """Return the parts of the n-th state: two that always change, one that changes every other time, one that never does."""
    return {
        "model": f"model {n} ".encode() * 60,
        "state": f"state {n} ".encode() * 30,
        "rows.0000": f"rows {n // 2} ".encode() * 90,
        "rows.0001": b"rows that stay " * 20,
    }


def commit(store: Generations, n: int, *, after: int | None) -> Generation:
    """Commit the n-th state; parts that are as in state ``after``, the last that the store knows, are carried over."""
    old = {} if after is None else contents(after)
    parts = {name: None if old.get(name) == data else put(data) for name, data in contents(n).items()}
    return store.commit({"n": n, "step": 100 * n}, parts)


def commit_all(folder: Path, *numbers: int) -> Generations:
    """Commit states one after the other into a folder."""
    store, after = Generations(folder), None
    for n in numbers:
        commit(store, n, after=after)
        after = n
    return store


def publish(generation: Generation, run: Path, told: Callable[[str], object] = lambda name: None) -> None:
    """Give the model of a generation its public names, as a callback does; ``told`` hears of each."""
    last = run / "checkpoints" / "last.pt"
    link_atomically(generation.path("model"), last)
    told("last")
    link_atomically(last, run / "checkpoints" / f"step_{generation.info['n']:09d}.pt")
    told("step")


def state_of(generation: Generation) -> int:
    """Return which state a generation holds, after a look at every byte of it."""
    n = generation.info["n"]
    expected = contents(n)
    assert generation.info["step"] == 100 * n and generation.parts.keys() == expected.keys()
    for name, data in expected.items():
        found = bytearray(len(data))
        generation.read_into(name, found)
        assert bytes(found) == data, f"state {n} has other {name}"
    return int(n)


def newest(folder: Path) -> int | None:
    """Return the newest whole state of a folder, with no warning; None where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generation = Generations(folder).newest()
    return None if generation is None else state_of(generation)


def newest_despite(folder: Path) -> tuple[int | None, list[str]]:
    """Return the newest whole state, and the texts of the RuntimeWarnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        generation = Generations(folder).newest()
    assert all(w.category is RuntimeWarning for w in caught)
    return None if generation is None else state_of(generation), [str(w.message) for w in caught]


def model_digest(n: int) -> str:
    """Return what ``find`` knows the n-th state by."""
    return contents(n)["model"][-32:].hex()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())
