"""Runs of the command line, each in a process of its own that is forked from one with everything imported.

A run starts in milliseconds that way, and has real signals, limits and death. Before it starts, a function of
fault_points.py can be called in it.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

PATIENCE_S = 120  # for one run
HERE = Path(__file__).resolve().parent


@dataclass
class Ended:
    """A run that is over: its exit code, −N when signal N killed it, and what it said."""

    code: int
    out: str
    err: str


class Started:
    """A run that was started; ``pidfd`` can be read once it is over."""

    def __init__(self, server: RunServer, pid: int, log: Path) -> None:
        self._server, self.pid, self._log = server, pid, log
        self.pidfd = os.pidfd_open(pid)

    def stopped(self) -> bool:
        """Wait until a signal stops the process, or it ends; return whether it was stopped."""
        return bool(self._server.ask(op="stopped", pid=self.pid))

    def wait(self) -> Ended:
        """Wait for the end."""
        code = self._server.ask(op="wait", pid=self.pid)
        os.close(self.pidfd)
        out, err = (self._log.with_suffix(end).read_text(errors="replace") for end in (".out", ".err"))
        return Ended(code, out, err)


class RunServer:
    """Starts runs; one at a time may use it."""

    def __init__(self, logs: Path) -> None:
        self._logs, self._n = logs, 0
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RLOX")}
        path = os.pathsep.join([str(HERE.parents[1]), *filter(None, [environment.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "run_server.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TERM": "xterm"},
        )  # fmt: skip

    def start(self, *words: object, cwd: Path, fault: str | None = None, env: dict[str, str] | None = None, **given: Any) -> Started:
        """Start ``rlox WORDS``; ``fault`` names a function of fault_points.py that is called first, with ``given``."""
        self._n += 1
        log = self._logs / f"run{self._n:03d}"
        request = dict(op="start", argv=[str(w) for w in words], cwd=str(cwd), log=str(log), fault=fault, given=given, env=env or {})
        return Started(self, self.ask(**request), log)

    def run(self, *words: object, cwd: Path, **options: Any) -> Ended:
        """Start a run and wait for its end."""
        return self.start(*words, cwd=cwd, **options).wait()

    def ask(self, **request: Any) -> Any:
        """Send a request and return its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request, default=str).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the server; runs that are still going go on."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def run_server(logs: Path) -> Iterator[RunServer]:
    """Start a server and end it."""
    server = RunServer(logs)
    try:
        yield server
    finally:
        server.close()


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if request["op"] == "start":
            ready, say = os.pipe()
            answer: Any = os.fork()
            if answer == 0:
                answers.close()
                _be_a_run(request, say)
            os.close(say)
            os.read(ready, 1)
            os.close(ready)
        else:
            signal.signal(signal.SIGALRM, partial(_give_up, request["pid"]))
            signal.alarm(PATIENCE_S)
            status = os.waitpid(request["pid"], os.WUNTRACED if request["op"] == "stopped" else 0)[1]
            signal.alarm(0)
            answer = os.WIFSTOPPED(status) if request["op"] == "stopped" else os.waitstatus_to_exitcode(status)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _give_up(pid: int, number: int, frame: Any) -> None:
    """End a run that hangs, so that its test fails and no other waits for it."""
    os.kill(pid, signal.SIGKILL)


def _be_a_run(request: dict[str, Any], ready: int) -> NoReturn:
    import fault_points

    from rlox.cli.main import main

    os.setsid()
    files = os.devnull, f"{request['log']}.out", f"{request['log']}.err"
    for fd, name in enumerate(files):
        opened = os.open(name, os.O_RDONLY if fd == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, fd)
        os.close(opened)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if request["fault"] is not None:
        getattr(fault_points, request["fault"])(**request["given"])
    os.close(ready)
    _end(main(request["argv"]))


def _end(code: int) -> NoReturn:
    """End as an interpreter does, without the second that it takes to take torch apart."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _warm_up() -> None:
    """Import and set up all that a run would, by training for a few steps."""
    import tempfile

    import torch

    from rlox.cli.main import main

    torch.set_num_threads(1)
    tiny = "--steps 4 --learning-starts 2 --net-arch [4] --batch-size 2 --buffer-size 10 --eval-episodes 1 --preset none"
    env = f"{HERE / 'resume_envs.py'}:RandomLengths"
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        code = main(["train", "sac", "--env", env, *tiny.split(), "--no-link", "--run-dir", f"{folder}/run", "-q"])
    assert code == 0


if __name__ == "__main__":  # its worker processes import this file too, and nothing with it
    _warm_up()
    _serve()
