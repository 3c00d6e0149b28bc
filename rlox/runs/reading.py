"""What run directories say: found, opened and summed up from their files alone, without NumPy or a server."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError, NotFoundError, RloxError, RunError, printable
from ..files import shortest
from ..logging.read import read_metrics
from .left import has_generation
from .lock import lock_holder

SCHEMA = "rlox.run/1"
STATES = ("running", "finished", "interrupted", "diverged", "failed")
RETURN = "eval/return_mean"
ELAPSED = "time/time_elapsed_s"
MAX_BYTES = 4 * 2**20  # of a JSON or TOML file
MAX_DEPTH = 8  # folders between the root and a run
_STAMP = re.compile(r"\d{8}T\d{6}Z-")


@dataclass(frozen=True)
class RunRecord:
    """A run directory as it is now.

    Attributes
    ----------
    path : Path
        As it was named, or as it was found below what was named.
    meta, status : dict
        What ``meta.json`` and ``status.json`` say.
    config : dict
        The values of ``config.toml`` by ``section.name``, entries of table options by ``section.name.entry``.
    state : str
        ``running`` only where a living process holds the folder: a run that says it and has none is ``interrupted``.
    problems : tuple of str
        What could not be read.
    """

    path: Path
    meta: dict[str, Any]
    status: dict[str, Any]
    config: dict[str, Any]
    state: str
    problems: tuple[str, ...] = ()

    @property
    def algorithm(self) -> str:
        return _text(self.meta.get("algorithm")) or "?"

    @property
    def kind(self) -> str:
        """``online`` or ``offline``."""
        return "offline" if self.meta.get("kind") == "offline" else "online"

    @property
    def env(self) -> str | None:
        """The environment that is trained or evaluated in."""
        env = _table(self.meta.get("env"))
        return _text(env.get("id")) or _text(env.get("text"))

    @property
    def dataset(self) -> str | None:
        """The dataset's path as it was typed."""
        return _text(_table(self.meta.get("dataset")).get("path"))

    @property
    def task(self) -> str:
        """What the run was about: its dataset's name without ending, else its environment."""
        return Path(self.dataset).stem if self.dataset else self.env or "?"

    @property
    def seed(self) -> int | None:
        return _count(self.meta.get("seed"))

    @property
    def tags(self) -> tuple[str, ...]:
        tags = self.meta.get("tags")
        return tuple(str(tag) for tag in tags) if isinstance(tags, list) else ()

    @property
    def started(self) -> str | None:
        """UTC, ISO 8601."""
        return _text(self.meta.get("started"))

    @property
    def total(self) -> int | None:
        """Steps that the run was to make."""
        return _count(self.config.get("run.steps"))

    @property
    def label(self) -> str:
        """The folder's name without the time in it."""
        return label_of(self.path)

    @property
    def resumable(self) -> bool:
        """Whether it is not over and has something to go on from."""
        return self.state not in ("running", "finished") and has_generation(self.path)

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of ``metrics.jsonl``; none where there is no such file."""
        if (self.path / "metrics.jsonl").exists():
            yield from read_metrics(self.path / "metrics.jsonl")


@dataclass(frozen=True)
class Progress:
    """How far a run has come: the step of its newest row, and the returns of its evaluations."""

    step: int
    last: float | None
    best: float | None
    best_step: int | None


@dataclass
class Found:
    """Runs, and the folders that were passed over with the reason."""

    runs: list[RunRecord] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def open_run(path: str | os.PathLike[str]) -> RunRecord:
    """Read a run directory; its metrics are read when they are asked for.

    Raises
    ------
    NotFoundError
        No such folder, or one that is no run's.
    RunError
        Its ``meta.json`` is missing or damaged.
    """
    folder = Path(path)
    if not os.path.isdir(folder):
        what = f"{printable(path)} is no folder" if os.path.lexists(folder) else f"no run at {printable(path)}"
        raise NotFoundError(what, hint="`rlox runs list` shows those that there are", value=str(path))
    if not _is_run(folder):
        raise NotFoundError(f"{printable(path)} is no run directory", value=str(path),
                            hint="`rlox runs list` shows those that there are")  # fmt: skip
    meta = read_json(folder / "meta.json")
    schema = meta.get("schema")
    if schema != SCHEMA:
        raise RunError(f"{printable(folder / 'meta.json')} says schema {printable(schema)}, must be {SCHEMA}", value=str(path))
    problems: list[str] = []
    status = _kept(problems, read_json, folder / "status.json") if (folder / "status.json").exists() else {}
    config = _kept(problems, _read_config, folder / "config.toml")
    return RunRecord(folder, meta, status, config, _state(folder, status), tuple(problems))


def find_runs(root: str | os.PathLike[str]) -> Found:
    """Read every run below a folder, in the order of their paths.

    Torn and foreign folders are passed over and said: one that is a run's but cannot be read, and one that holds files
    and no run. Links to folders and hidden folders are not followed.

    Raises
    ------
    NotFoundError
        There is no such folder.
    """
    if not os.path.isdir(root):
        raise NotFoundError(f"no folder {printable(root)}", value=str(root),
                            hint="name the folder of the runs, or set RLOX_RUNS_DIR")  # fmt: skip
    found = Found()
    for folder, is_run in _folders(Path(root)):
        if not is_run:
            found.skipped.append((folder, "no run directory"))
            continue
        try:
            found.runs.append(open_run(folder))
        except RloxError as error:
            found.skipped.append((folder, error.message))
    return found


def label_of(path: Path) -> str:
    """Return the name of a run's folder without the time in it."""
    name = Path(os.path.abspath(path)).name
    return name[match.end() :] if (match := _STAMP.match(name)) else name


