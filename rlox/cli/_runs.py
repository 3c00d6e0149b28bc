"""What the commands on run directories share: which runs are meant, and what is said of those that are not taken."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import NotFoundError, printable
from ..files import shortest
from ..runs.reading import Found, RunRecord, pick_runs
from ._completion import run_paths, runs_dir
from ._options import Argument, Flag
from ._output import current


def runs_argument() -> Argument:
    """Return the argument ``RUN…``."""
    return Argument("runs", metavar="RUN", many=True, completion=run_paths,
                    help="Run directories, folders of them, names, or latest")  # fmt: skip


def runs_dir_flag() -> Flag:
    """Return ``--runs-dir``."""
    return Flag("--runs-dir", help="Where names and latest are looked up; also RLOX_RUNS_DIR", default="runs",
                metavar="DIR")  # fmt: skip


def group_by_flag() -> Flag:
    """Return ``--group-by``."""
    return Flag("--group-by", metavar="KEY", multiple=True,
                help="Tell groups apart by this key alone, e.g. learning_rate, name or tags; repeatable")  # fmt: skip


def select(texts: Sequence[str], given_runs_dir: str | None) -> list[RunRecord]:
    """Return the runs that are meant; what is passed over is said. NotFoundError when none is left."""
    found = pick_runs(texts, runs_dir(given_runs_dir))
    say_skipped(found)
    if not found.runs:
        what = ", ".join(printable(text) for text in texts[:3]) + (", …" if len(texts) > 3 else "")
        raise NotFoundError(f"no run in {what}", hint="`rlox runs list` shows those that there are", value=texts[0])
    return found.runs


def say_skipped(found: Found) -> None:
    """Warn of folders that were passed over, and of what could not be read in the others."""
    warn_each((f"skipped {printable(shortest(path))}: {why}" for path, why in found.skipped), most=2)
    warn_each((problem for run in found.runs for problem in run.problems), most=2)


def warn_each(texts: Iterable[str], most: int = 5) -> None:
    """Warn of several things of one kind; on stderr of the first few, in the JSON document of all."""
    out, texts = current(), list(texts)
    for text in texts[:most]:
        out.warn(text)
    if len(texts) > most:
        out.warn(f"and {len(texts) - most} more like these")
        out.warnings[-1:] = texts[most:]


def unfinished(run: RunRecord, step: int) -> str:
    """Return how far a run is that is not finished, in words."""
    verb = {"running": "is running", "interrupted": "was interrupted"}.get(run.state, run.state)
    return f"{printable(shortest(run.path))} {verb} at step {step} of {run.total or '?'}"


def plain(value: float | None) -> float | None:
    """Return a figure, None where there is none."""
    return None if value is None or value != value else float(value)


def named(run: RunRecord) -> str:
    """Return a run's path as a user would type it."""
    return os.path.normpath(shortest(run.path))


def as_row(mapping: dict[str, Any], columns: Iterable[str]) -> list[Any]:
    """Return the values of some columns."""
    return [mapping.get(column) for column in columns]
