"""Fill docs/results.md: ``python docs/make_results.py`` trains what is missing and writes the table.

Each cell is one run of the command line, seeds 0 to 4, one thread, two runs at a time; its final policy (``last.pt``)
is evaluated on 100 episodes with seed 0. A run that is finished is skipped, so the table can be filled over days. One
file per run stays in docs/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parent
SEEDS = range(5)
CELLS = {
    "sac-pendulum": ["train", "sac", "--env", "Pendulum-v1"],
    "bc-pendulum-medium-replay": ["offline", "bc", "--dataset", "datasets/pendulum-medium-replay.h5", "--env",
                                  "Pendulum-v1"],
    "cql-pendulum-medium-replay": ["offline", "cql", "--dataset", "datasets/pendulum-medium-replay.h5", "--env",
                                   "Pendulum-v1"],
}  # fmt: skip
TITLES = {
    "sac-pendulum": "sac, Pendulum-v1",
    "bc-pendulum-medium-replay": "bc, pendulum-medium-replay",
    "cql-pendulum-medium-replay": "cql, pendulum-medium-replay",
}


def rlox(*words: str) -> dict[str, Any]:
    """Run a command with --json and return its result."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-P", "-m", "rlox", *words, "--json", "-q"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")
    return json.loads(done.stdout)["result"]


def fill(cell: str, seed: int, runs: Path) -> None:
    """Train and evaluate one cell unless its file is there."""
    out = HERE / "results" / f"{cell}-s{seed}.json"
    if out.is_file():
        return
    run = runs / f"{cell}-s{seed}"
    trained = rlox(*CELLS[cell], "--seed", str(seed), "--threads", "1", "--run-dir", str(run), "--no-link",
                   "--no-tensorboard")  # fmt: skip
    scored = rlox("eval", str(run / "checkpoints" / "last.pt"), "--episodes", "100", "--n-envs", "10")
    row = {
        "command": " ".join(["rlox", *CELLS[cell], "--seed", str(seed), "--threads", "1"]),
        "eval": "rlox eval last.pt --episodes 100 --n-envs 10",
        "seed": seed,
        "step": trained["step"],
        "seconds": trained["seconds"],
        "return_mean": scored["return_mean"],
        "return_std": scored["return_std"],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
    }
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(row, indent=1) + "\n")
    print(out.name, round(row["return_mean"], 1), flush=True)


def interval(scores: list[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean over runs."""
    rng = np.random.default_rng(0)
    means = rng.choice(scores, (50_000, len(scores))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def table() -> str:
    """Return the results as Markdown, from the files alone."""
    lines = ["| run | seed 0 | 1 | 2 | 3 | 4 | mean | IQM | 95 % interval |", "|---|---|---|---|---|---|---|---|---|"]
    for cell, title in TITLES.items():
        files = [HERE / "results" / f"{cell}-s{seed}.json" for seed in SEEDS]
        rows = [json.loads(f.read_text()) if f.is_file() else None for f in files]
        scores = [r["return_mean"] for r in rows if r is not None]
        if not scores:
            continue
        shown = " | ".join("–" if r is None else f"{r['return_mean']:.1f}" for r in rows)
        cut = len(scores) // 4
        iqm = float(np.mean(sorted(scores)[cut : len(scores) - cut]))
        low, high = interval(scores)
        lines.append(f"| {title} | {shown} | {np.mean(scores):.1f} | {iqm:.1f} | [{low:.1f}, {high:.1f}] |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "results", help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    todo = [(cell, seed) for cell in CELLS if args.only in cell for seed in SEEDS]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda job: fill(*job, args.runs), todo))
    page = HERE / "results.md"
    if page.is_file():
        head, _, rest = page.read_text().partition("<!-- table -->\n")
        _, _, tail = rest.partition("<!-- end of table -->")
        page.write_text(f"{head}<!-- table -->\n{table()}<!-- end of table -->{tail}")
    print(table())


if __name__ == "__main__":
    main()
