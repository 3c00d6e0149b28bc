"""Write a dataset in D4RL's layout, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlox.errors import ConfigError, DatasetError, printable
from rlox.files import atomic_write

from .columns import COLUMNS, FLAGS

CHUNK_ROWS = 4096
MAX_ATTRIBUTE_CHARS = 60_000  # HDF5 keeps attributes in object headers of 64 KiB
_KEYS = {column.name: column.key for column in COLUMNS}


def write_d4rl(
    path: str | os.PathLike[str],
    columns: Mapping[str, NDArray[Any]],
    meta: Mapping[str, Any] | None = None,
    *,
    compression: Literal["gzip"] | None = None,
) -> Path:
    """Write transitions as a D4RL HDF5 file that :func:`rlox.data.open_dataset` reads back.

    Parameters
    ----------
    path : path-like
        Appears once it is complete and on disk; an existing file is replaced then.
    columns : mapping
        ``obs (N, …)``, ``actions (N, act_dim)`` or integer (N,), ``rewards (N,)``, ``terminated (N,)``; optionally
        ``truncated (N,)``, ``next_obs (N, …)`` and ``infos/NAME (N, …)``. Written as float32 (images stay uint8,
        discrete actions become int64, flags bool) under D4RL's names.
    meta : mapping, optional
        Attributes of the file: numbers, text, or dicts and lists, which become JSON text.
    compression : {"gzip"}, optional
        Chunks of whole rows, compressed; without it the columns are contiguous, so that they can be mapped.

    Raises
    ------
    DatasetError
        A column is missing, has another length, or a value is NaN, infinite or too large for float32.
    ConfigError
        An unknown column or compression, or an attribute that HDF5 cannot hold.
    WriteError
        The system refuses.

    Notes
    -----
    The same input gives the same bytes. The last row is marked as truncated when no flag ends its episode.
    """
    import h5py

    if compression not in (None, "gzip"):
        raise ConfigError(f"compression is {compression!r}, must be 'gzip' or None", param="compression")
    arrays = _converted(columns)
    attributes = {key: _attribute(key, value) for key, value in (meta or {}).items()}

    def write(file: IO[bytes]) -> None:
        # Pages of 4096 bytes, so that mapped columns start at one.
        with h5py.File(file, "w", alignment_threshold=4096, alignment_interval=4096) as h5:
            for key, array in arrays.items():
                layout: dict[str, Any] = {}
                if compression is not None:
                    rows = max(1, min(CHUNK_ROWS, len(array)))
                    layout = {"chunks": (rows, *array.shape[1:]), "compression": compression, "shuffle": True}
                h5.create_dataset(key, data=array, **layout)
            for key, value in attributes.items():
                h5.attrs[key] = value
            h5.flush()

    return atomic_write(path, write)


def _converted(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays under D4RL's keys in the types that are written."""
    missing = [c.name for c in COLUMNS if c.required and c.name not in columns]
    if missing:
        raise DatasetError(f"columns {', '.join(missing)} are missing")
    arrays: dict[str, NDArray[Any]] = {}
    for name, values in columns.items():
        if name not in _KEYS and not name.startswith("infos/"):
            raise ConfigError(f"unknown column '{printable(name)}', must be one of {', '.join(_KEYS)} or infos/NAME")
        arrays[_KEYS.get(name, name)] = _convert(name, np.asarray(values))
    rows = {key: len(array) for key, array in arrays.items()}
    if len(set(rows.values())) > 1:
        raise DatasetError(", ".join(f"'{key}' has {n} rows" for key, n in rows.items()))
    if not rows["observations"]:
        raise DatasetError("there are 0 rows, at least 1 is needed")
    timeouts = arrays.setdefault("timeouts", np.zeros(rows["observations"], bool))
    timeouts[arrays["terminals"]] = False
    timeouts[-1] = not arrays["terminals"][-1]
    return arrays


def _convert(name: str, values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim == 0 or values.dtype.kind not in "biuf":
        raise DatasetError(f"{name} has dtype {values.dtype} and shape {values.shape}, must be numbers of shape (N, …)")
    if name in FLAGS:
        if not np.isin(values, (0, 1)).all():
            raise DatasetError(f"{name} must be 0 and 1 only")
        return values.reshape(len(values)).astype(bool)
    if name == "actions" and values.dtype.kind in "iu" and values.ndim == 1:
        return values.astype(np.int64)
    if values.dtype == np.uint8 and values.ndim > 2:
        return values
    with np.errstate(over="ignore"):
        cast = values.astype(np.float32)
    bad = ~np.isfinite(cast)
    if bad.any() and not name.startswith("infos/"):
        row = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
        raise DatasetError(f"{name} has {int(bad.sum())} values that are not finite float32, first in row {row}")
    return cast


def _attribute(key: str, value: Any) -> Any:
    if isinstance(value, Mapping | list | tuple):
        value = json.dumps(value, sort_keys=True)
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, str | int | float | bool):
        raise ConfigError(f"attribute '{printable(key)}' is {type(value).__name__}, must be text, a number, dict or list")
    if isinstance(value, str) and len(value) > MAX_ATTRIBUTE_CHARS:
        raise ConfigError(f"attribute '{printable(key)}' has {len(value)} characters, at most {MAX_ATTRIBUTE_CHARS}")
    return value