def run_folders(root: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the run directories below a folder, unread."""
    return (folder for folder, is_run in _folders(Path(root)) if is_run)


def pick_run(text: str, runs_dir: str | os.PathLike[str]) -> RunRecord:
    """Return the run that is meant: a folder, ``latest``, or the name or label of a run below ``runs_dir``.

    Raises
    ------
    NotFoundError
        There is none.
    ConfigError
        The name fits several.
    RunError
        It is damaged.
    """
    if os.path.lexists(text):
        return open_run(text)
    runs = find_runs(runs_dir).runs if os.path.isdir(runs_dir) else []
    if text == "latest":
        if not runs:
            raise NotFoundError(f"no run in {printable(runs_dir)}", value=text, hint="name the folder of a run")
        return max(runs, key=lambda run: (run.started or "", str(run.path)))
    fitting = [run for run in runs if text in (run.path.name, run.label)]
    if len(fitting) > 1:
        paths = [shortest(run.path) for run in fitting]
        raise ConfigError(f"{printable(text)} fits {len(fitting)} runs", hint=f"for example {paths[0]}", value=text,
                          suggestions=paths[:10])  # fmt: skip
    return fitting[0] if fitting else open_run(text)


def pick_runs(texts: Iterable[str], runs_dir: str | os.PathLike[str]) -> Found:
    """Return all runs that are meant, each once: as :func:`pick_run`, and all below a folder that is no run's.

    Raises
    ------
    NotFoundError
        One of them is not there.
    ConfigError
        A name fits several runs.
    """
    found = Found()
    for text in texts:
        if os.path.isdir(text) and not _is_run(Path(text)):
            below = find_runs(text)
            if not below.runs and not below.skipped:
                found.skipped.append((Path(text), "no run in it"))
            found.runs += below.runs
            found.skipped += below.skipped
            continue
        try:
            found.runs.append(pick_run(text, runs_dir))
        except RunError as error:
            found.skipped.append((Path(text), error.message))
    found.runs = list({os.path.realpath(run.path): run for run in found.runs}.values())
    return found


def progress(run: RunRecord) -> Progress:
    """Return how far a run has come."""
    step, returns = _count(run.status.get("step")) or 0, []
    for row in measured(run):
        step = max(step, row["step"])
        value = finite(row["metrics"].get(RETURN)) if row["kind"] == "eval" else None
        if value is not None:
            returns.append((value, row["step"]))
    best, best_step = max(returns, key=lambda pair: pair[0], default=(None, None))
    return Progress(step, returns[-1][0] if returns else None, best, best_step)


def values_of(run: RunRecord, name: str) -> list[tuple[int, float | None]]:
    """Return (step, value) of every row that has a metric; None for a value that is no finite number."""
    return [(row["step"], finite(row["metrics"][name])) for row in measured(run) if name in row["metrics"]]


def metric_names(run: RunRecord) -> list[str]:
    """Return the names of all metrics that a run has, sorted."""
    return sorted({name for row in measured(run) for name in row["metrics"]})


def measured(run: RunRecord) -> Iterator[dict[str, Any]]:
    """Yield the rows that have metrics."""
    return (row for row in run.metrics() if row["kind"] in ("train", "eval"))


def finite(value: object) -> float | None:
    """Return a value as a number that can be reckoned with, None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > sys.float_info.max:
        return None  # an integer of thousands of digits is a number in JSON and no float
    return float(value) if math.isfinite(value) else None


def _folders(root: Path, depth: int = 0) -> Iterator[tuple[Path, bool]]:
    """Yield the folders at which the search ends, and whether they are a run's."""
    if _is_run(root):
        yield root, True
        return
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError:
        yield root, False
        return
    folders = [e for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    if depth < MAX_DEPTH:
        for entry in folders:
            yield from _folders(root / entry.name, depth + 1)
    if depth and not folders and any(e.is_file() for e in entries):
        yield root, False


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("meta.json", "run.lock"))


def _state(folder: Path, status: Mapping[str, Any]) -> str:
    said = status.get("status")
    if said in STATES and said != "running":
        return str(said)
    return "running" if lock_holder(folder) else "interrupted"


def _kept(problems: list[str], read: Any, path: Path) -> dict[str, Any]:
    """Return what a file holds; where it is damaged nothing, and the reason joins the problems."""
    try:
        return read(path)  # type: ignore[no-any-return]
    except RunError as error:
        problems.append(error.message)
        return {}


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object of a run directory; RunError where it is missing, damaged or too large."""
    try:
        found = json.loads(_read(path))
    except (ValueError, RecursionError):
        raise RunError(f"{printable(path)} is not JSON", value=str(path)) from None
    if not isinstance(found, dict):
        raise RunError(f"{printable(path)} is no JSON object", value=str(path))
    return found


def _read_config(path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(_read(path).decode())
    except (ValueError, RecursionError):
        raise RunError(f"{printable(path)} is not TOML", value=str(path)) from None
    return {f"{section}.{key}": value for section, table in tables.items() for key, value in _flat(_table(table))}


def _read(path: Path) -> bytes:
    """Return a file's content; RunError where it is missing, too large or no plain file."""
    try:
        if not path.exists():
            raise RunError(f"{printable(path)} is missing", value=str(path))
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise RunError(f"{printable(path)} is no plain file of at most {MAX_BYTES} bytes", value=str(path))
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {printable(path)}: {error.strerror}", value=str(path)) from error


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
