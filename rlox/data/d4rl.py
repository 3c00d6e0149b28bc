"""Open D4RL HDF5 files from anywhere: checked in a child process, decoded into memory or mapped in place."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlox.config.units import size_bytes
from rlox.errors import ConfigError, DatasetError, RloxError, printable
from rlox.files import available_memory, human_bytes

from .columns import FLAGS, Source, chosen_keys, conversions, match
from .formats import check_is_hdf5
from .mapped import MappedFile
from .reader import Reader

if TYPE_CHECKING:
    from .dataset import OfflineDatasetBuffer

Storage = Literal["auto", "ram", "mmap"]


def open_dataset(
    path: str | os.PathLike[str],
    *,
    storage: Storage = "auto",
    max_memory: int | str | None = None,
    keys: Mapping[str, str] | None = None,
) -> OfflineDatasetBuffer:
    """Open a D4RL HDF5 file as a dataset; the file is taken for hostile until it has been checked.

    Parameters
    ----------
    path : path-like
        Recognised by content. Needs ``observations, actions, rewards, terminals``; uses ``timeouts`` and
        ``next_observations`` where they are.
    storage : {"auto", "ram", "mmap"}
        ``ram`` decodes everything; ``mmap`` reads contiguous, uncompressed, native float32 columns in place;
        ``auto`` takes ``ram`` when the decoded size is at most ``max_memory`` and half of the free memory.
    max_memory : int or str, optional
        Bytes, or text like ``"2GB"``.
    keys : mapping, optional
        From a column (``obs, actions, rewards, terminated, truncated, next_obs``, or D4RL's name) to the key that
        holds it in this file; an empty key leaves an optional column out.

    Returns
    -------
    OfflineDatasetBuffer
        ``meta`` holds the file's attributes, ``storage`` and ``notes`` (what was changed or assumed, in words; each
        note is also a warning).

    Raises
    ------
    DatasetNotFoundError
        Nothing at that path.
    DatasetError
        Not an HDF5 file, unsafe, damaged, in use, or with inconsistent content.
    MissingDependencyError
        A column needs a filter that is not part of HDF5.
    ConfigError
        A bad option, or more memory needed than is allowed.
    """
    if storage not in ("auto", "ram", "mmap"):
        raise ConfigError(f"storage is {storage!r}, must be auto, ram or mmap", param="storage", value=storage)
    chosen_keys(keys)
    budget = memory_budget(max_memory)
    status = check_is_hdf5(path)
    name = printable(path)
    with Reader(path, budget) as reader:
        structure = reader.structure()
        sources = match(name, structure, keys)
        meta = decode_attributes(structure["attributes"])
        bounds = _action_bounds(name, meta, sources)
        mapped = _choose(name, sources, storage, budget, status.st_size)
        plan, size = _plan(sources, mapped, bounds)
        report, memory = reader.values(plan, size)
    notes = [*conversions(name, sources), *check_values(name, sources, report, bounds)]
    arrays = {c["name"]: _adopt(memory, c, sources[c["name"]]) for c in plan if c["offset"] is not None}
    guard = MappedFile(path, structure["identity"]) if mapped else None
    if guard is not None:
        for column in mapped:
            source = sources[column]
            arrays[column] = guard.column(source.dtype, source.shape, source.entry["offset"])
    notes += mark_ends(name, arrays)
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    meta |= {"storage": "mmap" if mapped else "ram", "notes": notes}
    return _build(arrays, guard, meta, str(path))


def parse_bytes(value: int | str, param: str = "max_memory") -> int:
    """Return bytes from a number of them or from text like ``2GB``; ConfigError for anything else."""
    if isinstance(value, str):
        size = size_bytes(value, param)
    else:
        size = value if isinstance(value, int) and not isinstance(value, bool) else 0
    if size <= 0:
        shown = printable(value, 40)
        raise ConfigError(f"{param} is {shown}, must be a size above 0, e.g. 8GB or 500MB", param=param, value=value)
    return size


def memory_budget(max_memory: int | str | None) -> int:
    """Return the bytes that decoded data may take: half of the free memory, and at most ``max_memory``."""
    free = available_memory() // 2
    return free if max_memory is None else min(parse_bytes(max_memory), free)


def decode_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's attributes, with those that are JSON objects or lists decoded (size and depth limited)."""
    meta: dict[str, Any] = {}
    for key, value in attributes.items():
        meta[key] = value
        if isinstance(value, str) and value[:1] in ("{", "["):
            try:
                meta[key] = json.loads(value)
            except (ValueError, RecursionError):
                continue  # text that only looks like JSON stays text
    return meta


@dataclass(frozen=True)
class _Bounds:
    """What the file's own action space allows."""

    low: list[float] | float
    high: list[float] | float
    discrete: bool
    text: str


