"""A model of what a power loss leaves of files: every state of the disk that POSIX allows, and no kinder.

Content that was not fsynced may be there, be missing, be cut or be zeros. Entries of a folder that was not fsynced since
(files made, renamed, linked, removed, folders made) may each be there or not, whatever the order in which they were made;
one rename within a folder happens whole or not at all. To fsync a file says nothing about its name.
(After Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.)
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from watched_disk import Step, watched

Tree = dict[str, bytes | None]  # by path below the root; None is a folder


@dataclass
class File:
    """Content: what is on disk for certain, and the steps since."""

    durable: bytes = b""
    pending: list[Step] = field(default_factory=list)

    def contents(self) -> list[bytes]:
        """Return what may be found after a power loss."""
        if not self.pending:
            return [self.durable]
        whole = applied(self.durable, self.pending)
        zeros = self.durable.ljust(len(whole), b"\0")[: len(whole)]
        cut = whole[: (len(self.durable) + len(whole)) // 2]
        return list(dict.fromkeys([whole, self.durable, zeros, cut]))


@dataclass
class Folder:
    """Entries: what is on disk for certain, and the changes since, each a mapping of names."""

    durable: dict[str, Any] = field(default_factory=dict)
    pending: list[dict[str, Any]] = field(default_factory=list)


def applied(content: bytes, steps: Sequence[Step]) -> bytes:
    data = bytearray(content)
    for step in steps:
        if step[0] == "truncate":
            del data[step[2] :]
            data.extend(bytes(step[2] - len(data)))
        else:
            data.extend(bytes(max(step[2] - len(data), 0)))
            data[step[2] : step[2] + len(step[3])] = step[3]
    return bytes(data)


class Recording:
    """The steps that a process took below a root folder, which must be empty at first, and notes in between."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[Step] = []

    def watch(self) -> Any:
        return watched(after=self._add)

    def note(self, *words: Any) -> None:
        self.steps.append(("note", *words))

    def fsyncs(self) -> list[tuple[int, str]]:
        """Return place and path of every fsync."""
        return [(i, step[1]) for i, step in enumerate(self.steps) if step[0] == "fsync"]

    def _add(self, step: Step) -> None:
        paths = [os.path.relpath(p, self.root) if isinstance(p, str) else p for p in step[1:]]
        if step[0] == "fsync" and paths == [".."]:
            return  # the name of the root is certain
        assert not any(isinstance(p, str) and p.startswith("..") for p in paths), "a step outside the root"
        self.steps.append((step[0], *paths))

    def states(self, n: int, *, without: int | None = None, limit: int = 64, seed: int = 0) -> Iterator[Tree]:
        """Yield what a power loss after the first ``n`` steps may leave, as if one fsync had done nothing.

        All of it where fewer than ``limit`` sets of entries are possible, else the extremes and a sample.
        """
        files, folders = self._run(n, without)
        changes = [(path, change) for path, folder in folders.items() for change in folder.pending]
        seen = set()
        for chosen in subsets(len(changes), limit, seed + n):
            names = {path: dict(folder.durable) for path, folder in folders.items()}
            for path, change in itertools.compress(changes, chosen):
                names[path].update(change)
            tree = {p: v for p, v in reachable(names, ".")}
            key = tuple(sorted(tree.items(), key=lambda item: item[0]))
            if key in seen:
                continue
            seen.add(key)
            options = [[(p, c) for c in files[v].contents()] if v is not None else [(p, None)] for p, v in tree.items()]
            for state in itertools.product(*options):
                yield dict(state)

    def live(self) -> Tree:
        """Return what a running system sees after all the steps."""
        files, folders = self._run(len(self.steps), None)
        for thing in (*files, *folders.values()):
            settle(thing)
        found = reachable({path: folder.durable for path, folder in folders.items()}, ".")
        return {path: None if v is None else files[v].durable for path, v in found}

    def _run(self, n: int, without: int | None) -> tuple[list[File], dict[str, Folder]]:
        files: list[File] = []
        folders: dict[str, Folder] = {".": Folder()}
        now: dict[str, Any] = {".": "folder"}  # path to the number of its file, as the running system sees it

        def change(path: str, **entries: Any) -> None:
            folders[os.path.dirname(path) or "."].pending.append(entries)

        for i, (what, *args) in enumerate(self.steps[:n]):
            path = args[0]
            name = os.path.basename(str(path))
            if what == "create":
                now[path] = len(files)
                files.append(File())
                change(path, **{name: now[path]})
            elif what in ("write", "truncate"):
                files[now[path]].pending.append((what, *args))
            elif what == "fsync" and i != without:
                thing = folders[path] if now[path] == "folder" else files[now[path]]
                settle(thing)
            elif what == "mkdir":
                now[path], folders[path] = "folder", Folder()
                change(path, **{name: path})
            elif what == "unlink":
                del now[path]
                change(path, **{name: None})
            elif what in ("link", "replace"):
                source, target = args
                assert what == "link" or os.path.dirname(source) == os.path.dirname(target)
                same = target in now and now[target] == now[source]  # then a rename does nothing
                now[target] = now[source]
                entries = {os.path.basename(target): now[target]}
                if what == "replace" and not same:
                    del now[source]
                    entries[os.path.basename(source)] = None
                change(target, **entries)
        return files, folders


def settle(thing: File | Folder) -> None:
    """Make what is pending certain."""
    if isinstance(thing, File):
        thing.durable = applied(thing.durable, thing.pending)
    else:
        for entries in thing.pending:
            thing.durable.update(entries)
    thing.pending = []


def reachable(names: dict[str, dict[str, Any]], folder: str) -> Iterator[tuple[str, int | None]]:
    """Yield what can be found from a folder on: path and number of file, None for a folder."""
    for name, target in names[folder].items():
        path = name if folder == "." else f"{folder}/{name}"
        if isinstance(target, str):
            yield path, None
            yield from reachable(names, target)
        elif target is not None:
            yield path, target


def subsets(k: int, limit: int, seed: int) -> Iterator[Sequence[bool]]:
    """Yield choices of k changes: all of them, or none, all, all but one, one, the first few, and a sample."""
    if 2**k <= limit:
        yield from itertools.product([False, True], repeat=k)
        return
    random_ = random.Random(seed)
    for i in range(k):
        yield [j == i for j in range(k)]
        yield [j != i for j in range(k)]
        yield [j < i for j in range(k)]
    yield [True] * k
    for _ in range(limit):
        yield [random_.random() < 0.5 for _ in range(k)]


class Replayed:
    """A real folder that takes on one state after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._now: Tree = {}

    def put(self, tree: Tree) -> None:
        for path in sorted(self._now.keys() - tree.keys(), reverse=True):
            remove = os.rmdir if self._now[path] is None else os.unlink
            remove(self.root / path)
        for path in sorted(tree):
            content = tree[path]
            if content is None and path not in self._now:
                os.mkdir(self.root / path)
            elif content is not None and (path not in self._now or self._now[path] != content):
                (self.root / path).write_bytes(content)
        self._now = dict(tree)
