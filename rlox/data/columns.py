"""Which dataset of a flat HDF5 file is which column, and whether its type and shape can be one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlox.errors import ConfigError, DatasetError, MissingDependencyError, closest, printable


@dataclass(frozen=True)
class Column:
    """One column: its name in rlox, its key in D4RL files, and what others call it."""

    name: str
    key: str
    required: bool
    others: tuple[str, ...]


COLUMNS = (
    Column("obs", "observations", True, ("obs", "observation", "states", "state")),
    Column("actions", "actions", True, ("action", "acts", "act")),
    Column("rewards", "rewards", True, ("reward", "rews", "rew")),
    Column("terminated", "terminals", True, ("terminal", "terminations", "terminateds", "terminated", "dones", "done")),
    Column("truncated", "timeouts", False, ("timeout", "truncations", "truncateds", "truncated", "episode_terminals")),
    Column("next_obs", "next_observations", False,
           ("next_obs", "next_observation", "next_states", "next_state", "observations_next", "new_observations")),
)  # fmt: skip
FLAGS = ("terminated", "truncated")
_FOREIGN = {
    "minari": "a Minari data file",
    "d3rlpy-2": "a d3rlpy 2 dataset",
    "d3rlpy-1": "a d3rlpy 1 dataset",
}


@dataclass
class Source:
    """Where one column comes from and how it is read."""

    column: Column
    key: str
    entry: dict[str, Any]
    dtype: str  # what it becomes: <f4, |u1 or <i8
    shape: tuple[int, ...]  # what it becomes, (N, …)

    @property
    def nbytes(self) -> int:
        """Bytes once decoded."""
        return math.prod(self.shape) * int(self.dtype[2:])

    def why_not_mapped(self, file_size: int) -> str | None:
        """Return what keeps this column from being read in place, or None."""
        entry = self.entry
        if entry["filters"]:
            return f"compressed ({', '.join(entry['filters'])})"
        if entry["chunks"] is not None or entry["offset"] is None:
            return "not contiguous"
        if entry["dtype"] != self.dtype:
            return f"{entry['dtype'].lstrip('<|')} instead of {self.dtype.lstrip('<|')}"
        if entry["offset"] % int(self.dtype[2:]) or entry["offset"] + self.nbytes > file_size:
            return "not aligned" if entry["offset"] % int(self.dtype[2:]) else "beyond the end of the file"
        return None


def match(name: str, structure: Mapping[str, Any], keys: Mapping[str, str] | None) -> dict[str, Source]:
    """Find the columns of a file by D4RL's names and the user's ``keys``.

    Parameters
    ----------
    name : str
        The file, for messages.
    structure : mapping
        The child's report.
    keys : mapping, optional
        From a column (rlox's or D4RL's name) to the key in this file; an empty key means: do without.

    Returns
    -------
    dict
        From rlox's column name to its source, in the order of :data:`COLUMNS`; all have equally many rows.

    Raises
    ------
    DatasetError
        A key is missing or renamed, the layout is another one, a type, rank or length is wrong.
    MissingDependencyError
        A column needs a filter that is not part of HDF5 itself.
    """
    wanted = chosen_keys(keys)
    entries = {entry["path"].lstrip("/"): entry for entry in structure["datasets"]}
    layout = structure["layout"]
    if layout in _FOREIGN and not keys:
        hint = "`--keys truncated=episode_terminals` reads it" if layout == "d3rlpy-1" else "rlox reads D4RL HDF5 files"
        raise DatasetError(f"{name} looks like {_FOREIGN[layout]}, not a D4RL file", hint=hint)
    found: dict[str, Source] = {}
    for column in COLUMNS:
        key = wanted.get(column.name, column.key)
        if key in entries:
            found[column.name] = _source(name, column, key, entries[key])
        elif key and (column.required or column.name in wanted or _near(column, entries)):
            raise _missing(name, column, key, entries)
    _check_rows(name, found)
    return found


def chosen_keys(keys: Mapping[str, str] | None) -> dict[str, str]:
    """Return the user's keys by rlox's column names; ConfigError for a column that does not exist or is named twice."""
    names = {column.name: column.name for column in COLUMNS} | {column.key: column.name for column in COLUMNS}
    chosen: dict[str, str] = {}
    for given, key in (keys or {}).items():
        if given not in names:
            near = closest(given, names)
            hint = f"did you mean '{near[0]}'?" if near else f"columns are {', '.join(c.name for c in COLUMNS)}"
            raise ConfigError(f"keys has the unknown column '{printable(given)}'", hint=hint, param="keys", value=given)
        name = names[given]
        if name in chosen:
            raise ConfigError(f"keys names the column '{name}' twice", param="keys", value=given)
        if not key and next(c for c in COLUMNS if c.name == name).required:
            raise ConfigError(f"keys leaves out '{name}', which is required", param="keys", value=given)
        chosen[name] = key.strip("/")
    return chosen


def _near(column: Column, entries: Mapping[str, Any]) -> list[str]:
    """Return the file's keys that look like this column under another name, best first."""
    taken = {c.key for c in COLUMNS}
    free = [key for key in entries if "/" not in key and key not in taken]
    by_fold = {key.casefold(): key for key in free}
    return [by_fold[other] for other in (column.key, *column.others) if other in by_fold]


