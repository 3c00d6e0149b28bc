"""``rlox runs``: what run directories say, from their files alone: no server, no database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import Any, Literal

from ..config.fields import option, options_of
from ..config.sections import Section
from ..errors import printable
from ..runs.reading import Progress, RunRecord, find_runs, progress
from ._commands import Builder, Command, Group
from ._completion import ENV_IDS, runs_dir
from ._options import Argument, Flag, flag, typed
from ._output import current
from ._runs import as_row, named, say_skipped

_HELP = """Look at runs and compare them, from their folders alone.

Examples:
  rlox runs list --env Pendulum-v1
  rlox runs show latest
  rlox runs compare runs/sac/Pendulum-v1
  rlox runs plot runs/sac/Pendulum-v1 -o curves.png
"""
_LIST = """List runs, the newest first.

Examples:
  rlox runs list
  rlox runs list --algo sac --status finished --sort best
  rlox runs list /data/runs --json
"""
_COLUMNS = ("path", "algorithm", "env", "dataset", "seed", "status", "step", "total", "last_return", "best_return",
            "best_step", "started", "age_s", "tags")  # fmt: skip
_BY_METRICS = ("step", "last", "best")


@dataclass(frozen=True, kw_only=True)
class ListOptions(Section):
    """The flags of ``rlox runs list`` with a value each."""

    algo: str | None = option(None, "Only runs of this algorithm", panel="Select", metavar="ALGO")
    env: str | None = option(None, "Only runs in this environment, or on this dataset", panel="Select", metavar="ID")
    status: Literal["running", "finished", "interrupted", "diverged", "failed"] | None = option(
        None, "Only runs of this status", panel="Select"
    )
    sort: Literal["age", "path", "algorithm", "env", "seed", "status", "step", "last", "best"] = option(
        "age", "Order: the newest, furthest or best first, names and seeds rising", panel="Order"
    )
    limit: int = option(20, "Runs to show; 0: all", panel="Order", ge=0)


def build() -> Group:
    """Return the group of commands."""
    commands = {
        "list": ("List runs", _list_command),
        "show": ("Show one run", _builder("show")),
        "compare": ("Compare groups of runs by IQM and probability of improvement", _builder("compare")),
        "plot": ("Plot learning curves", _builder("plot")),
    }
    return Group("runs", commands, help=_HELP)


def _builder(name: str) -> Builder:
    return lambda: import_module(f"{__package__}._runs_{name}").command()


def _list_command() -> Command:
    options = [flag(o, (lambda text: ENV_IDS) if o.name == "env" else None) for o in options_of(ListOptions)]
    params = [
        Argument("folder", metavar="DIR", required=False, help="Folder of the runs; default: RLOX_RUNS_DIR, else runs"),
        *options,
        Flag("--tag", help="Only runs with this tag; repeatable", metavar="TAG", multiple=True, panel="Select"),
    ]
    return Command("list", help=_LIST, callback=_list, codes=(0, 2, 3), params=params)


def _list(folder: str | None, tag: tuple[str, ...], **given: Any) -> None:
    out = current()
    options: ListOptions = typed(ListOptions, given)
    root = runs_dir(folder)
    found = find_runs(root)
    say_skipped(found)
    runs = [run for run in found.runs if _fits(run, options, tag)]
    runs.sort(key=lambda run: (run.started or "", str(run.path)), reverse=True)
    rows = _ordered(runs, options)
    if not rows:
        out.note(f"no run in {printable(root)}" + (" that fits" if found.runs else ""))
    _print_list(rows)
    if len(rows) < len(runs):
        out.note(f"{len(rows)} of {len(runs)} runs; `--limit 0` shows all")


def _ordered(runs: list[RunRecord], options: ListOptions) -> list[tuple[RunRecord, Progress]]:
    """Return the runs to show, in order, with how far they are; where it can be the metrics of the others stay unread."""
    most = options.limit or None
    if options.sort in _BY_METRICS:
        rows = [(run, progress(run)) for run in runs]
        return sorted(rows, key=lambda row: _falling(getattr(row[1], options.sort)))[:most]
    if options.sort != "age":
        runs = sorted(runs, key=lambda run: _rising(run, options.sort))
    return [(run, progress(run)) for run in runs[:most]]


def _fits(run: RunRecord, options: ListOptions, tags: Sequence[str]) -> bool:
    algo = options.algo if options.algo is None or ":" in options.algo else options.algo.replace("-", "_")
    return (
        algo in (None, run.algorithm)
        and (options.env is None or options.env in (run.env, run.dataset, run.task))
        and options.status in (None, run.state)
        and set(tags) <= set(run.tags)
    )


def _falling(value: float | None) -> float:
    return float("inf") if value is None else -value


def _rising(run: RunRecord, key: str) -> tuple[Any, ...]:
    if key == "seed":
        return run.seed is None, run.seed or 0
    return ({"path": str(run.path), "algorithm": run.algorithm, "env": run.task, "status": run.state}[key],)


def _print_list(rows: Sequence[tuple[RunRecord, Progress]]) -> None:
    """Show one line per run; on a terminal the few columns that fit there."""
    out, now = current(), time.time()
    full = [
        {"path": named(run), "algorithm": run.algorithm, "env": run.env, "dataset": run.dataset, "seed": run.seed,
         "status": run.state, "step": far.step, "total": run.total, "last_return": far.last, "best_return": far.best,
         "best_step": far.best_step, "started": run.started, "age_s": _age(run, now), "tags": list(run.tags)}
        for run, far in rows
    ]  # fmt: skip
    if not out.on_terminal or out.json:
        out.table(_COLUMNS, [as_row(row, _COLUMNS) for row in full], name="runs")
        return
    short = [
        [run.label, run.algorithm, run.task, run.seed, run.state, _percent(far.step, run.total), far.last, far.best,
         _in_words(_age(run, now)), row["path"]]
        for (run, far), row in zip(rows, full, strict=True)
    ]  # fmt: skip
    if short:
        out.table(["run", "algo", "task", "seed", "status", "done", "last", "best", "age", "path"], short,
                  optional=("path", "seed", "age", "done", "best"), whole=("run", "task", "path", "age"))  # fmt: skip


def _age(run: RunRecord, now: float) -> float | None:
    """Return the seconds since a run was started."""
    try:
        return max(0.0, round(now - datetime.fromisoformat(run.started or "").timestamp(), 1))
    except ValueError:
        return None


def _in_words(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    for size, unit in ((172_800, "d"), (7200, "h"), (120, "m")):
        if seconds >= size:
            return f"{seconds / {'d': 86_400, 'h': 3600, 'm': 60}[unit]:.0f}{unit}"
    return f"{seconds:.0f}s"


def _percent(step: int, total: int | None) -> str | None:
    return f"{100 * min(step / total, 1):.0f}%" if total else None
