"""Read the pickle inside a checkpoint without unpickling it.

A checkpoint holds tensors, str, int, float, bool, None, list, tuple and dict. The pickle that torch writes for those
needs 26 opcodes and a handful of names. :func:`scan` walks them on a stack of its own on which a name is only a word,
a tensor only its dtype, shape and place: nothing is imported, called or allocated. Whatever does not fit is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from ..errors import CheckpointError, printable

MAX_BYTES = 16 * 2**20
MAX_OPCODES = 1_000_000
MAX_DEPTH = 64
MAX_NAME = 4096  # characters of a tensor's full name; without a limit, one long key is copied for every leaf
MAX_INT_BITS = 2039  # LONG1, the longest integer that torch's restricted unpickler reads

ITEMSIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex128": 16, "complex64": 8, "bool": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
}  # fmt: skip
_STORAGES = {
    "torch DoubleStorage": "float64",
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch ComplexDoubleStorage": "complex128",
    "torch ComplexFloatStorage": "complex64",
    "torch BoolStorage": "bool",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch.storage UntypedStorage": "untyped",
}
_DTYPES = {f"torch {name}": name for name in ("uint16", "uint32", "uint64")}
_REBUILD_V2 = "torch._utils _rebuild_tensor_v2"
_REBUILD_V3 = "torch._utils _rebuild_tensor_v3"
_ORDERED_DICT = "collections OrderedDict"
ALLOWED_NAMES = frozenset([_REBUILD_V2, _REBUILD_V3, _ORDERED_DICT, *_STORAGES, *_DTYPES])


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a checkpoint says about one tensor: no data."""

    dtype: str
    shape: tuple[int, ...]
    storage: str
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class _Name:
    text: str


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: str
    n: int  # elements; bytes where the dtype is "untyped"


class _Hooks:
    """Stands for the empty OrderedDict of backward hooks that every tensor carries."""


_MARK = object()
_HOOKS = _Hooks()


def scan(pickled: bytes, storages: Mapping[str, int]) -> Any:
    """Return the state that a pickle describes, with a :class:`TensorSpec` for each tensor.

    Parameters
    ----------
    pickled : bytes
        The member ``data.pkl``.
    storages : mapping from str to int
        Bytes of each member ``data/<key>``.

    Raises
    ------
    CheckpointError
        ``unsafe content: …`` for an opcode or a name outside the list; also for a tensor that is larger than its
        storage, a storage that is not in the file or not as long as declared, and more than 16 MiB, a million
        opcodes or 64 levels.
    """
    if len(pickled) > MAX_BYTES:
        raise CheckpointError(
            f"its state has {len(pickled)} bytes without the tensors, at most {MAX_BYTES} are allowed"
        )
    machine = _Machine(storages)
    position = -1
    try:
        for count, (opcode, argument, at) in enumerate(pickletools.genops(pickled)):
            position = at or 0
            if count >= MAX_OPCODES:
                raise CheckpointError(f"its state has more than {MAX_OPCODES} opcodes")
            handler = _HANDLERS.get(opcode.name)
            if opcode.name == "PROTO" and argument != 2:
                raise _refused(f"pickle protocol {argument}", pickled)
            if handler is None:
                raise _refused(f"pickle opcode {opcode.name}", pickled)
            handler(machine, argument)
    except (ValueError, OverflowError) as error:  # genops: an unknown byte, an argument cut off, odd text
        raise CheckpointError(f"its state is not a pickle that torch writes: {printable(error)}") from error
    if position != len(pickled) - 1:
        raise CheckpointError("unsafe content: bytes after the end of the pickle")
    state = machine.pop()
    if machine.stack:
        raise CheckpointError("unsafe content: objects left over at the end of the pickle")
    for _ in leaves(state):
        pass
    return state


