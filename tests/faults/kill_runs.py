"""Kill runs at random times, let them go on until they finish, and compare each with the run that nobody killed.

    python tests/faults/kill_runs.py                  # everything: 53 runs of sac, 20 of bc and cql
    python tests/faults/kill_runs.py --only sac --runs 5

Each run must end with the digest of the undisturbed run of its kind (see run_digest.py), and leave no temporary file.
The table says how often the runs of a kind were killed, and how many of these kills came after training had begun.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from run_digest import digest  # noqa: E402

TINY = ["--steps", "600", "--save-freq", "100", "--eval-freq", "250", "--eval-episodes", "1", "--log-interval", "50",
        "--preset", "none", "--learning-starts", "100", "--net-arch", "[32, 32]", "--batch-size", "32", "--buffer-size",
        "5000", "--no-link", "--threads", "1"]  # fmt: skip
OFFLINE = ["--steps", "300", "--save-freq", "50", "--eval-freq", "120", "--eval-episodes", "1", "--log-interval", "50",
           "--preset", "none", "--net-arch", "[32, 32]", "--batch-size", "32", "--no-link", "--threads", "1"]  # fmt: skip
SAC = ["train", "sac"]
PENDULUM = ["--env", "Pendulum-v1"]


@dataclass
class Kind:
    """A kind of run and how many of it are killed; ``dataset`` says which file ``offline`` kinds train on."""

    words: list[str]
    n: int
    dataset: str | None = None
    own: bool = False
    reference: str = ""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def kinds() -> dict[str, Kind]:
    """Return every kind of run by name."""
    lengths = ["--env", f"{HERE / 'resume_envs.py'}:RandomLengths"]
    found = {
        "sac": Kind([*SAC, *PENDULUM, *TINY], 9),
        "sac n_envs=4 sync": Kind([*SAC, *PENDULUM, *TINY, "--n-envs", "4"], 6),
        "sac n_envs=4 async": Kind([*SAC, *PENDULUM, *TINY, "--n-envs", "4", "--vec", "async"], 6),
        "sac gradient_steps=4": Kind([*SAC, *PENDULUM, *TINY, "--train-freq", "4", "--gradient-steps", "4"], 5),
        "sac lengths, Dict": Kind([*SAC, *lengths, *TINY], 6),
        "sac lengths, Dict, n_envs=4": Kind([*SAC, *lengths, *TINY, "--n-envs", "4"], 4),
        "sac normalize_obs": Kind([*SAC, *PENDULUM, *TINY, "--normalize-obs"], 5),
        "sac small ring": Kind([*SAC, *PENDULUM, *TINY, "--buffer-size", "250"], 4),
        "sac own actor": Kind([], 5, own=True),
        "sac stop_at": Kind([*SAC, *PENDULUM, *TINY, "--stop-at", "-5000"], 3),
    }
    for algorithm, extra in (("bc", []), ("cql", ["--n-actions", "2"])):
        for storage in ("ram", "mmap"):
            words = ["offline", algorithm, *OFFLINE, *extra, "--env", "Pendulum-v1", "--storage", storage]
            found[f"{algorithm} {storage}"] = Kind(words, 5, dataset=storage)
    return found


def main() -> int:
    """Kill what was asked for and print a table; return 1 when a run came out different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="kinds whose name begins so")
    parser.add_argument("--runs", type=int, help="runs per kind")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills")
    args = parser.parse_args()
    chosen = {name: kind for name, kind in kinds().items() if name.startswith(args.only)}
    print(f"{'kind':30} {'runs':>4} {'kills':>5} {'training':>8} {'equal':>5} {'seconds':>7}  digest")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        for name, kind in chosen.items():
            kind.n = args.runs or kind.n
            base = Path(folder) / name.replace(" ", "-").replace(",", "")
            base.mkdir()
            since = time.monotonic()
            undisturbed(kind, base / "undisturbed")
            draws = [random.Random(f"{args.seed} {name} {i}") for i in range(kind.n)]
            kills = list(pool.map(lambda i: killed(kind, base / f"run{i}", draws[i]), range(kind.n)))  # noqa: B023
            taken, inside = time.monotonic() - since, sum(n for _, n in kills)
            print(f"{name:30} {kind.n:4} {sum(n for n, _ in kills):5} {inside:8} {kind.n - len(kind.wrong):5} {taken:7.0f}  "
                  f"{kind.reference[:16]}", flush=True)  # fmt: skip
    wrong = [text for kind in chosen.values() for text in kind.wrong]
    print(*wrong, sep="\n")
    return 1 if wrong else 0


