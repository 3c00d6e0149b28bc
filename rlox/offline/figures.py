"""Numbers and arrays that an offline algorithm of the user's keeps as attributes: what training changed of them is saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import printable
from ..learner import fingerprint, owned


class Figures:
    """The numbers, arrays and tensors among the attributes of an object.

    Parameters
    ----------
    owner : object
    skip : set of str
        Attributes that are somebody else's affair.
    """

    def __init__(self, owner: object, skip: set[str]) -> None:
        self._owner, self._skip = owner, skip
        self._at_first: dict[str, str] = {}

    def note(self) -> None:
        """Take what there is now for what the constructor makes."""
        self._at_first = {name: fingerprint(value) for name, value in self._all()}

    def changed(self) -> dict[str, Any]:
        """Return copies of those that are no longer what the constructor made them, or came later."""
        return {k: owned(v) for k, v in self._all() if fingerprint(v) != self._at_first.get(k)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put saved ones back; ValueError for a name that the owner does not have."""
        known = dict(self._all())
        for name, value in state.items():
            if name not in known:
                raise ValueError(f"there is no figure {printable(name)} of {type(self._owner).__name__}'s own")
            setattr(self._owner, name, _as_before(value, known[name]))

    def _all(self) -> Iterator[tuple[str, Any]]:
        for name, value in vars(self._owner).items():
            if name not in self._skip and isinstance(value, bool | int | float | np.generic | np.ndarray | Tensor):
                yield name, value


def _as_before(value: Any, old: Any) -> Any:
    """Return a loaded figure in the form of the one that it replaces: files hold tensors and Python's numbers."""
    if isinstance(old, Tensor) and isinstance(value, Tensor) and old.shape == value.shape:
        with torch.no_grad():
            return old.copy_(value)  # in place: an optimizer may hold it
    return value.numpy() if isinstance(old, np.ndarray) and isinstance(value, Tensor) else value
