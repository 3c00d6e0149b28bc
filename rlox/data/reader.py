"""Start the checking process for one file, talk to it under a deadline, and adopt what it decoded."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rlox.errors import DatasetError, RloxError, printable

START_S = 60.0  # for the interpreter and h5py to start, on a machine however loaded
BASE_S = 5.0
SLACK_S = 2  # how much of the time starting may take; and so much less is what a file may spin
END_S = 0.25
FREE_BYTES = 50_000_000
BYTES_PER_S = 20_000_000
MAX_REPORT_BYTES = 16 << 20


def time_limit(size: int) -> float:
    """Return the seconds that reading a file of ``size`` bytes may take."""
    return BASE_S if size < FREE_BYTES else BASE_S + size / BYTES_PER_S


class Reader:
    """A child process that holds one HDF5 file open; the parent never opens it with HDF5.

    Parameters
    ----------
    path : path-like
        A regular file.
    memory : int
        Bytes that the child may decode at most.

    Notes
    -----
    Use as a context manager: whatever happens, the child is dead and its pipes are closed afterwards. Memory taken
    over with :meth:`values` lives on.
    """

    def __init__(self, path: str | os.PathLike[str], memory: int) -> None:
        self.path = path
        self.name = printable(path)
        self._seconds = time_limit(os.stat(path).st_size)
        self._memory = memory
        self._buffer = b""

    def __enter__(self) -> Reader:
        started = time.monotonic()
        self._shared = _anonymous_file()
        request = {
            "path": os.path.abspath(self.path),
            "shared": self._shared,
            "memory": self._memory,
            "cpu_s": max(int(self._seconds) - SLACK_S, 1),  # a file that makes HDF5 spin is found before the time is over
        }
        command = [sys.executable, "-P", "-B", "-X", "utf8", "-m", "rlox.data.child", json.dumps(request)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_child_environment(),
                pass_fds=(self._shared,),
            )
        except OSError as error:
            os.close(self._shared)
            raise RloxError(f"cannot start the process that checks {self.name}: {printable(error)}") from error
        try:
            self._receive(START_S)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        # Starting and ending count, so that no file takes longer than its time; but a busy machine takes not all of it.
        self._deadline = max(started + self._seconds - END_S, time.monotonic() + self._seconds - SLACK_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        os.close(self._shared)

    def structure(self) -> dict[str, Any]:
        """Return the report on layout, datasets and attributes; DatasetError for an unsafe or unreadable file."""
        return self._receive(self._deadline - time.monotonic())

    def values(self, columns: list[dict[str, Any]], size: int) -> tuple[dict[str, Any], Any]:
        """Have the planned columns read; return the report and the shared memory (an mmap; None for no bytes)."""
        import mmap

        started = time.monotonic()
        memory = None
        if size:
            os.ftruncate(self._shared, size)
            _seal(self._shared)
            memory = mmap.mmap(self._shared, size)
        self._deadline += time.monotonic() - started  # planning and allocating are not the child's time
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a dead child is reported by _receive
            self._process.stdin.write(json.dumps({"columns": columns, "size": size}).encode() + b"\n")
            self._process.stdin.flush()
        return self._receive(self._deadline - time.monotonic())["columns"], memory

    def _receive(self, seconds: float) -> dict[str, Any]:
        """Return the child's next line as JSON, or say how the child failed."""
        line = self._read_line(time.monotonic() + seconds)
        try:
            message = json.loads(line)
        except ValueError as error:
            raise self._dead(error) from error
        if not isinstance(message, dict):
            raise self._dead(None)
        if "error" in message:
            raise _child_error(self.path, message["error"])
        return message

    def _read_line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise self._too_slow()
            part = os.read(fd, 1 << 16)
            if not part or len(self._buffer) > MAX_REPORT_BYTES:
                raise self._dead(None)
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _too_slow(self) -> DatasetError:
        return DatasetError(
            f"{self.name} is invalid: checking it took longer than {self._seconds:.0f} s",
            hint="if the file is sound, rewrite it with larger chunks or uncompressed",
            value=str(self.path),
        )

    def _dead(self, cause: Exception | None) -> RloxError:
        """Return the error for a child that ended or talked nonsense."""
        if not hasattr(self, "_deadline"):
            said = _last_line(self._process)
            return RloxError(f"the process that checks datasets did not start: {said or 'no output'}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        code = self._process.returncode
        if code == -signal.SIGXCPU:
            return self._too_slow()
        how = f"crashed (signal {-code})" if code is not None and code < 0 else "gave up"
        return DatasetError(f"{self.name} is invalid: the process that checks it {how}", value=str(self.path))


def _child_environment() -> dict[str, str]:
    """Return the parent's environment with its import path, without HDF5's settings, and with single-threaded BLAS."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HDF5_")}
    environment.pop("PYTHONWARNINGS", None)
    home = Path(__file__).parents[2]  # where this rlox is: the working folder alone may have named it
    path = [home, *(Path(entry) for entry in sys.path if entry)]
    environment["PYTHONPATH"] = os.pathsep.join(str(entry.absolute()) for entry in path)
    # A BLAS thread reserves address space, which is limited.
    environment.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    # What a decoder leaves unwritten of its memory (LZF, where a chunk is too short) reads as zeros, the same each time.
    environment["GLIBC_TUNABLES"] = "glibc.malloc.perturb=255:glibc.malloc.tcache_count=0"
    return environment


def _anonymous_file() -> int:
    """Return a descriptor of a file that has no name and lives in memory where the system can do that."""
    create: Callable[..., int] | None = getattr(os, "memfd_create", None)
    if create is not None:
        return create("rlox-dataset", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _seal(fd: int) -> None:
    """Fix the size of shared memory, so that nobody can pull it from under its readers."""
    import fcntl

    seal = getattr(fcntl, "F_ADD_SEALS", None)
    if seal is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, seal, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)


def _last_line(process: subprocess.Popen[bytes]) -> str:
    process.kill()
    assert process.stderr is not None
    lines = process.stderr.read(1 << 16).decode("utf-8", "backslashreplace").strip().splitlines()
    return printable(lines[-1]) if lines else ""


def _child_error(path: str | os.PathLike[str], error: object) -> DatasetError:
    """Turn the child's refusal into the error of the parent; its text is foreign."""
    name = printable(path)
    code, message = "unreadable", "no reason given"
    if isinstance(error, dict):
        code, message = str(error.get("code")), printable(error.get("message"), 400)
    if code == "locked":
        holder = _lock_holder(path)
        who = f"by process {holder}" if holder else "by another process"
        return DatasetError(f"{name} is open for writing {who}", hint="wait until it is closed, then try again")
    if code == "dirty":
        return DatasetError(
            f"{name} was not closed by the process that wrote it (its write flag is set)",
            hint=f"if nobody writes it any more, clear the flag with `h5clear -s {name}`",
        )
    if code == "truncated":
        return DatasetError(f"{name} is truncated: {message}", hint="copy or download it again")
    if code == "unreadable":
        return DatasetError(f"{name} is invalid: {message}", value=str(path))
    return DatasetError(f"{name}: {message}", value=str(path))


def _lock_holder(path: str | os.PathLike[str]) -> int | None:
    """Return the process that holds a write lock on the file, where the system tells."""
    with contextlib.suppress(OSError, ValueError):
        inode = str(os.stat(path).st_ino)
        for line in Path("/proc/locks").read_text().splitlines():
            parts = line.split()
            if "WRITE" in parts and parts[5].rpartition(":")[2] == inode and int(parts[4]) > 0:
                return int(parts[4])
    return None
