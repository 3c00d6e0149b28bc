"""Walk an HDF5 file from a stranger and refuse what could reach outside it or exhaust the machine.

h5py follows soft links, external links, external raw storage and virtual datasets without asking, and ``visititems``
skips links, so that it cannot audit. This walk asks for the kind of every link before it opens what it leads to.
Runs in the child process of :mod:`rlox.data.child` alone: opening such a file in-process cannot be made safe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import h5py

from rlox.errors import printable

MAX_DEPTH = 8
MAX_OBJECTS = 100_000
MAX_RANK = 8
MAX_ATTRIBUTE_BYTES = 1 << 20
MAX_CHUNK_BYTES = 64 << 20
# Declared sizes above the first must have that share of it stored (the numbers of Keras's loader, and a gentler one for
# less: gzip makes zeros at most 1032 times smaller). The rest would be made of nothing: chunks that are not there.
MAX_EXPANSION = ((4 << 30, 1000), (64 << 20, 2000))

FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}


class Refused(Exception):
    """The file is unsafe, damaged or unreadable: a code for the parent and a message for the user."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass
class Entry:
    """One dataset of the file, told without reading it."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    native: bool
    chunks: tuple[int, ...] | None
    filters: list[str]
    stored: int
    offset: int | None
    unknown_filters: list[int] = field(default_factory=list)


def walk(file: h5py.File, max_objects: int = MAX_OBJECTS) -> list[Entry]:
    """Return every dataset of the file in the order of the names, or raise :class:`Refused`.

    Hard links only, at most ``MAX_DEPTH`` groups deep and ``max_objects`` objects, no group inside itself, no named
    types; attributes, ranks, chunks, types and declared sizes within the limits above.
    """
    root = file["/"]
    _check_attributes(root, "/")
    seen = {_address(root)}
    entries: list[Entry] = []
    count = 0
    # (group, path, addresses of the group and all groups above it)
    stack: list[tuple[Any, str, frozenset[int]]] = [(root, "", frozenset(seen))]
    while stack:
        group, above, ancestors = stack.pop()
        count += len(group)
        if count > max_objects:
            raise Refused("unsafe", f"more than {max_objects} objects are not allowed")
        for name in group.id:  # bytes: names need not be UTF-8
            path = f"{above}/{name.decode('utf-8', 'backslashreplace')}"
            member = _open_hard_link(group, name, path)
            address = _address(member)
            if address in ancestors:
                raise Refused("unsafe", f"a group that holds itself is not allowed: {printable(path)}")
            if address in seen:
                continue
            seen.add(address)
            _check_attributes(member, path)
            if isinstance(member, h5py.Group):
                if path.count("/") > MAX_DEPTH:
                    raise Refused("unsafe", f"groups nested deeper than {MAX_DEPTH} are not allowed")
                stack.append((member, path, ancestors | {address}))
            else:
                entries.append(_entry(member, path))
    return sorted(entries, key=lambda entry: entry.path)


def _open_hard_link(group: Any, name: bytes, path: str) -> Any:
    """Open a member after asking what kind of link leads to it."""
    links = group.id.links
    kind = links.get_info(name).type
    if kind == h5py.h5l.TYPE_EXTERNAL:
        target = ":".join(printable(part) for part in links.get_val(name))
        raise Refused("unsafe", f"links outside the file are not allowed: {printable(path)} → {target}")
    if kind == h5py.h5l.TYPE_SOFT:
        raise Refused("unsafe", f"links are not allowed: {printable(path)} → {printable(links.get_val(name))}")
    if kind != h5py.h5l.TYPE_HARD:
        raise Refused("unsafe", f"links of an unknown kind are not allowed: {printable(path)}")
    member = h5py.h5o.open(group.id, name)
    if isinstance(member, h5py.h5g.GroupID):
        return h5py.Group(member)
    if isinstance(member, h5py.h5d.DatasetID):
        return h5py.Dataset(member)
    raise Refused("unsafe", f"named datatypes are not allowed: {printable(path)}")


def _address(member: Any) -> int:
    return int(h5py.h5o.get_info(member.id).addr)


def _check_attributes(member: Any, path: str) -> None:
    count = h5py.h5a.get_num_attrs(member.id)
    if count > 1000:
        raise Refused("unsafe", f"{printable(path)} has {count} attributes, at most 1000 are allowed")
    for index in range(count):
        size = h5py.h5a.get_info(member.id, index=index).data_size
        if size > MAX_ATTRIBUTE_BYTES:
            raise Refused("unsafe", f"an attribute of {printable(path)} has {size} bytes, at most "
                                    f"{MAX_ATTRIBUTE_BYTES} are allowed")


def _entry(dataset: Any, path: str) -> Entry:
    shown = printable(path)
    plist = dataset.id.get_create_plist()
    # External raw storage and virtual datasets look like hard links: only the creation properties tell.
    if plist.get_external_count():
        raise Refused("unsafe", f"links outside the file are not allowed: {shown} → "
                                f"{printable(plist.get_external(0)[0])} (external storage)")
    if dataset.is_virtual:
        sources = sorted({source.file_name for source in dataset.virtual_sources()})
        target = printable(", ".join(sources[:3]))
        raise Refused("unsafe", f"links outside the file are not allowed: {shown} → {target} (virtual dataset)")
    if dataset.id.get_type().committed():
        raise Refused("unsafe", f"named datatypes are not allowed: {shown}")
    dtype = _check_type(dataset, shown)
    shape = dataset.shape
    if shape is None:
        raise Refused("dtype", f"{shown} has no values (a null dataspace)")
    if len(shape) > MAX_RANK:
        raise Refused("unsafe", f"{shown} has {len(shape)} dimensions, at most {MAX_RANK} are allowed")
    declared = dtype.itemsize
    for length in shape:
        declared *= length
    stored = dataset.id.get_storage_size()
    _check_sizes(shown, declared, stored, dataset.chunks, dtype.itemsize)
    ids = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    return Entry(
        path=path,
        shape=tuple(shape),
        dtype=dtype.str if dtype.kind != "b" else "|b1",
        kind=dtype.kind,
        native=dtype.isnative,
        chunks=dataset.chunks,
        filters=[FILTERS.get(i, str(i)) for i in ids],
        stored=stored,
        offset=dataset.id.get_offset(),
        unknown_filters=[i for i in ids if i not in FILTERS or not h5py.h5z.filter_avail(i)],
    )


def _check_type(dataset: Any, shown: str) -> Any:
    """Return the NumPy type of a dataset of fixed-size values; others are refused before anything is read."""
    kind = dataset.id.get_type()
    words = {
        h5py.h5t.COMPOUND: "compound or complex",
        h5py.h5t.VLEN: "of variable length",
        h5py.h5t.OPAQUE: "opaque",
        h5py.h5t.REFERENCE: "references",
        h5py.h5t.ARRAY: "arrays inside items",
        h5py.h5t.TIME: "time",
    }.get(kind.get_class())
    if words is None and kind.get_class() == h5py.h5t.STRING and kind.is_variable_str():
        words = "strings of variable length (object)"
    if words is not None:
        raise Refused("dtype", f"{shown} has values that are {words}; plain bool, int and float are allowed")
    try:
        dtype = dataset.dtype
    except (TypeError, ValueError) as error:
        raise Refused("dtype", f"{shown} has an unknown type: {printable(error)}") from error
    if dtype.kind not in "biufS" or (dtype.kind in "iuf" and dtype.itemsize > 8):
        raise Refused("dtype", f"{shown} has dtype {printable(dtype)}; plain bool, int and float are allowed")
    return dtype


def _check_sizes(shown: str, declared: int, stored: int, chunks: Any, itemsize: int) -> None:
    if chunks is not None:
        chunk = itemsize
        for length in chunks:
            chunk *= length
        if chunk > MAX_CHUNK_BYTES:
            raise Refused("unsafe", f"{shown} has chunks of {chunk} bytes, at most {MAX_CHUNK_BYTES} are allowed")
    if any(declared > size and declared > times * stored for size, times in MAX_EXPANSION):
        raise Refused("unsafe", f"{shown} declares {declared} bytes and stores {stored or 'none'}")
