"""The process that opens HDF5 files of unknown origin, so that the parent never has to.

It takes limits on memory, processor time, written files and core dumps, walks the file, answers with a report in JSON,
waits for a plan, reads every chunk of the planned datasets once, checks the values, and puts what is wanted into
memory that the parent shares with it. A crash, a hang or a limit ends this process and nothing else. Imports NumPy
and h5py alone, and those only after the limits are in force.

Protocol: one JSON object a line. Out: ``{"ready": true}``, the report of the structure, the report of the values; or
``{"error": {"code", "message"}}`` at any point. In: the request on the command line, the plan on standard input.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

BASE_MEMORY = 1 << 30  # interpreter, NumPy, h5py and one block of data
BLOCK_BYTES = 8 << 20
MAX_TEXT = 1 << 16


def main() -> None:
    """Serve one request: ``argv[1]`` is JSON with path, shared (descriptor), memory, cpu_s."""
    request = json.loads(sys.argv[1])
    _limit(request["memory"], request["cpu_s"])
    from rlox.data.walk import Refused

    try:
        answer = _Answer(request)
        _say({"ready": True})
        with answer.open() as file:
            _say(answer.structure(file))
            plan = sys.stdin.buffer.readline()
            if plan:
                _say(answer.values(file, json.loads(plan)))
    except Refused as refusal:
        _say({"error": {"code": refusal.code, "message": refusal.message}})
    except MemoryError:
        _say({"error": {"code": "unsafe", "message": "reading it needs more memory than is allowed"}})
    except Exception as error:
        # Whatever HDF5 makes of a damaged file, the parent gets as one line of text.
        _say({"error": {"code": "unreadable", "message": str(error.args[-1] if error.args else type(error).__name__)}})


def _limit(extra_memory: int, cpu_s: int) -> None:
    """Take the limits; memory stays at the base until a plan asks for its share of the rest."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for kind, soft, wanted in (
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_AS, BASE_MEMORY, BASE_MEMORY + extra_memory),
    ):
        _, hard = resource.getrlimit(kind)
        ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)  # a hard limit cannot be raised
        resource.setrlimit(kind, (min(soft, ceiling), ceiling))


def _say(message: dict[str, Any]) -> None:
    line = json.dumps(message).encode() + b"\n"
    while line:
        line = line[os.write(1, line) :]


class _Answer:
    """One file: its structure, then its values."""

    def __init__(self, request: dict[str, Any]) -> None:
        import h5py

        while h5py.h5pl.size():  # no plugin of the machine is ever loaded for a foreign file
            h5py.h5pl.remove(0)
        self.h5py = h5py
        self.request = request

    def open(self) -> Any:
        from rlox.data.walk import Refused

        try:
            return self.h5py.File(self.request["path"], "r", locking="best-effort")
        except BlockingIOError as error:
            raise Refused("locked", "is open for writing by another process") from error
        except OSError as error:
            text = str(error)
            if "h5clear" in text or "already open for write" in text:
                raise Refused("dirty", "was not closed by the process that wrote it") from error
            if "truncated file" in text:
                raise Refused("truncated", text[text.index("truncated file") :].rstrip(")")) from error
            raise

    def structure(self, file: Any) -> dict[str, Any]:
        """Return layout, identity, datasets and text attributes."""
        from dataclasses import asdict

        from rlox.data.formats import layout_of
        from rlox.data.walk import MAX_OBJECTS, Refused, walk

        status = os.fstat(file.id.get_vfd_handle())
        if len(file) > 5 * MAX_OBJECTS:
            raise Refused("unsafe", f"more than {MAX_OBJECTS} objects are not allowed")
        layout = layout_of([name.decode("utf-8", "backslashreplace") for name in file.id])
        entries = walk(file, 5 * MAX_OBJECTS if layout in ("d3rlpy-2", "minari") else MAX_OBJECTS)
        return {
            "layout": layout,
            "identity": [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns],
            "datasets": [asdict(entry) for entry in entries[:1000]],
            "n_datasets": len(entries),
            "attributes": self._attributes(file),
        }

    def _attributes(self, file: Any) -> dict[str, Any]:
        """Return the root's scalar attributes: numbers and text, cut to what JSON holds."""
        from rlox.data.walk import Refused

        found: dict[str, Any] = {}
        for name in list(file.attrs)[:200]:
            kind = file.attrs.get_id(name)
            text = self.h5py.check_string_dtype(kind.dtype) is not None
            if kind.shape != () or not (text or kind.dtype.kind in "biufS"):
                continue
            value = file.attrs[name]
            value = value.item() if hasattr(value, "item") else value
            if isinstance(value, bytes):
                value = value.decode("utf-8", "backslashreplace")
            if isinstance(value, str) and len(value) > MAX_TEXT:
                raise Refused("unsafe", f"a text attribute has {len(value)} characters, at most {MAX_TEXT} are allowed")
            found[str(name)] = value
        return found

    def values(self, file: Any, plan: dict[str, Any]) -> dict[str, Any]:
        """Read every planned dataset once; return what was found in each."""
        size = plan["size"]
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (min(BASE_MEMORY + size, hard), hard))
        shared = mmap.mmap(self.request["shared"], size) if size else None
        return {"columns": {c["name"]: _Column(c, file[c["path"]], shared).read() for c in plan["columns"]}}


