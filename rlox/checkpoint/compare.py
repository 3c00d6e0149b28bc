"""What differs between two checkpoints: what they say of themselves, counters, tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import manifest as manifests
from . import opcodes
from .store import load

if TYPE_CHECKING:
    import torch

# Of the file and the machine, not of the model; and what the state has too.
_ASIDE = {*manifests.RESERVED, "created", "versions", "threads", "device", "exact_resume", "step", "n_updates"}
_CHUNK = 2**20


@dataclass(frozen=True)
class ValueDifference:
    """A config key, a field of the manifest or a counter that is not the same; None where there is none."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that is not the same bit for bit.

    ``a`` and ``b`` are dtype and shape, None where there is no such tensor. ``max_difference`` is the largest absolute
    difference of two elements, in float64, infinity where one of them alone is NaN; ``n_different`` counts the elements
    beyond the tolerance. Both are None where dtype or shape differ.
    """

    name: str
    a: str | None
    b: str | None
    max_difference: float | None = None
    n_different: int | None = None

    @property
    def equal(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.n_different == 0


@dataclass(frozen=True)
class Comparison:
    """All that differs between two checkpoints. ``n_tensors`` counts the names of both."""

    config: list[ValueDifference]
    counters: list[ValueDifference]
    tensors: list[TensorDifference]
    n_tensors: int

    @property
    def equal(self) -> bool:
        """Whether nothing differs beyond the tolerance."""
        return not self.config and not self.counters and all(tensor.equal for tensor in self.tensors)

    def summary(self) -> str:
        """Return in words how much differs."""
        n = sum(not tensor.equal for tensor in self.tensors)
        counts = ((len(self.config), "config key"), (len(self.counters), "counter"))
        words = [f"{k} {noun}{'s' * (k != 1)}" for k, noun in counts if k]
        words += [f"{n} of {self.n_tensors} tensors"] if n else []
        return ", ".join(words) or "nothing"


def compare(
    a: str | os.PathLike[str], b: str | os.PathLike[str], *, atol: float = 0.0, rtol: float = 0.0
) -> Comparison:
    """Compare the contents of two checkpoints; imports torch.

    Parameters
    ----------
    a, b : path-like
        Both pass every check of :func:`rlox.checkpoint.verify` first; NaN and infinity are allowed in them.
    atol, rtol : float
        Floats ``x`` and ``y`` count as equal when ``|x - y| <= atol + rtol * |y|``. Integers must be the same.

    Returns
    -------
    Comparison
        Versions, machine, date and digests of the files are left out: they say nothing about the model.

    Raises
    ------
    CheckpointNotFoundError, CheckpointMismatchError, CheckpointError
        As :func:`rlox.checkpoint.load`.
    """
    (state_a, about_a), (state_b, about_b) = (load(path, allow_nonfinite=True) for path in (a, b))
    config = _values(dict(_flat(about_a)), dict(_flat(about_b)), 0.0, 0.0)
    tensors_a, counters_a = _split(state_a)
    tensors_b, counters_b = _split(state_b)
    names = [*tensors_a, *(name for name in tensors_b if name not in tensors_a)]
    tensors = [_tensor(name, tensors_a.get(name), tensors_b.get(name), atol, rtol) for name in names]
    return Comparison(
        config, _values(counters_a, counters_b, atol, rtol), [t for t in tensors if t is not None], len(names)
    )


def _flat(manifest: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of a manifest, the config's keys under ``config.``, other tables likewise."""
    for key, value in manifest.items():
        if not prefix and key in _ASIDE:
            continue
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _split(state: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors and the other values of a state by name."""
    import torch

    tensors, others = {}, {}
    for name, value in opcodes.leaves(state):
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        else:
            others[name] = value
    return tensors, others


_MISSING = object()


def _values(a: Mapping[str, Any], b: Mapping[str, Any], atol: float, rtol: float) -> list[ValueDifference]:
    found = []
    for key in [*a, *(key for key in b if key not in a)]:
        x, y = a.get(key, _MISSING), b.get(key, _MISSING)
        if not _same(x, y, atol, rtol):
            found.append(ValueDifference(key, None if x is _MISSING else x, None if y is _MISSING else y))
    return found


def _same(x: Any, y: Any, atol: float, rtol: float) -> bool:
    if isinstance(x, float) and isinstance(y, float):
        return x == y or (x != x and y != y) or abs(x - y) <= atol + rtol * abs(y)
    return type(x) is type(y) and bool(x == y)


def _tensor(
    name: str, a: torch.Tensor | None, b: torch.Tensor | None, atol: float, rtol: float
) -> TensorDifference | None:
    """Return what differs, None where nothing does."""
    words = [None if tensor is None else _words(tensor) for tensor in (a, b)]
    if a is None or b is None or words[0] != words[1]:
        return TensorDifference(name, words[0], words[1])
    largest, n_different = 0.0, 0
    x, y = a.reshape(-1), b.reshape(-1)
    for start in range(0, len(x), _CHUNK):
        differs, distance, beyond = _distances(x[start : start + _CHUNK], y[start : start + _CHUNK], atol, rtol)
        if differs:
            largest, n_different = max(largest, distance), n_different + beyond
    return TensorDifference(name, words[0], words[1], largest, n_different) if largest else None


def _distances(x: torch.Tensor, y: torch.Tensor, atol: float, rtol: float) -> tuple[int, float, int]:
    """Return how many elements differ, by how much at most, and how many of them beyond the tolerance."""
    import torch

    approximate = x.is_floating_point() or x.is_complex()
    differs = ~((x == y) | (x.isnan() & y.isnan())) if approximate else x != y
    n = int(differs.sum())
    if not n:
        return 0, 0.0, 0
    wide = torch.complex128 if x.is_complex() else torch.float64
    x, y = (part[differs].to(wide) for part in (x, y))
    distance = (x - y).abs().nan_to_num(nan=float("inf"), posinf=float("inf"))
    if not approximate:  # float64 cannot tell large neighbours apart
        return n, max(float(distance.max()), 1.0), n
    within = distance.isfinite() & (distance <= atol + rtol * y.abs())
    return n, float(distance.max()), n - int(within.sum())


def _words(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
