"""Many seeds of one run: a pool of processes, each making one normal, resumable run in its own folder.

The pool keeps no state: which runs there are, and how far each is, stands in their folders. Started again, it goes on
with what is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ..errors import RloxError
from ..files import slug
from ..signals import EXIT_CODES
from .past import Past

POLL_S = 0.5
TAIL_BYTES = 16384  # of the metrics, which are read at each look
KILLED = 7  # the exit code of a run that failed


@dataclass
class Job:
    """One seed of the pool.

    Attributes
    ----------
    seed : int
    path : Path
        Its run directory, there already or not; what it holds counts only where it is a run of this seed.
    status : str
        waiting, running, or as in ``status.json``.
    step : int
    return_mean, eval_return_mean : float or None
        Of the last 100 episodes, and of the last evaluation.
    exit_code : int or None
        Of its process, 0 for one that had nothing left to do; 7 for one that something killed.
    result : dict
        What ``status.json`` says.
    said : bytes
        What its process wrote to stdout.
    """

    seed: int
    path: Path
    status: str = "waiting"
    step: int = 0
    return_mean: float | None = None
    eval_return_mean: float | None = None
    exit_code: int | None = None
    result: dict[str, Any] = field(default_factory=dict)
    said: bytes = b""

    def refresh(self) -> None:
        """Read how far the run is."""
        try:
            past = Past.open(self.path)
        except (RloxError, OSError):
            return  # not there yet, or its process is just taking it away: what it ends with says the rest
        if past.meta.get("seed") != self.seed:
            return
        self.result = past.status
        for row in _rows(self.path / "metrics.jsonl"):
            self.step = max(self.step, int(row["step"]))
            metrics = row.get("metrics") or {}
            self.return_mean = metrics.get("rollout/return_mean", self.return_mean)
            self.eval_return_mean = metrics.get("eval/return_mean", self.eval_return_mean)
        made = past.status.get("step")
        self.step = made if isinstance(made, int) and made > self.step else self.step

    def is_over(self, digest: str, steps: int) -> bool:
        """Whether its folder holds the run of this seed and of these values, with nothing left to do of ``steps``."""
        if not self.path.is_dir():
            return False
        past = Past.open(self.path)
        return past.meta.get("seed") == self.seed and past.meta.get("values") == digest and past.is_over(steps)

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document that its process wrote, empty where there is none."""
        with contextlib.suppress(ValueError):
            document = json.loads(self.said)
            if isinstance(document, dict):
                return document
        return {}


def find_jobs(seeds: Sequence[int], digest: str, parent: Path, run_dir: Path | None, name: str | None) -> list[Job]:
    """Return a job per seed, each with the folder of the newest run of the same values and seed, or of a new one.

    Parameters
    ----------
    seeds : sequence of int
    digest : str
        Of the values, see :func:`rlox.runs.past.values_digest`.
    parent : Path
        Where runs of this algorithm and subject lie.
    run_dir : Path, optional
        Where the runs lie as ``s<seed>``, in place of ``parent``.
    name : str, optional
        Of the runs; those with another name are others.
    """
    if run_dir is not None:
        return [Job(seed, run_dir / f"s{seed}") for seed in seeds]
    known: dict[int, Path] = {}
    for path in sorted(p.parent for p in parent.glob("*/meta.json")):  # the newest last
        try:
            meta = Past.open(path).meta
        except RloxError:
            continue  # damaged: nobody's to go on with
        if meta.get("values") == digest and meta.get("name") == name and isinstance(meta.get("seed"), int):
            known[meta["seed"]] = path
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    end = f"-{slug(name)}" if name else ""
    return [Job(s, known.get(s, parent / f"{stamp}-s{s}-{secrets.token_hex(2)}{end}")) for s in seeds]


