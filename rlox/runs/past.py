"""A run directory that was left: what it says, whether it goes on, and with which values."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoint import file_digest
from ..config.resolve import Resolved, Schema, resolve, shown
from ..errors import CheckpointMismatchError, NotFoundError, RunError, WriteError, printable
from ..files import shortest
from .left import check_own, has_generation
from .reading import find_runs, pick_run, read_json

MAY_DIFFER = ("run.steps", "run.max_time", "run.dataset", "checkpoint.link")  # the dataset's content is compared
MAY_DIFFER_IN = ("log", "hardware")


@dataclass(frozen=True)
class Past:
    """A run directory as it was left.

    Attributes
    ----------
    path : Path
    meta, status : dict
        What ``meta.json`` and ``status.json`` say; empty where there is no such file.
    """

    path: Path
    meta: dict[str, Any]
    status: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Past:
        """Read a run directory.

        Raises
        ------
        NotFoundError
            There is none of that name.
        WriteError
            The folder is something else.
        RunError
            Something in it leads elsewhere.
        """
        if not path.is_dir():
            raise NotFoundError(f"no run at {printable(path)}", hint="`rlox runs list` shows those that there are",
                                param="--resume", value=str(path))  # fmt: skip
        if any(path.iterdir()) and not any(os.path.lexists(path / name) for name in ("run.lock", "meta.json")):
            raise WriteError(f"{printable(path)} exists and is no run directory", hint="choose another `--run-dir`",
                             param="--run-dir", value=str(path))  # fmt: skip
        check_own(path)
        return cls(path, _read(path / "meta.json"), _read(path / "status.json"))

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def has_generation(self) -> bool:
        """Whether there is something to go on from, damaged or not."""
        return has_generation(self.path)

    @property
    def algorithm(self) -> str | None:
        """The algorithm's name as it was typed."""
        name = self.meta.get("algorithm")
        return name if isinstance(name, str) else None

    def is_over(self, steps: int) -> bool:
        """Whether it has nothing left to do of ``steps``: they are made, or something other than time ended it."""
        if self.status.get("status") != "finished":
            return False
        made, by = self.status.get("step"), self.status.get("stopped_by")
        return (isinstance(made, int) and made >= steps) or (isinstance(by, str) and by not in ("", "max_time"))

    def recorded_env(self) -> str | None:
        """Return the text of the run's environment where it names code, which no file may have run."""
        try:
            run = tomllib.loads(self.config.read_text(encoding="utf-8")).get("run", {})
        except (OSError, ValueError):
            return None  # said when it is read in earnest
        env = run.get("env") if isinstance(run, dict) else None
        return env if isinstance(env, str) and ":" in env else None

    def values(self, schema: Schema) -> Resolved:
        """Return the values that the run was started with."""
        env = self.recorded_env()
        return resolve(schema, preset="none", config_files=[str(self.config)], flags={"run.env": env} if env else {})

    def check_same(self, resolved: Resolved) -> None:
        """Raise CheckpointMismatchError, naming the keys, when a run cannot go on with other values than it had."""
        before = self.values(resolved.schema)
        keys = [*before.values, *(key for key in resolved.values if key not in before.values)]
        changed = [key for key in keys if not _may_differ(key) and _value(before, key) != _value(resolved, key)]
        if changed:
            told = ", ".join(f"{k} was {shown(_value(before, k))}, is {shown(_value(resolved, k))}" for k in changed[:4])
            more = f", and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise CheckpointMismatchError(
                f"the run {shortest(self.path)} has other values: {told}{more}",
                hint="`--fork` starts a new run from it, with what is changed",
                param=changed[0],
            )

    def check_weights(self, init_from: str | None) -> None:
        """Raise CheckpointMismatchError when ``--init-from`` names other weights than the run started from.

        Left out, it counts only where the run would start over.
        """
        if init_from is None and self.has_generation:
            return
        if weights_digest(init_from) != self.meta.get("init_weights"):
            at_first = self.meta.get("init_from")
            started = "from no checkpoint" if at_first is None else f"from other weights, of {printable(at_first)}"
            raise CheckpointMismatchError(f"the run {shortest(self.path)} was started {started}", param="--init-from",
                                          value=init_from, hint="choose another `--run-dir`")  # fmt: skip


def find_past(text: str, runs_dir: str, kind: str, algorithm: str | None = None) -> Past:
    """Return the run of that folder or name; ``latest`` is the newest of its kind below ``runs_dir``."""
    if text != "latest":
        path = Path(text)
        if not os.path.lexists(path):
            with contextlib.suppress(NotFoundError):
                path = pick_run(text, runs_dir).path
        return Past.open(path)
    runs = find_runs(runs_dir).runs if os.path.isdir(runs_dir) else []
    found = [run for run in runs if run.meta.get("kind") == kind and algorithm in (None, run.algorithm)]
    if not found:
        what = f"run of {algorithm}" if algorithm else f"{kind} run"
        raise NotFoundError(f"no {what} in {printable(runs_dir)}", param="--resume", value=text,
                            hint="name its folder, or give `--runs-dir`")  # fmt: skip
    return Past.open(max(found, key=lambda run: (run.started or "", str(run.path))).path)


def _may_differ(key: str) -> bool:
    return key in MAY_DIFFER or key.partition(".")[0] in MAY_DIFFER_IN


def _value(resolved: Resolved, key: str) -> Any:
    return resolved.values[key].value if key in resolved.values else None


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file of a run, empty where it is missing or torn."""
    try:
        return read_json(path)
    except RunError:
        return {}


def weights_digest(init_from: str | None) -> str | None:
    """Return the digest of the checkpoint that a run starts from."""
    return None if init_from is None else file_digest(init_from)


def values_digest(resolved: Resolved, algorithm: str, init_from: str | None = None) -> str:
    """Return the digest of what a run computes, its seed and its surroundings aside: equal runs have equal ones.

    ``init_from`` is the checkpoint whose weights it starts from; they count, not where they lie.
    """
    aside = ("run.seed", "run.max_time", "checkpoint.link", "checkpoint.keep_last")
    chosen = {k: v.value for k, v in resolved.values.items() if k not in aside and k.partition(".")[0] not in MAY_DIFFER_IN}
    if resolved.values["run.env"].value is None and resolved.values["run.env"].origin != "default":
        chosen["run.env"] = "none"  # typed: no evaluation; left out: that which the dataset names
    first = [] if init_from is None else [weights_digest(init_from)]
    text = json.dumps([__version__, algorithm, chosen, *first], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
