"""Run rlox in this process or in one of its own, and look at what it said."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# What changes how a terminal is treated; a test that wants one of them sets it.
TERMINAL = ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES")


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out, parse_constant=lambda text: pytest_fail(f"{text} is not JSON"))


def pytest_fail(message: str) -> Any:
    raise AssertionError(message)


def run(capsys, *argv: object) -> Ran:
    """Run a command in this process."""
    from rlox.cli.main import main

    capsys.readouterr()
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return Ran(code, out, err)


def refused(ran: Ran, code: int, *words: str) -> None:
    """Assert that a bad input was refused as it must be: code, few lines, the value in them, no traceback."""
    assert ran.code == code, ran.err
    assert ran.err.startswith("error: ") or "\nerror: " in ran.err
    assert len(ran.err.splitlines()) <= 6, ran.err
    assert "Traceback" not in ran.err + ran.out
    for word in words:
        assert word in ran.err, (word, ran.err)


def environment(**extra: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if k not in TERMINAL and not k.startswith("RLOX")}
    return {**env, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm", **extra}


def spawn(*argv: object, cwd: Path | None = None, **extra: str) -> Ran:
    """Run a command in a process of its own, stdout and stderr into pipes."""
    done = subprocess.run(
        [sys.executable, "-m", "rlox", *map(str, argv)], capture_output=True, cwd=cwd, env=environment(**extra), timeout=120
    )
    return Ran(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def spawn_on_terminal(*argv: object, cwd: Path | None = None, typed: bytes = b"", **extra: str) -> Ran:
    """Run a command on a terminal, with what its user types; ``out`` has stdout and stderr."""
    master, slave = pty.openpty()
    os.write(master, typed)
    command = [sys.executable, "-m", "rlox", *map(str, argv)]
    process = subprocess.Popen(command, stdout=slave, stderr=slave, stdin=slave, cwd=cwd, env=environment(**extra))
    os.close(slave)
    chunks = []
    while select.select([master], [], [], 120)[0]:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(master)
    return Ran(process.wait(120), b"".join(chunks).decode(errors="replace").replace("\r\n", "\n"), "")
