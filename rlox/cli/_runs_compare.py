"""``rlox runs compare``: groups of runs side by side, with intervals over runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from ..config.fields import option, options_of
from ..config.sections import Section
from ..errors import NotFoundError
from ..files import shortest
from ..runs.groups import Group, Score, group_runs, score, unknown_metric
from ..runs.reading import RunRecord, progress
from ._commands import Command
from ._options import Flag, flag, typed
from ._output import current
from ._plot import letter_of
from ._runs import as_row, group_by_flag, named, plain, runs_argument, runs_dir_flag, select, unfinished, warn_each

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_HELP = """Compare groups of runs: interquartile mean, bootstrap interval over runs, probability of improvement.

Runs that differ only in their seed are one group. A run counts by the last value of the metric; runs that are not
finished and values that are NaN are left out and said. Intervals are percentiles of a bootstrap that resamples runs
within each task.

Examples:
  rlox runs compare runs/sac/Pendulum-v1
  rlox runs compare runs/sac runs/td3 --metric eval/return_mean --by-seed
  rlox runs compare runs/sac/Pendulum-v1 --group-by learning_rate --json
"""
ALL = "all"  # the task of a row over all tasks


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Section):
    """The flags of ``rlox runs compare`` with a value each."""

    metric: str = option("eval/return_mean", "What runs are compared by", panel="Options", metavar="NAME")
    at: Literal["last", "best"] = option("last", "A run's last value, or its highest, which flatters", panel="Options")
    ci: float = option(0.95, "Level of the intervals", panel="Options", gt=0, lt=1)


@dataclass(frozen=True)
class _Cell:
    """The scores of one group on one task, or pooled over several: one array per task."""

    label: str
    task: str
    strata: list[ArrayLike]


def command() -> Command:
    """Return the command."""
    params = [
        runs_argument(),
        *map(flag, options_of(CompareOptions)),
        Flag("--by-seed", help="Also show each run's score", switch=True),
        Flag("--pool", help="One row per group over all tasks; for scores on one scale", switch=True),
        Flag("--unfinished", help="Count runs that are not finished too", switch=True),
        group_by_flag(),
        runs_dir_flag(),
    ]
    return Command("compare", help=_HELP, callback=_compare, codes=(0, 2, 3), params=params)


def _compare(
    runs: tuple[str, ...],
    by_seed: bool | None,
    pool: bool | None,
    unfinished: bool | None,
    group_by: tuple[str, ...],
    runs_dir: str | None,
    **given: Any,
) -> None:
    from ..runs.aggregate import RESAMPLES

    out = current()
    options: CompareOptions = typed(CompareOptions, given)
    records = select(runs, runs_dir)
    grouping = group_runs(records, group_by)
    scores = {run.path: _score(run, options, bool(unfinished)) for run in records}
    if all(s.value is None for s in scores.values()):
        raise _nothing(records, scores, options)
    for text in grouping.notes:
        out.warn(text)
    warn_each(f"left out: {s.why}" for s in scores.values() if s.value is None)
    warn_each(_ended_early(list(scores.values())))
    cells = _cells(grouping.groups, scores, bool(pool))
    labels = list(dict.fromkeys(group.label for group in grouping.groups))
    out.data(metric=options.metric, at=options.at, level=options.ci, resamples=RESAMPLES, pooled=bool(pool))
    _print_groups(cells, labels, options)
    _print_pairs(cells, labels, options)
    if by_seed or out.json:
        _print_runs(grouping.groups, scores, labels)


def _score(run: RunRecord, options: CompareOptions, unfinished_too: bool) -> Score:
    if run.state != "finished" and not unfinished_too:
        return Score(run, None, why=f"{unfinished(run, progress(run).step)}; `--unfinished` counts it")
    found = score(run, options.metric, options.at)
    return found if found.why is None else Score(run, None, found.step, f"{shortest(run.path)} {found.why}")


def _nothing(records: Sequence[RunRecord], scores: dict[Any, Score], options: CompareOptions) -> Exception:
    """Return why nothing can be compared: no run has the metric, or none that has it counts."""
    if all(score(run, options.metric).step is None for run in records):
        return unknown_metric(options.metric, records, "--metric")
    first = next(s.why for s in scores.values() if s.why)
    return NotFoundError(f"none of {len(records)} runs can be compared: {first}", value=options.metric)


def _ended_early(scores: Sequence[Score]) -> Iterator[str]:
    for s in scores:
        if s.value is not None and s.run.state == "finished" and s.run.status.get("stopped_by"):
            yield f"{shortest(s.run.path)} ended at step {s.run.status.get('step')} of {s.run.total}, " + (
                f"stopped by {s.run.status['stopped_by']}"
            )


def _cells(groups: Sequence[Group], scores: dict[Any, Score], pool: bool) -> list[_Cell]:
    """Return the scores of each group on each task, or of each group over its tasks."""
    tasks = list(dict.fromkeys(group.task for group in groups))
    groups = sorted(groups, key=lambda group: tasks.index(group.task))
    single = [(g, [v for run in g.runs if (v := scores[run.path].value) is not None]) for g in groups]
    if not pool:
        return [_Cell(g.label, g.task, [values] if values else []) for g, values in single]
    pooled: dict[str, _Cell] = {}
    for group, values in single:
        cell = pooled.setdefault(group.label, _Cell(group.label, ALL, []))
        cell.strata.extend([values] if values else [])
    return list(pooled.values())


def _print_groups(cells: Sequence[_Cell], labels: Sequence[str], options: CompareOptions) -> None:
    from ..runs.aggregate import summarize

    out = current()
    rows = []
    for cell in cells:
        row: dict[str, Any] = {"group": cell.label, "task": cell.task, "n": 0}
        if cell.strata:
            s = summarize(cell.strata, level=options.ci)
            row |= {"n": s.n} | {k: plain(getattr(s, k)) for k in ("mean", "std", "median", "iqm")}
            row |= {"iqm_low": plain(s.low), "iqm_high": plain(s.high)}
        rows.append(row)
    columns = ["group", "task", "n", "mean", "std", "median", "iqm", "iqm_low", "iqm_high"]
    if out.json or not out.on_terminal:
        out.table(columns, [as_row(row, columns) for row in rows], name="groups")
        return
    value = "last" if options.at == "last" else "highest"
    out.line(f"{options.metric} ({value} value); low, high: {100 * options.ci:g}% interval of the IQM")
    short = [[letter_of(labels.index(row["group"]), 2), *as_row(row, columns)] for row in rows]
    one_task = len({cell.task for cell in cells}) == 1
    out.table(["#", "group", "task", "n", "mean", "std", "median", "IQM", "low", "high"], short,
              optional=(*(["task"] if one_task else []), "median", "std", "mean"), whole=("#", "task"))  # fmt: skip


def _print_pairs(cells: Sequence[_Cell], labels: Sequence[str], options: CompareOptions) -> None:
    """Show each pair of groups: who is better how often, and by how much."""
    out = current()
    rows = [row for a, b in combinations(labels, 2) for row in _pair(cells, a, b, options)]
    columns = ["a", "b", "task", "probability", "low", "high", "difference", "difference_low", "difference_high"]
    if out.json or not out.on_terminal:
        if rows or out.json:
            out.line("")
            out.table(columns, [as_row(row, columns) for row in rows], name="pairs")
        return
    if not rows:
        return
    out.line("")
    out.line("P: probability that a run of the first scores higher; difference of the IQMs")
    if any(row["task"] == ALL for row in rows):
        out.line(f"{ALL}: P averaged over the tasks")
    short = [
        [f"{letter_of(labels.index(row['a']), 2)} > {letter_of(labels.index(row['b']), 2)}", *as_row(row, columns[2:])]
        for row in rows
    ]
    one_task = len({row["task"] for row in rows}) == 1
    out.table(["pair", "task", "P", "low", "high", "difference", "d low", "d high"], short,
              optional=(*(["task"] if one_task else []), "d high", "d low"), whole=("pair", "task"))  # fmt: skip


def _pair(cells: Sequence[_Cell], a: str, b: str, options: CompareOptions) -> Iterator[dict[str, Any]]:
    """Yield a row for each task that both groups have scores on, and where there are several one over all of them."""
    from ..runs.aggregate import difference, improvement_interval, probability_of_improvement

    of_a, of_b = ({cell.task: cell.strata for cell in cells if cell.label == label and cell.strata} for label in (a, b))
    common = [task for task in of_a if task in of_b]
    if common == [ALL] and len(of_a[ALL]) != len(of_b[ALL]):
        current().warn(f"{a} and {b} have different tasks: no probability over all of them")
        common = []
    for task in common:
        x, y = of_a[task], of_b[task]
        low, high = improvement_interval(x, y, level=options.ci)
        apart, apart_low, apart_high = difference(x, y, level=options.ci)
        yield {"a": a, "b": b, "task": task, "probability": probability_of_improvement(x, y), "low": plain(low),
               "high": plain(high), "difference": apart, "difference_low": plain(apart_low),
               "difference_high": plain(apart_high)}  # fmt: skip
    if len(common) > 1:
        x, y = ([stratum for task in common for stratum in of[task]] for of in (of_a, of_b))
        low, high = improvement_interval(x, y, level=options.ci)
        yield {"a": a, "b": b, "task": ALL, "probability": probability_of_improvement(x, y), "low": plain(low),
               "high": plain(high)}  # fmt: skip


def _print_runs(groups: Sequence[Group], scores: dict[Any, Score], labels: Sequence[str]) -> None:
    """Show what each run counts with, those left out included."""
    out = current()
    rows = [
        {"group": group.label, "task": group.task, "seed": run.seed, "score": scores[run.path].value,
         "step": scores[run.path].step, "status": run.state, "run": named(run), "left_out": scores[run.path].why}
        for group in groups for run in sorted(group.runs, key=lambda r: (r.seed is None, r.seed or 0))
    ]  # fmt: skip
    columns = ["group", "task", "seed", "score", "step", "status", "run"]
    out.line("")
    if out.json or not out.on_terminal:
        columns = [*columns, "left_out"]
        out.table(columns, [as_row(row, columns) for row in rows], name="runs")
        return
    short = [[letter_of(labels.index(row["group"]), 2), *as_row(row, columns[1:])] for row in rows]
    one_task = len({row["task"] for row in rows}) == 1
    out.table(["#", *columns[1:]], short, optional=("run", *(["task"] if one_task else []), "step", "status"),
              whole=("#", "task", "run"))  # fmt: skip
