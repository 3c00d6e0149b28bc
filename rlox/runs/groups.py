"""Runs that differ only in their seed, put together; and the one number that each run is judged by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.resolve import shown
from ..errors import ConfigError, closest, printable
from .reading import RunRecord, metric_names, values_of

SECTIONS = ("run", "algo", "eval")  # what is outside of them changes no result
# What makes no other group: the seed, what the task says already, and what does not change the final policy.
ASIDE = ("run.seed", "run.env", "run.dataset", "run.max_time", "eval.eval_freq", "eval.n_eval_envs")
META = ("name", "tags", "commit", "rlox")


@dataclass(frozen=True)
class Group:
    """Runs of one algorithm on one task with equal values.

    Attributes
    ----------
    label : str
        What distinguishes it from the other groups, the task aside.
    task : str
        Environment or dataset.
    values : dict
        The grouping keys with their values.
    """

    label: str
    task: str
    algorithm: str
    values: dict[str, Any]
    runs: tuple[RunRecord, ...]


@dataclass(frozen=True)
class Score:
    """What a run is judged by: a value of a metric and its step, or why there is none."""

    run: RunRecord
    value: float | None
    step: int | None = None
    why: str | None = None


@dataclass(frozen=True)
class Grouping:
    """Groups in the order in which their first run was given, and what the user should know about them."""

    groups: tuple[Group, ...]
    notes: tuple[str, ...]


def group_runs(runs: Sequence[RunRecord], by: Iterable[str] = ()) -> Grouping:
    """Put runs together that have the same algorithm, task and values.

    Parameters
    ----------
    runs : sequence of RunRecord
    by : iterable of str
        The keys to distinguish by: ``section.name``, a name alone, ``name``, ``tags``, ``commit`` or ``rlox``
        (version). Default: every key of the tables run, algo and eval in which runs of the same algorithm and task
        differ, other than the seed.

    Raises
    ------
    ConfigError
        No run has such a key.
    """
    asked = [_find_key(key, runs) for key in by]
    keys = asked or _differing(runs)
    tasks = _tasks(runs)
    found: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        identity = (run.algorithm, tasks[run.path], *(repr(_value(run, key)) for key in keys))
        found.setdefault(identity, []).append(run)
    several = len({run.algorithm for run in runs}) > 1
    groups = tuple(_group(members, identity[1], keys, several, runs) for identity, members in found.items())
    return Grouping(groups, tuple(_notes(groups, runs, bool(asked))))


def score(run: RunRecord, metric: str, at: str = "last") -> Score:
    """Return the last (or best: highest) value of a metric of a run.

    The last value is that of the newest row which has the metric; where it is NaN or infinite the run has no score,
    because an earlier value would flatter it.
    """
    values = values_of(run, metric)
    if not values:
        return Score(run, None, why=f"has no {metric}")
    step, value = values[-1]
    if at == "best":
        step, value = max(values, key=lambda pair: float("-inf") if pair[1] is None else pair[1])
    if value is None:
        return Score(run, None, step, f"{metric} is NaN or infinite at step {step}")
    return Score(run, value, step)


def unknown_metric(name: str, runs: Sequence[RunRecord], param: str) -> ConfigError:
    """Return the error for a metric that no run has, with the nearest names."""
    names = sorted({found for run in runs[:10] for found in metric_names(run)})
    same_end = [found for found in names if found.rpartition("/")[2] == name.rpartition("/")[2]]
    near = same_end or closest(name, names)
    hint = f"did you mean {near[0]!r}?" if near else f"they have {', '.join(names[:8])}" if names else None
    return ConfigError(f"no run has the metric {printable(name)!r}", hint=hint, param=param, value=name,
                       suggestions=near or names)  # fmt: skip


def _group(
    members: list[RunRecord], task: str, keys: Sequence[str], several: bool, runs: Sequence[RunRecord]
) -> Group:
    values = {key: _value(members[0], key) for key in keys}
    own = [key for key in keys if _differs(key, [r for r in runs if r.algorithm == members[0].algorithm])]
    parts = [members[0].algorithm] if several or not own else []
    parts += [f"{_short(key, keys)}={shown(values[key])}" for key in own]
    return Group(printable(" ".join(parts)), task, members[0].algorithm, values, tuple(members))


def _differing(runs: Sequence[RunRecord]) -> list[str]:
    """Return the keys in which runs of one algorithm on one task differ, in the order of the configs."""
    together: dict[tuple[str, str], list[RunRecord]] = {}
    tasks = _tasks(runs)
    for run in runs:
        together.setdefault((run.algorithm, tasks[run.path]), []).append(run)
    keys = dict.fromkeys(key for run in runs for key in run.config)
    compared = [key for key in keys if key.partition(".")[0] in SECTIONS and key not in ASIDE]
    found = [key for key in compared if any(_differs(key, members) for members in together.values())]
    # A dataset says nothing of the environment that its policies are evaluated in.
    return found + ["env"] * any(m[0].dataset is not None and _differs("env", m) for m in together.values())


def _differs(key: str, runs: Sequence[RunRecord]) -> bool:
    return len({repr(_value(run, key)) for run in runs}) > 1


def _value(run: RunRecord, key: str) -> Any:
    if key == "env":
        return run.env
    if key == "name":
        return run.meta.get("name")
    if key == "tags":
        return ",".join(sorted(run.tags)) or None
    if key in ("commit", "rlox"):
        table = run.meta.get("git" if key == "commit" else "versions")
        found = table.get(key) if isinstance(table, dict) else None
        return found[:8] if key == "commit" and isinstance(found, str) else found
    return run.config.get(key)


def _find_key(name: str, runs: Sequence[RunRecord]) -> str:
    """Return the full key that was meant."""
    name = {"tag": "tags"}.get(name, name)
    keys = dict.fromkeys(key for run in runs for key in run.config)
    fitting = [key for key in [*META, *keys] if name in (key, key.partition(".")[2], key.rpartition(".")[2])]
    if fitting:
        return fitting[0]
    by_name = {key.partition(".")[2] or key: key for key in [*META, *keys]}
    near = closest(name, by_name)
    raise ConfigError(f"no run has the key {printable(name)!r}", param="--group-by", value=name, suggestions=near,
                      hint=f"did you mean {near[0]!r}?" if near else "`rlox runs show RUN` lists a run's keys")  # fmt: skip


def _tasks(runs: Iterable[RunRecord]) -> dict[Path, str]:
    """Return the task of each run, with the first digits of the dataset's digest where two datasets have one name."""
    runs = list(runs)
    digests: dict[str, set[str]] = {}
    for run in runs:
        if run.dataset is not None:
            digests.setdefault(run.task, set()).add(_digest(run))
    return {
        run.path: f"{run.task}@{_digest(run)[:8]}" if run.dataset and len(digests[run.task]) > 1 else run.task
        for run in runs
    }


