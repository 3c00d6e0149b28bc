"""Read sealed checkpoints and accepted datasets in another way than rlox does, to compare what it made of them.

Only for files that rlox accepted: a checkpoint is unpickled here with Python's own unpickler, a dataset is opened with
h5py in this process. Used as a program, it prints the fingerprint of a dataset: ``plain_reading.py FILE``.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1", "BoolStorage": "|b1",
    "ComplexFloatStorage": "<c8", "ComplexDoubleStorage": "<c16", "UntypedStorage": "|u1", "uint16": "<u2",
    "uint32": "<u4", "uint64": "<u8",
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Python's unpickler with arrays in place of tensors and no name that could do anything."""

    def __init__(self, data: bytes, members: dict[str, bytes]) -> None:
        super().__init__(io.BytesIO(data))
        self.members = members

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils":
            return _array
        assert module in ("torch", "torch.storage"), module
        return np.dtype(DTYPES[name])

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, _, _ = pid
        return np.frombuffer(self.members[f"data/{key}"], dtype)


def _array(storage: Any, offset: int, shape: Any, stride: Any, _grad: bool, _hooks: Any, dtype: Any = None) -> Any:
    flat = storage if dtype is None else storage.view(dtype)
    index = np.full(shape, offset, np.int64)
    for axis, (size, step) in enumerate(zip(shape, stride, strict=True)):
        index += (np.arange(size) * step).reshape((-1, *[1] * (len(shape) - axis - 1)))
    return np.asarray(flat[index])


def read_checkpoint(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """Return the state, arrays for tensors, and the manifest of a checkpoint."""
    with zipfile.ZipFile(path) as archive:
        members = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    return _Unpickler(members["data.pkl"], members).load(), json.loads(members["rlox.json"])


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal bit for bit, whether they hold tensors or arrays."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "numpy") or isinstance(a, np.ndarray):
        x, y = (v.numpy() if hasattr(v, "numpy") else v for v in (a, b))
        return isinstance(y, np.ndarray) and (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


def dataset_fingerprint(path: str | Path) -> str:
    """Return the fingerprint of the dataset that h5py finds in a D4RL file."""
    import h5py

    from rlox.data import OfflineDatasetBuffer

    def read(key: str, *, flags: bool = False) -> Any:
        values = file[key][()] if key in file else None
        return values if values is None or not flags else values.reshape(len(values)) != 0

    with h5py.File(path, "r") as file:
        terminated, truncated = read("terminals", flags=True), read("timeouts", flags=True)
        actions = read("actions")
        discrete = json.loads(file.attrs.get("action_space", "{}")).get("type") == "Discrete"
        if discrete or (actions.dtype.kind in "biu" and math.prod(actions.shape[1:]) == 1):
            actions = actions.reshape(len(actions)).astype(np.int64)
        data = OfflineDatasetBuffer(
            read("observations"), read("next_observations"), actions, read("rewards"), terminated, truncated
        )
    return data.fingerprint()


if __name__ == "__main__":
    print(dataset_fingerprint(sys.argv[1]))