class _Column:
    """Decode, check and convert one dataset, block by block."""

    def __init__(self, plan: dict[str, Any], dataset: Any, shared: mmap.mmap | None) -> None:
        import numpy as np

        self.np, self.plan, self.dataset = np, plan, dataset
        self.target = None
        if plan["offset"] is not None and shared is not None:
            count = int(np.prod(dataset.shape))
            flat = np.frombuffer(shared, plan["dtype"], count, plan["offset"])
            self.target = flat.reshape(dataset.shape)
        self.found: dict[str, list[int]] = {}
        self.minimum: float | None = None
        self.maximum: float | None = None

    def read(self) -> dict[str, Any]:
        """Return ``{"faults": {kind: [count, first row]}, "min", "max"}``."""
        shape, dtype = self.dataset.shape, self.dataset.dtype
        for block in blocks(shape, self.dataset.chunks, dtype.itemsize):
            data = self.dataset[block]
            with self.np.errstate(all="ignore"):
                self._check(data, block)
                if self.target is not None:
                    self.target[block] = data
        self._check_map()
        return {"faults": self.found, "min": self.minimum, "max": self.maximum}

    def _check(self, data: Any, block: tuple[slice, ...]) -> None:
        np, row = self.np, block[0].start
        finite = np.isfinite(data)
        self._note("nonfinite", ~finite, row)
        if data.dtype.kind == "f" and data.dtype.itemsize > 4 and self.plan["dtype"] == "<f4":
            self._note("overflow", finite & (np.abs(data) > np.finfo(np.float32).max), row)
        if self.plan["check"] == "flag":
            self._note("not_flag", (data != 0) & (data != 1), row)
        if self.plan["check"] == "index":
            self._note("not_integer", finite & (data != np.floor(data)), row)
        if self.plan["low"] is not None:
            low, high = (np.asarray(self.plan[k], np.float64) for k in ("low", "high"))
            if low.ndim:
                low, high = low[block[1]], high[block[1]]
            over = np.maximum(low - data, data - high)
            self._note("outside", finite & (over > 1e-3), row)
            self._note("near", finite & (over > 1e-6) & (over <= 1e-3), row)
        if data.size:
            smallest, largest = float(np.min(data)), float(np.max(data))
            self.minimum = smallest if self.minimum is None else min(self.minimum, smallest)
            self.maximum = largest if self.maximum is None else max(self.maximum, largest)

    def _note(self, kind: str, bad: Any, row: int) -> None:
        """Add the values of a block that are bad in one way: how many, and in which row first."""
        if not bad.any():
            return
        rows = bad.reshape(len(bad), -1).any(axis=1)
        first = row + int(self.np.argmax(rows))
        before = self.found.get(kind, [0, first])
        self.found[kind] = [before[0] + int(bad.sum()), min(before[1], first)]

    def _check_map(self) -> None:
        """Make sure that a mapped dataset's bytes are where HDF5 says: the parent will read them there."""
        from rlox.data.walk import Refused

        if not self.plan["map"]:
            return
        dataset, offset = self.dataset, self.dataset.id.get_offset()
        for row in (0, dataset.shape[0] - 1):
            wanted = dataset[row : row + 1].tobytes()
            if os.pread(dataset.file.id.get_vfd_handle(), len(wanted), offset + row * len(wanted)) != wanted:
                raise Refused("unreadable", f"{self.plan['path']} is not where the file says")


def blocks(shape: tuple[int, ...], chunks: tuple[int, ...] | None, itemsize: int) -> Iterator[tuple[slice, ...]]:
    """Cut an array into blocks of whole chunks, each chunk in exactly one block of about ``BLOCK_BYTES``."""
    size = list(chunks) if chunks is not None else [1] * len(shape)
    nbytes = itemsize
    for length in size:
        nbytes *= length
    for axis in reversed(range(len(shape))):  # trailing axes first, so that a block holds whole rows where it can
        whole = -(-shape[axis] // size[axis])
        times = max(1, min(whole, BLOCK_BYTES // max(nbytes, 1)))
        size[axis] *= times
        nbytes *= times
        if times < whole:
            break
    axes = [range(0, length, step) for length, step in zip(shape, size, strict=True)]
    for corner in product(*axes):
        yield tuple(
            slice(start, min(start + step, length)) for start, step, length in zip(corner, size, shape, strict=True)
        )


if __name__ == "__main__":
    main()