def _missing(name: str, column: Column, key: str, entries: Mapping[str, Any]) -> DatasetError:
    shown = [printable(k, 40) for k in sorted(entries)[:12]]
    more = f" and {len(entries) - 12} more" if len(entries) > 12 else ""
    taken = {other.key for other in COLUMNS}  # what another column is read from is not this one
    near = _near(column, entries) or closest(key, [k for k in entries if k not in taken], 1)
    hint = f"name its key with `--keys {column.name}=KEY`"
    if near:
        hint = f"`--keys {column.name}={printable(near[0], 60)}` if that is the same thing"
        if not column.required:
            hint += f", `--keys {column.name}=` to do without"
    has = ", ".join(shown) + more if shown else "no datasets"
    return DatasetError(f"{name} has no '{printable(key, 60)}'; it has {has}", hint=hint, value=key)


def _source(name: str, column: Column, key: str, entry: dict[str, Any]) -> Source:
    """Check rank, type and filters of one dataset, and decide what it is read as."""
    where = f"{name}: '{printable(key, 60)}'"
    if entry["unknown_filters"]:
        numbers = ", ".join(map(str, entry["unknown_filters"]))
        raise MissingDependencyError(
            f"{where} needs HDF5 filter {numbers}, which is not part of HDF5; plugins are not loaded",
            hint="rewrite the file with `h5repack -f GZIP=4 IN OUT` where the filter is installed",
            value=numbers,
        )
    kind, shape = entry["kind"], tuple(entry["shape"])
    if kind not in "biuf":
        raise DatasetError(f"{where} has dtype {printable(entry['dtype'])}, must be bool, int or float")
    if column.name in ("rewards", *FLAGS):
        if len(shape) == 2 and shape[1] == 1:
            shape = shape[:1]
        if len(shape) != 1:
            raise DatasetError(f"{where} has shape {shape}, must be (N,) or (N, 1)")
        return Source(column, key, entry, "|u1" if column.name in FLAGS else "<f4", shape)
    if column.name == "actions":
        if len(shape) not in (1, 2) or 0 in shape[1:]:
            raise DatasetError(f"{where} has shape {shape}, must be (N, act_dim), or (N,) when discrete")
        if kind in "biu" and (len(shape) == 1 or shape[1] == 1):
            return Source(column, key, entry, "<i8", shape[:1])
        return Source(column, key, entry, "<f4", shape if len(shape) == 2 else (*shape, 1))
    if len(shape) < 2 or 0 in shape[1:]:
        raise DatasetError(f"{where} has shape {shape}, must be (N, obs_dim)")
    image = entry["dtype"] == "|u1" and len(shape) > 2
    return Source(column, key, entry, "|u1" if image else "<f4", shape)


def _check_rows(name: str, found: Mapping[str, Source]) -> None:
    rows = {source.key: source.shape[0] for source in found.values()}
    if len(set(rows.values())) > 1:
        raise DatasetError(f"{name}: " + ", ".join(f"'{printable(k, 40)}' has {n} rows" for k, n in rows.items()))
    n_rows = found["obs"].shape[0]
    if n_rows < 2:
        raise DatasetError(f"{name} has {n_rows} row{'s' * (n_rows != 1)}, at least 2 are needed", value=n_rows)
    if "next_obs" in found and found["next_obs"].shape != found["obs"].shape:
        shapes = f"{found['next_obs'].shape}, '{found['obs'].key}' {found['obs'].shape}"
        raise DatasetError(f"{name}: '{printable(found['next_obs'].key, 40)}' has shape {shapes}")


def conversions(name: str, found: Mapping[str, Source]) -> list[str]:
    """Return a note on the columns that are read as another type than they are stored in, if there are any."""
    whole = "biu"  # any integer becomes int64 without a loss that anybody could notice
    changed = [
        f"'{printable(s.key, 40)}' ({s.entry['dtype'].lstrip('<|')}) as {s.dtype.lstrip('<|')}"
        for s in found.values()
        if s.column.name not in FLAGS
        and s.entry["dtype"] != s.dtype
        and not (s.dtype == "<i8" and s.entry["kind"] in whole)
    ]
    return [f"{name}: reading {', '.join(changed)}"] if changed else []