def _digest(run: RunRecord) -> str:
    dataset = run.meta.get("dataset")
    return str(dataset.get("sha256")) if isinstance(dataset, dict) else ""


def _short(key: str, keys: Sequence[str]) -> str:
    """Return a key without its table, where that is enough."""
    short = key.partition(".")[2] or key
    return short if [k.partition(".")[2] or k for k in keys].count(short) == 1 else key


def _notes(groups: Sequence[Group], runs: Sequence[RunRecord], asked: bool) -> Iterable[str]:
    for group in groups:
        name = f"{group.label} on {group.task}"
        seeds = [run.seed for run in group.runs]
        twice = sorted({seed for seed in seeds if seed is not None and seeds.count(seed) > 1})
        if twice:
            yield f"{name}: seed {', '.join(map(str, twice))} more than once: equal seeds are no independent runs"
        differing = _differing(group.runs) if asked else []
        if differing:
            yield f"{name}: its runs differ in {', '.join(_short(key, differing) for key in differing)}"
    if not asked and any(_differs(key, runs) for key in ("commit", "rlox")):
        made = dict.fromkeys(f"rlox {_value(run, 'rlox')} commit {_value(run, 'commit') or '?'}" for run in runs)
        yield f"the runs were made by different code: {', '.join(made)}"
