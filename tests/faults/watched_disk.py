"""See every step of a process that changes files: what it creates, writes, syncs, renames, links and removes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

Step = tuple[Any, ...]  # "create" path, "write" path offset bytes, "truncate" path size, "fsync" path, "replace" a b, …


@contextmanager
def watched(before: Callable[[Step], object] = lambda step: None, after: Callable[[Step], object] = lambda step: None) -> Iterator[None]:
    """Call ``before`` and ``after`` with each step; what ``before`` raises happens instead of the step."""
    real = {name: getattr(os, name) for name in ("open", "fdopen", "fsync", "replace", "link", "unlink", "mkdir")}

    def path_of(fd: int) -> str:
        return os.readlink(f"/proc/self/fd/{fd}")

    def do(step: Step, call: Callable[[], Any]) -> Any:
        before(step)
        result = call()
        after(step)
        return result

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            step = ("write", path_of(self.fileno()), os.lseek(self.fileno(), 0, os.SEEK_CUR), bytes(data))
            return int(do(step, lambda: io.FileIO.write(self, data)))

        def truncate(self, size: int | None = None) -> int:
            n = self.tell() if size is None else size
            return int(do(("truncate", path_of(self.fileno()), n), lambda: io.FileIO.truncate(self, n)))

    def opened(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        if not flags & os.O_CREAT:
            return int(real["open"](path, flags, mode, **options))
        return int(do(("create", os.fspath(path)), lambda: real["open"](path, flags, mode, **options)))

    def fdopened(fd: int, mode: str = "r", *args: Any, **options: Any) -> Any:
        return io.BufferedRandom(Raw(fd, "r+")) if mode == "w+b" else real["fdopen"](fd, mode, *args, **options)

    def watch(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            step = (name, *(os.fspath(a) for a in args if not isinstance(a, int)))
            return do(step, lambda: real[name](*args, **options))

        return call

    def synced(fd: int) -> None:
        do(("fsync", path_of(fd)), lambda: real["fsync"](fd))

    changed = {"open": opened, "fdopen": fdopened, "fsync": synced, **{n: watch(n) for n in ("replace", "link", "unlink", "mkdir")}}
    with mock.patch.multiple(os, **changed):
        yield
