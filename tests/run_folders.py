"""Run directories as rlox leaves them, without a training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlox.config.toml import dumps

CONFIG: dict[str, dict[str, Any]] = {
    "run": {"env": "Pendulum-v1", "steps": 20000, "n_envs": 1, "seed": 0, "patience": 0},
    "algo": {"net_arch": [256, 256], "learning_rate": 0.001, "gamma": 0.99, "batch_size": 256, "ent_coef": "auto"},
    "eval": {"eval_freq": 5000, "eval_episodes": 5, "n_eval_envs": 1, "deterministic": True},
    "checkpoint": {"save_freq": 10000, "keep_last": 3},
    "log": {"log_interval": 1000},
    "hardware": {"device": "auto", "threads": 1},
}


def make_run(
    path: Path | str,
    returns: Mapping[int, float | None] | Sequence[float | None] = (),
    *,
    seed: int = 0,
    algorithm: str = "sac",
    env: str | None = "Pendulum-v1",
    dataset: tuple[str, str] | None = None,
    status: str | None = "finished",
    started: str = "2026-11-20T10:00:00Z",
    total: int = 20000,
    train: bool = True,
    meta: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write a run directory; ``returns`` of its evaluations are by step, or at equal distances up to ``total``.

    ``config`` replaces values of ``[algo]``, or with ``section__name`` of another table; ``more`` joins status.json.
    """
    path = Path(path)
    (path / "checkpoints").mkdir(parents=True)
    (path / "run.lock").write_text("1 2026-11-20T10:00:00Z\n")
    tables = {name: dict(table) for name, table in CONFIG.items()}
    tables["run"] |= {"seed": seed, "steps": total}
    if env is None:
        del tables["run"]["env"]
    else:
        tables["run"]["env"] = env
    if dataset is not None:
        tables["run"]["dataset"] = dataset[0]
    for key, value in config.items():
        section, _, name = key.rpartition("__")
        tables[section or "algo"][name] = value
    (path / "config.toml").write_text(dumps(tables))
    about = {
        "schema": "rlox.run/1", "algorithm": algorithm, "kind": "online" if dataset is None else "offline",
        "argv": ["rlox", "train", algorithm], "started": started, "name": None, "tags": [], "seed": seed, "preset": None,
        "env": None if env is None else {"id": env if ":" not in env else None, "text": env, "kwargs": {}},
        "dataset": None if dataset is None else {"path": dataset[0], "sha256": dataset[1]},
        "git": {"commit": "0123456789abcdef", "dirty": False}, "versions": {"rlox": "0.1.0"}, "device": "cpu", "threads": 1,
    }  # fmt: skip
    (path / "meta.json").write_text(json.dumps({**about, **(meta or {})}))
    if not isinstance(returns, Mapping):
        returns = {total * (i + 1) // len(returns): value for i, value in enumerate(returns)}
    rows: list[dict[str, Any]] = []
    for step, value in returns.items():
        rows.append({"kind": "eval", "step": step, "metrics": {"eval/return_mean": value, "eval/n_episodes": 5}})
        if train:
            rows.append({"kind": "train", "step": step,
                         "metrics": {"train/critic_loss": 1.5, "time/time_elapsed_s": step / 100}})  # fmt: skip
    lines = [{"schema": "rlox.metrics/1", "rlox": "0.1.0"}, *rows]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if status is not None:
        said = {"status": status, "exit_code": 0 if status == "finished" else 1, "reason": status,
                "step": max(returns, default=0), **(more or {})}  # fmt: skip
        (path / "status.json").write_text(json.dumps(said))
    return path


def tree(root: Path | str = "runs", algorithm: str = "sac", env: str = "Pendulum-v1") -> Path:
    """Return the folder in which the runs of an algorithm in an environment lie."""
    return Path(root) / algorithm / env