class Pool:
    """Runs jobs in processes of their own, ``n_jobs`` at a time.

    Parameters
    ----------
    jobs : list of Job
    n_jobs : int
    command : callable
        ``command(job)`` returns the words after ``rlox`` that make or continue the job's run.
    main : callable
        Runs such words in a process of its own and returns the exit code; a function of a module.
    """

    def __init__(
        self,
        jobs: list[Job],
        n_jobs: int,
        command: Callable[[Job], list[str]],
        main: Callable[[list[str]], int],
    ) -> None:
        self.jobs, self.n_jobs, self.command, self.main = jobs, n_jobs, command, main
        self.signal: int | None = None
        self._running: dict[int, tuple[Job, BaseProcess, Connection]] = {}
        self._told: set[int | None] = set()  # processes that a signal was handed on to

    def run(self, changed: Callable[[Job | None], None]) -> None:
        """Run every job; ``changed`` is called with a job whose status changed, and with None at each look.

        A signal is handed on to the running jobs, which save and stop; those that wait are not started.
        """
        waiting = list(self.jobs)
        with self._signals():
            try:
                while self._running or (waiting and self.signal is None):
                    while waiting and len(self._running) < self.n_jobs and self.signal is None:
                        changed(self._start(waiting.pop(0)))
                    ready = wait(list(self._running), POLL_S)
                    for job, _, pipe in self._running.values():
                        job.said += _available(pipe)
                        job.refresh()
                    for sentinel in [s for s in self._running if s in ready]:
                        changed(self._end(sentinel))
                    changed(None)
            finally:
                for _, process, _ in self._running.values():  # only after an error of the pool's own
                    process.kill()

    def _start(self, job: Job) -> Job:
        context = get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(theirs, self.main, self.command(job)), name=f"rlox-s{job.seed}")
        process.start()
        theirs.close()
        os.set_blocking(ours.fileno(), False)
        self._running[process.sentinel] = job, process, ours
        if self.signal is not None and process.pid not in self._told:  # it came before there was anybody to tell
            self._tell(process, self.signal)
        job.status = "running"
        return job

    def _end(self, sentinel: int) -> Job:
        job, process, pipe = self._running.pop(sentinel)
        process.join()
        job.said += _available(pipe)
        pipe.close()
        job.exit_code = _exit_code(process.exitcode or 0)
        job.refresh()
        job.status = str(job.result.get("status") or "failed")
        if job.exit_code and job.status in ("running", "finished"):  # it did not come to say what it is now
            job.status = "interrupted" if job.exit_code in EXIT_CODES.values() else "failed"
        return job

    def _tell(self, process: BaseProcess, number: int) -> None:
        if process.pid is not None and process.is_alive():
            self._told.add(process.pid)
            os.kill(process.pid, number)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Hand signals on to the running jobs: each gets them once, since they are no members of our group."""

        def hand_on(number: int, frame: Any) -> None:
            self.signal = self.signal or number
            for _, process, _ in list(self._running.values()):
                self._tell(process, number)

        saved = {}
        if threading.current_thread() is threading.main_thread():
            saved = {n: signal.signal(n, hand_on) for n in EXIT_CODES if signal.getsignal(n) is not signal.SIG_IGN}
        try:
            yield
        finally:
            for number, handler in saved.items():
                signal.signal(number, handler)


def _exit_code(code: int) -> int:
    """Return the exit code of a process as the command line has it: a run that something killed is one that failed."""
    return EXIT_CODES.get(-code, KILLED) if code < 0 else code


def _available(pipe: Connection) -> bytes:
    """Return what is in a pipe, without waiting for more."""
    found = b""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(pipe.fileno(), 65536):
            found += data
    return found


def _work(pipe: Connection, main: Callable[[list[str]], int], argv: list[str]) -> None:
    """Make one run, in a process group of its own, so that a terminal's signals come from the pool alone."""
    os.setpgrp()
    null = os.open(os.devnull, os.O_RDWR)
    for fd, target in ((0, null), (1, pipe.fileno()), (2, null)):
        os.dup2(target, fd)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    sys.exit(main(argv))


def _stop_with_parent() -> None:
    """Let this run save and stop when the pool is gone."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the last rows of a metrics file; a torn one is left out.

    Read at each look, of each run: only the end of the file, unlike :func:`rlox.logging.read_metrics`.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL_BYTES, 0))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                found.append(row)
    return found
