"""Make mutated checkpoints and datasets, open each as the commands do, and print what came of them.

    python tests/faults/mutate_files.py --checkpoints 2000 --datasets 2000

Every file must be refused (exit 4; 5 for a newer format or a part of the user's own, 8 for a filter that is absent) or be
read right, within five seconds, and nothing in it may run. ``--seed`` and the number of a file decide what it is, so
``--first 137 --datasets 1 --keep DIR`` makes that one again. Exits with 1 when anything went wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import select
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mutated_checkpoints
import mutated_datasets

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))
LIMIT_S = 5.0
LOST_S = 60.0  # a process that has not answered by then hangs
FINE = {"checkpoint": ("exit 4", "exit 5", "equal", "other, read right"),
        "dataset": ("exit 4", "exit 8", "equal", "other, read right")}  # fmt: skip


class Opener:
    """The process that opens the files; a new one whenever it died."""

    def __init__(self, folder: Path, canary: Path) -> None:
        self.folder, self.canary = folder, canary
        self.process: subprocess.Popen[bytes] | None = None
        self.peaks_kib = [0, 0]  # of the opening process, of the processes that it starts

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Have one file opened, and return the answer."""
        if self.process is None:
            self._start()
            self.ask({**request, "path": request["sound"]})  # what is imported late is imported now
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        ready = select.select([self.process.stdout], [], [], LOST_S)[0]
        line = self.process.stdout.readline() if ready else b""
        if not line:
            how = "crashed" if ready else "hangs"
            self.close()
            return {"outcome": how, "message": f"the opening process {how}", "seen": [], "seconds": 0.0}
        answer: dict[str, Any] = json.loads(line)
        self.peaks_kib = list(map(max, self.peaks_kib, answer.pop("peaks_kib")))
        return answer

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _start(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("watched_opening.py")), str(self.folder), str(self.canary)]
        environment = os.environ | {"PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1",
                                    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # fmt: skip
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
                                        cwd=self.folder)  # fmt: skip


@dataclass
class Report:
    """What came of the files of one kind."""

    kind: str
    limit_s: float = LIMIT_S
    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    refusals: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    n: int = 0
    peaks_mib: tuple[float, ...] = (0.0, 0.0)

    def add(self, number: int, family: str, answer: dict[str, Any]) -> bool:
        """Count one file; return whether anything was wrong with it."""
        self.n += 1
        self.outcomes[family][answer["outcome"]] += 1
        self.slowest = max(self.slowest, answer["seconds"])
        if answer["outcome"].startswith("exit"):
            self.refusals.add(re.sub(r"\S*mutant\S*|'[^']*'|[0-9]+|\\x..|/\S+", "*", answer["message"])[:60])
        wrong = list(answer["seen"])
        if answer["outcome"] not in FINE[self.kind]:
            wrong.append(f"{answer['outcome']}: {answer['message']}")
        if answer["seconds"] > self.limit_s:
            wrong.append(f"took {answer['seconds']:.1f} s ({answer['outcome']}: {answer['message']})")
        self.faults += [f"{self.kind} {number} ({family}): {text}" for text in wrong]
        return bool(wrong)

    def text(self) -> str:
        """Return the table."""
        kinds = [*FINE[self.kind], *sorted({o for c in self.outcomes.values() for o in c} - set(FINE[self.kind]))]
        total: Counter[str] = sum(self.outcomes.values(), Counter())
        lines = [f"{self.n} mutated {self.kind}s", f"{'':24}" + "".join(f"{kind:>18}" for kind in kinds)]
        for family, counts in [*sorted(self.outcomes.items()), ("all", total)]:
            lines.append(f"{family:24}" + "".join(f"{counts[kind] or '-':>18}" for kind in kinds))
        memory = "opening process at most {:.0f} MiB, its children {:.0f} MiB".format(*self.peaks_mib)
        lines.append(f"slowest {self.slowest:.2f} s; {memory}")
        lines.append(f"refused in {len(self.refusals)} different ways; wrong: {len(self.faults)}")
        return "\n".join([*lines, *self.faults[:20]])


def examine(kind: str, n: int, seed: int, first: int, keep: Path | None, info_every: int = 1,
            limit_s: float = LIMIT_S) -> Report:  # fmt: skip
    """Make ``n`` mutants of a kind, from number ``first`` on, and open each."""
    report = Report(kind, limit_s)
    with tempfile.TemporaryDirectory(prefix="rlox-mutants-") as name:
        folder = Path(name)
        canary, sounds = folder / "canary", folder / "sound"
        sounds.mkdir()
        (folder / "evil_module.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
        shutil.copy(Path(__file__).with_name("watched_child.py"), folder / "sitecustomize.py")
        opener = Opener(folder, canary)
        os.mkfifo(sounds / "secret")  # whoever opens it hangs
        if kind == "checkpoint":
            paths = mutated_checkpoints.sound_files(sounds)
            mutator: Any = mutated_checkpoints.Mutator([path.read_bytes() for path in paths], canary)
        else:
            paths = mutated_datasets.sound_files(sounds, sounds / "secret")
            mutator = mutated_datasets.Mutator(paths)
        ending = ".pt" if kind == "checkpoint" else ".h5"
        try:
            for number in range(first, first + n):
                draw = random.Random(f"{seed} {kind} {number}")
                mutant = mutator.mutant(draw)
                path = folder / f"mutant-{number}{ending}"
                path.write_bytes(mutant.data)
                request = {"kind": kind, "path": str(path), "info": number % info_every == 0,
                           "sound": str(paths[mutant.base]), "sealed": getattr(mutant, "sealed", True),
                           "storage": draw.choice(("auto", "auto", "ram", "mmap"))}  # fmt: skip
                if report.add(number, mutant.family, opener.ask(request)) and keep is not None:
                    shutil.copy(path, keep)
                path.unlink()
        finally:
            opener.close()
        report.peaks_mib = tuple(peak / 1024 for peak in opener.peaks_kib)
        if canary.exists():
            report.faults.append("the canary was created: code in a file ran")
    return report


def main() -> int:
    """Parse the command line, examine, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=0, metavar="N")
    parser.add_argument("--datasets", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, metavar="NUMBER")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="copy the files with which something was wrong")
    parser.add_argument("--info-every", type=int, default=1, metavar="K", help="show every Kth file with info too")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for kind, n in (("checkpoint", options.checkpoints), ("dataset", options.datasets)):
        if n:
            report = examine(kind, n, options.seed, options.first, options.keep, options.info_every)
            print(report.text(), flush=True)
            wrong += len(report.faults)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
