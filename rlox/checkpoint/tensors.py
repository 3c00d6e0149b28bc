"""The half of a checkpoint that needs torch: states in, states out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import IO, TYPE_CHECKING, Any

from ..errors import CheckpointError, printable
from . import opcodes

if TYPE_CHECKING:
    import torch

_FINITE_CHUNK = 2**20


class _Sink:
    """Hand bytes on to a file and keep its first error.

    torch's writer is C++ and turns a Python exception inside it into text; so nothing is raised through it, and
    :func:`write` raises the error itself afterwards, with its errno.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except BaseException as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Nothing to do: the file is flushed once it is complete."""


def write(file: IO[bytes], state: Any) -> None:
    """Write a state as a torch zip at the start of an open file."""
    import torch

    sink = _Sink(file)
    try:
        torch.save(plain(state), sink, pickle_protocol=2, _use_new_zipfile_serialization=True)  # type: ignore[arg-type]
    finally:
        if sink.error is not None:
            raise sink.error


def read(file: IO[bytes]) -> Any:
    """Return the state in an open file that passed steps 1 to 5, tensors in main memory."""
    import torch

    file.seek(0)
    try:
        # weights_only is given, so that no environment variable changes it; mmap too, as it has a global default.
        return torch.load(file, map_location="cpu", weights_only=True, mmap=False)
    except OSError:
        raise
    except MemoryError as error:
        raise CheckpointError("does not fit into memory") from error
    except Exception as error:
        # torch's text recommends the unsafe mode, so it goes no further than the cause.
        raise CheckpointError("passes every check, but this version of torch cannot read it") from error


def plain(state: Any) -> Any:
    """Return a copy of a state in plain containers, its arrays and tensors as tensors in main memory, detached.

    Tensors that share one buffer, and use all of it, go on sharing it; a part of a larger buffer is copied out.

    Raises
    ------
    CheckpointError
        For anything else than dict (keys str or int), list, tuple, tensor, array, str, int of at most 2039 bits,
        float, bool and None, naming its place.
    """
    used: dict[int, int] = {}
    dtypes: dict[int, set[str]] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        at = tensor.untyped_storage().data_ptr()
        used[at] = used.get(at, 0) + tensor.nbytes
        dtypes.setdefault(at, set()).add(str(tensor.dtype))
        return tensor

    def compact(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        shared = len(dtypes[storage.data_ptr()]) == 1 and used[storage.data_ptr()] >= storage.nbytes()
        # An expanded tensor has more elements than its buffer: readers refuse that, a bomb looks the same.
        fits = (tensor.storage_offset() + tensor.numel()) * tensor.itemsize <= storage.nbytes()
        return tensor if shared and fits else tensor.clone(memory_format=_contiguous())

    def convert(value: Any, where: str) -> Any:
        return note(_tensor(value, where)) if _is_array(value) else _primitive(value, where)

    return _map(_map(state, convert), lambda value, _: compact(value) if _is_array(value) else value)


def check_same(state: Any, scanned: Any) -> None:
    """Raise CheckpointError unless torch read exactly the state that was checked."""
    import torch

    def outline(leaves: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        for name, value in leaves:
            yield name, _spec(value) if isinstance(value, torch.Tensor | opcodes.TensorSpec) else repr(value)

    pairs = zip_longest(outline(opcodes.leaves(state)), outline(opcodes.leaves(scanned)))  # never all in memory
    if any(ours != theirs for ours, theirs in pairs):
        raise CheckpointError("unsafe content: torch reads another state than the one that was checked")


def check_finite(state: Any) -> None:
    """Raise CheckpointError, naming the first tensor that holds NaN or infinity."""
    import torch

    for name, tensor in opcodes.leaves(state):
        if isinstance(tensor, torch.Tensor) and (tensor.is_floating_point() or tensor.is_complex()):
            parts = torch.split(tensor.reshape(-1), _FINITE_CHUNK)
            bad = sum(part.numel() - int(part.isfinite().sum()) for part in parts)
            if bad:
                raise CheckpointError(
                    f"tensor {printable(name)} has {bad} of {tensor.numel()} values that are NaN or infinite",
                    hint="use an earlier checkpoint, or give `--allow-nonfinite` to look at this one",
                    value=name,
                )


def _spec(tensor: torch.Tensor | opcodes.TensorSpec) -> tuple[str, tuple[int, ...]]:
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def _map(value: Any, leaf: Callable[[Any, str], Any], where: str = "state", depth: int = 0) -> Any:
    """Return a copy of nested plain containers with ``leaf(value, place)`` in place of every leaf."""
    if depth > opcodes.MAX_DEPTH:
        raise CheckpointError(f"{where[:80]}… is nested more than {opcodes.MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (str, int):
                raise CheckpointError(f"{where} has the key {printable(repr(key), 80)}, keys must be str or int")
        return {key: _map(item, leaf, f"{where}[{key!r}]", depth + 1) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_map(item, leaf, f"{where}[{index}]", depth + 1) for index, item in enumerate(value))
    return leaf(value, where)


def _is_array(value: Any) -> bool:
    import numpy as np
    import torch

    return isinstance(value, torch.Tensor | np.ndarray)


def _tensor(value: torch.Tensor | Any, where: str) -> torch.Tensor:
    """Return an array or tensor as a detached plain tensor in main memory."""
    import numpy as np
    import torch

    if isinstance(value, np.ndarray):
        name = value.dtype.name
        if name not in opcodes.ITEMSIZE:
            raise CheckpointError(f"{where} has dtype {name}, must be one of {', '.join(opcodes.ITEMSIZE)}")
        native = np.asarray(value).astype(value.dtype.newbyteorder("="), copy=False)
        # from_numpy takes neither negative strides nor read-only memory
        return torch.from_numpy(native if native.flags.c_contiguous and native.flags.writeable else native.copy("C"))
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        raise CheckpointError(f"{where} is a {value.layout} tensor on {value.device}, must be dense and hold data")
    name = str(value.dtype).removeprefix("torch.")
    if name not in opcodes.ITEMSIZE:
        raise CheckpointError(f"{where} has dtype {name}, must be one of {', '.join(opcodes.ITEMSIZE)}")
    return value.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg().cpu()


def _primitive(value: Any, where: str) -> Any:
    import numpy as np

    if isinstance(value, np.generic):
        value = value.item()
    if type(value) is int and value.bit_length() > opcodes.MAX_INT_BITS:
        raise CheckpointError(f"{where} is an integer of {value.bit_length()} bits, at most {opcodes.MAX_INT_BITS} fit")
    if value is not None and type(value) not in (str, int, float, bool):
        raise CheckpointError(
            f"{where} is a {type(value).__name__}, must be a tensor, array, str, int, float, bool, None, list, tuple or dict"
        )
    return value


def _contiguous() -> torch.memory_format:
    import torch

    return torch.contiguous_format
