"""Have eight processes make or take a run directory in the same moment, and print what became of each.

    python many_at_once.py own DIR      each a directory of its own below DIR
    python many_at_once.py same DIR     all of them DIR, which is new
    python many_at_once.py resume DIR   all of them DIR, which a dead process left
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from rlox.errors import RloxError
from rlox.runs.directory import Run, create_run

N = 8


def take(mode: str, folder: Path) -> Run:
    if mode == "own":
        return create_run(folder, "sac", "Pendulum-v1", 0)
    return Run.create(folder) if mode == "same" else Run.reopen(folder)


held: list[Run] = []


def attempt(mode: str, folder: Path, start: int) -> dict[str, object]:
    """Wait for the start, and try."""
    os.read(start, 1)
    try:
        held.append(take(mode, folder))
    except RloxError as error:
        return {"code": error.exit_code, "said": error.message}
    return {"code": 0, "said": str(held[0].path)}


def main() -> int:
    mode, folder = sys.argv[1], Path(sys.argv[2])
    start, end = os.pipe(), os.pipe()
    answers = []
    for _ in range(N):
        answer = os.pipe()
        if os.fork() == 0:
            os.close(start[1])
            os.close(end[1])
            os.write(answer[1], json.dumps(attempt(mode, folder, start[0])).encode() + b"\n")
            os.read(end[0], 1)  # nobody gives up its lock before all have tried
            os._exit(0)
        os.close(answer[1])
        answers.append(answer[0])
    os.close(start[1])  # all at once
    found = [json.loads(os.fdopen(fd).readline()) for fd in answers]
    os.close(end[1])
    for _ in range(N):
        os.wait()
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