def _action_bounds(name: str, meta: Mapping[str, Any], sources: dict[str, Source]) -> _Bounds | None:
    """Return the bounds of the file's action space, if it names one; the actions must have its shape."""
    if not isinstance(meta.get("action_space"), dict):
        return None
    from gymnasium import spaces

    from rlox.envs.spacejson import space_from_json
    from rlox.envs.spaces import describe

    try:
        space = space_from_json(meta["action_space"], error=DatasetError)
    except DatasetError as error:
        raise DatasetError(f"{name}: attribute 'action_space' is {error.message}") from error
    source = sources["actions"]
    if isinstance(space, spaces.Discrete):
        if math.prod(source.shape[1:]) != 1:
            raise DatasetError(f"{name}: 'actions' has shape {source.shape}, its space is {describe(space)}")
        # Other tools write discrete actions as floats; their values are checked to be whole.
        source.dtype, source.shape = "<i8", source.shape[:1]
        return _Bounds(float(space.start), float(space.start + space.n - 1), True, describe(space))
    if not isinstance(space, spaces.Box):
        return None
    dim = math.prod(space.shape)
    if len(source.shape) != 2 or source.shape[1] != dim:
        raise DatasetError(f"{name}: 'actions' has shape {source.shape}, its space is {describe(space)}")
    low, high = (np.asarray(b, np.float64).reshape(-1).tolist() for b in (space.low, space.high))
    return _Bounds(low, high, False, describe(space))


def _choose(name: str, sources: Mapping[str, Source], storage: Storage, budget: int, file_size: int) -> list[str]:
    """Return the columns to map; none means that everything is decoded."""
    size = sum(source.nbytes for source in sources.values())
    big = [column for column in sources if column not in FLAGS]
    reasons = {sources[c].key: why for c in big if (why := sources[c].why_not_mapped(file_size)) is not None}
    needs = f"{name} needs {human_bytes(size)} of memory, {human_bytes(budget)} are allowed"
    if storage == "ram" or (storage == "auto" and size <= budget):
        if size > budget:
            hint = "`--storage mmap` reads it from disk" if not reasons else "raise `--max-memory` or free memory"
            raise ConfigError(needs, hint=hint, param="max_memory", value=size)
        return []
    if reasons:
        key, why = next(iter(reasons.items()))
        fact = f"'{printable(key, 40)}' is {why}"
        if storage == "mmap":
            raise DatasetError(f"{name} cannot be mapped: {fact}", hint="use `--storage ram`", value=storage)
        raise ConfigError(f"{needs}, and it cannot be mapped: {fact}", hint="raise `--max-memory`", param="max_memory")
    return big


