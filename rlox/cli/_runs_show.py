"""``rlox runs show``: one run in full, and what to do with it next."""

from __future__ import annotations

import os
import shlex
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..config.fields import option, options_of
from ..config.resolve import shown
from ..config.sections import Section
from ..errors import RloxError
from ..files import shortest
from ..runs.commands import eval_words, group_of, own_words, resume_words
from ..runs.lock import lock_holder
from ..runs.reading import Progress, RunRecord, measured, pick_run, progress
from ._commands import Command
from ._completion import run_paths
from ._completion import runs_dir as root_of
from ._options import Argument, flag, typed
from ._output import current
from ._runs import as_row, named, runs_dir_flag

_HELP = """Show one run: what it is, how far it is, its config, its last metrics, its checkpoints, and what to do next.

Examples:
  rlox runs show latest
  rlox runs show runs/sac/Pendulum-v1/20261125T004555Z-s0-0bfe --tail 5
"""
# What is shown first of a run's metrics where not all columns fit.
_METRICS = ("eval/return_mean", "rollout/return_mean", "train/critic_loss", "train/actor_loss", "train/loss",
            "time/steps_per_second", "eval/return_std")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ShowOptions(Section):
    """The flags of ``rlox runs show`` with a value each."""

    tail: int = option(20, "Rows of metrics to show", panel="Options", ge=0)


def command() -> Command:
    """Return the command."""
    params = [
        Argument("run", metavar="RUN", help="A run directory, its name, or latest", completion=run_paths),
        *map(flag, options_of(ShowOptions)),
        runs_dir_flag(),
    ]
    return Command("show", help=_HELP, callback=_show, codes=(0, 2, 3, 4), params=params)


def _show(run: str, runs_dir: str | None, **given: Any) -> None:
    out = current()
    options: ShowOptions = typed(ShowOptions, given)
    record = pick_run(run, root_of(runs_dir))
    for problem in record.problems:
        out.warn(problem)
    far = progress(record)
    about = _about(record, far)
    out.record(about if out.json else {k: v for k, v in about.items() if v is not None and v != []})
    origins = record.meta.get("origins")
    origins = origins if isinstance(origins, dict) else {}
    out.line("")
    rows = [(key, value if out.json else shown(value), origins.get(key)) for key, value in record.config.items()]
    known = 3 if origins or not out.on_terminal else 2
    out.table(["key", "value", "origin"][:known], [row[:known] for row in rows], name="config")
    _print_metrics(list(deque(measured(record), options.tail)))
    _print_checkpoints(record, far)
    out.line("")
    out.record({"next": _commands(record)})


def _about(run: RunRecord, far: Progress) -> dict[str, Any]:
    """Return what a run is and how far it is."""
    git, status = _mapping(run.meta.get("git")), run.status
    resumed = run.meta.get("resumed")
    return {
        "path": named(run),
        "status": run.state,
        **{name: status.get(name) for name in ("reason", "stopped_by", "error", "exit_code")},
        "held_by": lock_holder(run.path) if run.state == "running" else None,
        "algorithm": run.algorithm,
        "env": run.env,
        "env_kwargs": _mapping(_mapping(run.meta.get("env")).get("kwargs")) or None,
        "dataset": run.dataset,
        "seed": run.seed,
        "name": run.meta.get("name"),
        "tags": list(run.tags),
        "step": far.step,
        "total": run.total,
        "last_return": far.last,
        "best_return": far.best,
        "best_step": far.best_step,
        "started": run.started,
        "resumed": len(resumed) if isinstance(resumed, list) else None,
        "seconds": status.get("seconds"),
        "preset": run.meta.get("preset"),
        "device": run.meta.get("device"),
        "threads": run.meta.get("threads"),
        "commit": git.get("commit"),
        "uncommitted_changes": git.get("dirty"),
        "versions": _mapping(run.meta.get("versions")) or None,
    }


def _print_metrics(rows: list[dict[str, Any]]) -> None:
    """Show the last rows; as a table those of one step are one row."""
    out = current()
    if out.json:
        out.data(metrics=rows)
        return
    by_step: dict[int, dict[str, Any]] = {}
    for row in rows:
        by_step.setdefault(row["step"], {}).update(row["metrics"])
    names = dict.fromkeys(name for metrics in by_step.values() for name in metrics)
    columns = [name for name in _METRICS if name in names]
    rest = sorted(name for name in names if name not in columns)
    if not out.on_terminal:
        columns += rest
    if columns:
        out.line("")
        out.table(["step", *columns], [[step, *as_row(metrics, columns)] for step, metrics in by_step.items()],
                  name="metrics", optional=columns[:0:-1])  # fmt: skip


def _print_checkpoints(run: RunRecord, far: Progress) -> None:
    """Show the checkpoints, each checked; nothing in them is run."""
    from ..checkpoint import read_manifest

    rows = []
    for path in sorted((run.path / "checkpoints").glob("*.pt")):
        step, problem = None, None
        try:
            step = read_manifest(path).get("step")
        except RloxError as error:
            problem = error.message
        rows.append([path.name, step, path.stat().st_size, problem])
    if rows or current().json:
        columns = ["checkpoint", "step", "bytes", "problem"]
        current().line("")
        keep = -1 if current().on_terminal and not current().json and not any(row[-1] for row in rows) else len(columns)
        current().table(columns[:keep], [row[:keep] for row in rows], name="checkpoints")


def _commands(run: RunRecord) -> dict[str, str]:
    """Return what can be done next with a run, as it would be typed."""
    path, env, imports = named(run), _mapping(run.meta.get("env")), _imports(run)
    text = env.get("text") if isinstance(env.get("text"), str) else None
    commands = {}
    best = next((run.path / "checkpoints" / name for name in ("best.pt", "last.pt")
                 if (run.path / "checkpoints" / name).is_file()), None)  # fmt: skip
    if best is not None:
        again = text is not None and (":" in text or not env.get("id"))
        words = eval_words(shortest(best), run.algorithm, imports, text if again else None, _mapping(env.get("kwargs")))
        commands["evaluate"] = shlex.join(words) + (" --env ID" if run.env is None else "")
    if run.resumable:
        commands["resume"] = shlex.join(resume_words(run.kind, run.algorithm, path, imports, text))
    elif run.state not in ("running", "finished"):
        words = ["rlox", group_of(run.kind), run.algorithm, "--config", os.path.join(path, "config.toml")]
        commands["start again"] = shlex.join([*words, *own_words(imports, text)])
    return {**commands, "plot": shlex.join(["rlox", "runs", "plot", path])}


def _imports(run: RunRecord) -> list[str]:
    """Return the packages that the command of a run imported."""
    argv = run.meta.get("argv")
    words = [str(word) for word in argv] if isinstance(argv, list) else []
    after = [value for word, value in pairwise(words) if word == "--import"]
    return after + [word.partition("=")[2] for word in words if word.startswith("--import=")]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