def undisturbed(kind: Kind, folder: Path) -> None:
    """Make the run that the others are compared with."""
    process = start(kind, folder)
    wait_for_training(kind, folder, process)
    since = time.monotonic()
    code = process.wait()
    assert code == 0, f"the undisturbed run ended with {code}: {(folder.parent / 'undisturbed.log').read_text()}"
    kind.seconds = time.monotonic() - since
    kind.reference = digest_of(kind, folder)


def killed(kind: Kind, folder: Path, draw: random.Random) -> tuple[int, int]:
    """Kill a run one to four times, let it finish, and compare; return how often it was killed, and while it trained."""
    kills, inside, wanted, limit = 0, 0, draw.choice((1, 1, 2, 4)), kind.seconds
    while kills < wanted:
        process = start(kind, folder)
        if draw.random() < 0.8:  # else at any time, start-up included
            wait_for_training(kind, folder, process)
        try:
            process.wait(draw.uniform(0.0, limit))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            inside += trains(kind, folder, process)
            continue
        if kills:
            break
        limit /= 2  # it was faster than the undisturbed one: once more from the beginning
        shutil.rmtree(folder)
    code = start(kind, folder).wait()
    left = [str(p.relative_to(folder)) for p in folder.rglob(".*.tmp")]
    if code != 0:
        kind.wrong.append(f"{folder.name} of {kind.words[:2]} ended with {code}: {log_of(folder).read_text()[-2000:]}")
    elif digest_of(kind, folder) != kind.reference or left:
        kind.wrong.append(f"{folder.name} of {kind.words[:2]} after {kills} kills: another digest, or left {left}")
    return kills, inside


def trains(kind: Kind, folder: Path, process: subprocess.Popen[bytes]) -> bool:
    """Say whether a process has come to its training."""
    try:
        status = json.loads((folder / ("pid.json" if kind.own else "status.json")).read_text())
    except (OSError, ValueError):
        return False
    return bool(status.get("pid") == process.pid)


def wait_for_training(kind: Kind, folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process trains, or is over."""
    while process.poll() is None and not trains(kind, folder, process):
        time.sleep(0.01)


def start(kind: Kind, folder: Path) -> subprocess.Popen[bytes]:
    """Start a run, or let it go on."""
    if kind.own:
        folder.mkdir(exist_ok=True)
        words = [sys.executable, str(HERE / "resume_envs.py"), str(folder), "600"]
    else:
        data = [] if kind.dataset is None else ["--dataset", str(dataset(folder.parent))]
        words = [sys.executable, "-m", "rlox", *kind.words, *data, "--run-dir", str(folder), "--resume", "auto", "-q"]
    with log_of(folder).open("ab") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)


def log_of(folder: Path) -> Path:
    """Return the file with what a run said."""
    return folder.parent / f"{folder.name}.log"


def dataset(folder: Path) -> Path:
    """Return a dataset that can be decoded to memory and mapped, made once."""
    import numpy as np

    from rlox.data.writer import write_d4rl

    path = folder / "data.h5"
    if not path.exists():
        draw = np.random.default_rng(0)
        n = 2000
        columns = {
            "obs": draw.normal(size=(n, 3)).astype(np.float32),
            "next_obs": draw.normal(size=(n, 3)).astype(np.float32),
            "actions": draw.uniform(-2, 2, size=(n, 1)).astype(np.float32),
            "rewards": draw.normal(size=n).astype(np.float32),
            "terminated": np.zeros(n, np.bool_),
            "truncated": np.arange(n) % 100 == 99,
        }
        write_d4rl(path, columns, {})
    return path


def digest_of(kind: Kind, folder: Path) -> str:
    """Return the digest of a finished run."""
    if kind.own:
        return digest(folder / "last.resume", folder / "metrics.jsonl")
    assert json.loads((folder / "status.json").read_text())["status"] == "finished"
    models = sorted((folder / "checkpoints").glob("*.pt"))
    assert {"best.pt", "last.pt"} < {path.name for path in models}
    return digest(folder / "resume", folder / "metrics.jsonl", *models)


if __name__ == "__main__":
    sys.exit(main())