def _plan(
    sources: Mapping[str, Source], mapped: list[str], bounds: _Bounds | None
) -> tuple[list[dict[str, Any]], int]:
    """Lay the decoded columns out in one block of memory, 64-byte aligned."""
    plan, size = [], 0
    for column, source in sources.items():
        entry: dict[str, Any] = {"name": column, "path": source.entry["path"], "dtype": source.dtype}
        entry |= {"map": column in mapped, "offset": None, "low": None, "high": None}
        entry["check"] = "flag" if column in FLAGS else "index" if source.dtype == "<i8" else "number"
        if column == "actions" and bounds is not None:
            entry |= {"low": bounds.low, "high": bounds.high}
        if column not in mapped:
            entry["offset"] = size
            size += -(-source.nbytes // 64) * 64
        plan.append(entry)
    return plan, size


def _adopt(memory: Any, entry: Mapping[str, Any], source: Source) -> NDArray[Any]:
    """Return a column as a view of the memory that the child filled; the view keeps it alive."""
    return np.frombuffer(memory, source.dtype, math.prod(source.shape), entry["offset"]).reshape(source.shape)


def check_values(
    name: str, sources: Mapping[str, Source], report: Mapping[str, Any], bounds: _Bounds | None = None
) -> list[str]:
    """Raise DatasetError for the first column whose values cannot be used; return notes on what is only odd."""
    words = {
        "nonfinite": "NaN or infinite",
        "overflow": "finite but too large for float32",
        "not_flag": "neither 0 nor 1",
        "not_integer": "not whole numbers",
        "outside": f"outside the action space {bounds.text if bounds else ''}",
    }
    for column, source in sources.items():
        faults = report[column]["faults"]
        for kind, what in words.items():
            if kind in faults:
                count, row = faults[kind]
                plural = "values that are" if count > 1 else "value that is"
                key = printable(source.key, 40)
                hint = "leave out the episodes that hold them when you write the file" if kind == "nonfinite" else None
                raise DatasetError(f"{name}: '{key}' has {count} {plural} {what}, first in row {row}", hint=hint, value=row)
        if source.dtype == "<i8" and report[column]["min"] < 0 and bounds is None:
            raise DatasetError(f"{name}: '{printable(source.key, 40)}' has the discrete action {report[column]['min']:.0f}")
    near = report["actions"]["faults"].get("near")
    return [f"{name}: {near[0]} action values lie slightly outside {bounds.text}"] if near and bounds else []


def mark_ends(name: str, arrays: dict[str, NDArray[Any]]) -> list[str]:
    """Make the flags say where every episode ends; return notes on what was decided.

    ``terminated`` wins over ``truncated`` in one row; missing timeouts are zeros; an unflagged last row is truncated.
    Changes ``arrays`` in place.
    """
    terminated = arrays["terminated"]
    truncated = arrays.setdefault("truncated", np.zeros_like(terminated))
    if not terminated.any() and not truncated.any():
        raise DatasetError(
            f"{name}: no row ends an episode ('terminals' and 'timeouts' are all 0 or absent)",
            hint="name the key that marks ends with `--keys truncated=KEY`",
        )
    notes = []
    both = (terminated != 0) & (truncated != 0)
    if both.any():
        truncated[both] = 0
        first = int(np.argmax(both))
        notes.append(f"{name}: {int(both.sum())} rows are terminal and timed out, first row {first}; taken as terminal")
    if not terminated[-1] and not truncated[-1]:
        truncated[-1] = 1
        notes.append(f"{name}: the last row has no end flag; taken as truncated")
    return notes


def _build(
    arrays: Mapping[str, NDArray[Any]], guard: MappedFile | None, meta: dict[str, Any], path: str
) -> OfflineDatasetBuffer:
    from .dataset import OfflineDatasetBuffer

    if guard is None:
        dataset = OfflineDatasetBuffer(
            arrays["obs"],
            arrays.get("next_obs"),
            arrays["actions"],
            arrays["rewards"],
            arrays["terminated"],
            arrays["truncated"],
        )
    else:
        dataset = OfflineDatasetBuffer._from_columns(dict(arrays), guard=guard.check)
    dataset.meta, dataset.source = meta, path
    return dataset


def describe(path: str | os.PathLike[str], *, keys: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what a dataset file holds, as values that JSON can carry.

    Returns
    -------
    dict
        ``path, format, bytes, n_rows, n_episodes, n_terminated, n_truncated, obs_shape, act_dim, discrete,
        memory_bytes`` (decoded), ``storage`` (what ``auto`` takes now), ``why_not_mmap``, ``columns`` (column → key),
        ``datasets`` (one dict per HDF5 dataset: key, shape, dtype, chunks, filters, stored_bytes), ``attributes``,
        ``notes`` and ``problem`` (text, or None when the file can be opened).

    Raises
    ------
    RloxError
        As :func:`open_dataset` for files that are missing, unsafe or unreadable, and for ``keys`` that make no sense.
        Inconsistent content is no error here but a ``problem``; what it makes unknown is None.
    """
    chosen_keys(keys)
    budget = memory_budget(None)
    status = check_is_hdf5(path)
    name = printable(path)
    with Reader(path, budget) as reader:
        structure = reader.structure()
        meta = decode_attributes(structure["attributes"])
        about: dict[str, Any] = {"path": str(path), "format": structure["layout"], "bytes": status.st_size}
        unknown = ("n_rows", "n_episodes", "n_terminated", "n_truncated", "obs_shape", "act_dim", "discrete")
        about |= dict.fromkeys((*unknown, "memory_bytes", "storage", "why_not_mmap", "columns"))
        about |= {"datasets": [_shown(entry) for entry in structure["datasets"]], "attributes": meta, "notes": []}
        about["problem"] = None
        try:
            sources = match(name, structure, keys)
            bounds = _action_bounds(name, meta, sources)
            about |= _sizes(sources, budget, status.st_size)
            # Flags are decoded, the rest is only read and checked.
            plan, size = _plan(sources, [c for c in sources if c not in FLAGS], bounds)
            report, memory = reader.values([c | {"map": False} for c in plan], size)
            about["notes"] = [*conversions(name, sources), *check_values(name, sources, report, bounds)]
            flags = {c["name"]: _adopt(memory, c, sources[c["name"]]) for c in plan if c["offset"] is not None}
            about["notes"] += mark_ends(name, flags)
            about["n_terminated"], about["n_truncated"] = (int(flags[f].sum()) for f in FLAGS)
            about["n_episodes"] = about["n_terminated"] + about["n_truncated"]
        except RloxError as error:
            about["problem"] = error.message
    return about


def _sizes(sources: Mapping[str, Source], budget: int, file_size: int) -> dict[str, Any]:
    size = sum(source.nbytes for source in sources.values())
    reasons = [
        f"'{printable(s.key, 40)}' is {why}"
        for c, s in sources.items()
        if c not in FLAGS and (why := s.why_not_mapped(file_size)) is not None
    ]
    actions = sources["actions"]
    return {
        "n_rows": sources["obs"].shape[0],
        "obs_shape": list(sources["obs"].shape[1:]),
        "act_dim": math.prod(actions.shape[1:]),
        "discrete": actions.dtype == "<i8",
        "memory_bytes": size,
        "storage": "ram" if size <= budget else "mmap" if not reasons else None,
        "why_not_mmap": reasons[0] if reasons else None,
        "columns": {column: source.key for column, source in sources.items()},
    }


def _shown(entry: Mapping[str, Any]) -> dict[str, Any]:
    shown = {k: entry[k] for k in ("shape", "dtype", "chunks", "filters")}
    return {"key": entry["path"].lstrip("/"), **shown, "stored_bytes": entry["stored"]}