def leaves(state: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield ``(name, value)`` for everything in a scanned or loaded state that is no container.

    The name joins the keys with dots, e.g. ``policy.actor.0.weight``.
    """
    if depth > MAX_DEPTH:
        raise CheckpointError(f"{printable(name, 80)} is nested more than {MAX_DEPTH} levels deep")
    if len(name) > MAX_NAME:
        raise CheckpointError(f"{printable(name, 80)} is a name of more than {MAX_NAME} characters")
    if isinstance(state, _Name | _Storage | _Hooks):
        raise CheckpointError(
            f"unsafe content: {_dotted(state.text) if isinstance(state, _Name) else 'a bare storage'}"
        )
    if isinstance(state, dict):
        for key, item in state.items():
            yield from leaves(item, f"{name}.{key}" if name else str(key), depth + 1)
    elif isinstance(state, list | tuple):
        for index, item in enumerate(state):
            yield from leaves(item, f"{name}.{index}" if name else str(index), depth + 1)
    else:
        yield name, state


def names_in(pickled: bytes) -> list[str]:
    """Return the dotted names that any pickle, of any protocol, would import; as far as it can be read."""
    names: list[str] = []
    texts: list[str] = []
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
            if count >= MAX_OPCODES:
                break
            if opcode.name in ("GLOBAL", "INST"):
                names.append(str(argument))
            elif opcode.name == "STACK_GLOBAL" and len(texts) >= 2:
                names.append(f"{texts[-2]} {texts[-1]}")
            elif opcode.name.startswith("EXT"):
                names.append(f"copyreg extension-{argument}")
            elif isinstance(argument, str):
                texts.append(argument)
    except (ValueError, OverflowError):
        return names  # cut off or not a pickle: what came before is still worth naming
    return names


def unsafe_names(pickled: bytes) -> list[str]:
    """Return, dotted and printable, the names of :func:`names_in` that no checkpoint needs."""
    return [_dotted(name) for name in dict.fromkeys(names_in(pickled)) if name not in ALLOWED_NAMES]


def _refused(what: str, pickled: bytes) -> CheckpointError:
    """Return the error for an opcode outside the list: the code it is there for says more than the opcode."""
    return CheckpointError(f"unsafe content: {', '.join(unsafe_names(pickled)[:3]) or what}")


def _dotted(name: str) -> str:
    return printable(name.replace(" ", ".", 1), 100)


class _Machine:
    """The stack and memo of an unpickler that makes nothing."""

    def __init__(self, storages: Mapping[str, int]) -> None:
        self.sizes = storages
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.declared: dict[str, _Storage] = {}
        self.recalled = 0  # characters that came back from the memo

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise CheckpointError("unsafe content: the pickle takes what it did not put on its stack")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise CheckpointError(f"unsafe content: the pickle changes something that is no {kind.__name__}")
        return self.stack[-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise CheckpointError("unsafe content: the pickle ends a group that it did not begin")

    def collect(self, n: int) -> None:
        items = [self.pop() for _ in range(n)]
        self.push(tuple(reversed(items)))

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise CheckpointError("unsafe content: a dict with a key but no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise CheckpointError(f"unsafe content: a dict key that is a {type(key).__name__}")
            if key in target:
                raise CheckpointError(f"unsafe content: the dict key {printable(repr(key), 80)} is given twice")
            target[key] = value

    def name(self, text: str) -> None:
        if text not in ALLOWED_NAMES:
            raise CheckpointError(f"unsafe content: {_dotted(text)}")
        self.push(_Name(text))

    def remember(self, index: int) -> None:
        if not self.stack or self.stack[-1] is _MARK:
            raise CheckpointError("unsafe content: the pickle remembers what is not there")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        # Only words come back from the memo. A container that did could hold itself, or itself a billion times.
        value = self.memo.get(index)
        if not isinstance(value, str | _Name):
            raise CheckpointError("unsafe content: the pickle uses one object in two places")
        self.recalled += len(value) if isinstance(value, str) else 0
        if self.recalled > MAX_BYTES:
            raise CheckpointError("unsafe content: the pickle repeats its texts without end")
        self.push(value)

    def persistent(self, _: object) -> None:
        match self.pop():
            case ("storage", _Name(text=kind), str(key), "cpu", int(n)) if kind in _STORAGES:
                storage = _Storage(key, _STORAGES[kind], n)
            case _:
                raise CheckpointError("unsafe content: a reference to something that is no storage in main memory")
        if self.declared.setdefault(key, storage) != storage:
            raise CheckpointError(f"unsafe content: storage {printable(key, 40)} is declared in two ways")
        size = self.sizes.get(key)
        if size is None:
            raise CheckpointError(f"storage {printable(key, 40)} is not in the file")
        if n * ITEMSIZE.get(storage.dtype, 1) != size:
            raise CheckpointError(f"storage {key} is declared with {n} x {storage.dtype}, the file has {size} bytes")
        self.push(storage)

    def call(self, _: object) -> None:
        arguments, function = self.pop(), self.pop()
        text = function.text if isinstance(function, _Name) else type(function).__name__
        match text, arguments:
            case "collections OrderedDict", ():
                self.push(_HOOKS)
            case "torch._utils _rebuild_tensor_v2", (_Storage() as storage, offset, shape, stride, False, _Hooks()):
                self.push(_tensor(storage, storage.dtype, offset, shape, stride))
            case (
                "torch._utils _rebuild_tensor_v3",
                (_Storage() as storage, offset, shape, stride, False, _Hooks(), _Name(text=dtype)),
            ) if dtype in _DTYPES:
                self.push(_tensor(storage, _DTYPES[dtype], offset, shape, stride))
            case _:
                raise CheckpointError(f"unsafe content: a call of {_dotted(text)}")


def _tensor(storage: _Storage, dtype: str, offset: Any, shape: Any, stride: Any) -> TensorSpec:
    """Return the spec of a tensor that lies within its storage, however it strides, and is no larger than it."""
    numbers = [offset, *shape, *stride] if type(shape) is tuple and type(stride) is tuple else [None]
    if not all(type(x) is int and 0 <= x < 2**63 for x in numbers) or len(shape) != len(stride) or len(shape) > 64:
        raise CheckpointError(f"tensor in storage {storage.key} has no valid shape")
    if (storage.dtype == "untyped") != (dtype in _DTYPES.values()):
        raise CheckpointError(f"tensor in storage {storage.key} has another dtype than its storage")
    capacity = storage.n // (ITEMSIZE[dtype] if storage.dtype == "untyped" else 1)
    n = prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if n else offset - 1
    if offset + n > capacity or last >= capacity:
        raise CheckpointError(
            f"tensor of shape {printable(shape, 80)} in storage {storage.key} is larger than its storage, "
            f"{capacity} elements"
        )
    return TensorSpec(dtype, shape, storage.key, offset)


def _skip(machine: _Machine, argument: Any) -> None:
    """Leave the stack as it is: PROTO is checked by the caller, STOP ends genops."""


def _pair(machine: _Machine, argument: Any) -> None:
    value = machine.pop()
    machine.set_items([machine.pop(), value])


_HANDLERS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": _skip,
    "STOP": _skip,
    "MARK": lambda m, _: m.push(_MARK),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.collect(1),
    "TUPLE2": lambda m, _: m.collect(2),
    "TUPLE3": lambda m, _: m.collect(3),
    "APPEND": lambda m, _: m.extend([m.pop()]),
    "APPENDS": lambda m, _: m.extend(m.pop_to_mark()),
    "SETITEM": _pair,
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "BINPERSID": _Machine.persistent,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.recall),
    **dict.fromkeys(("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Machine.push),
}
