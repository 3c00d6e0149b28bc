"""Who draws from the random generators that a whole process shares: such an environment cannot be rebuilt."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np

from .packing import pack

NAMES = ("Python's global random state", "NumPy's global random state", "torch's global random state")


def global_state() -> tuple[Any, ...]:
    """Return the states of Python's, NumPy's and, where it is imported, torch's global generator, to be compared."""
    torch = sys.modules.get("torch")
    generator = getattr(torch, "default_generator", None)  # absent while torch is being imported
    return (
        random.getstate(),
        pack(np.random.get_state(legacy=False)),
        b"" if generator is None else generator.get_state().numpy().tobytes(),
    )


def drawn_since(before: tuple[Any, ...]) -> str | None:
    """Return which global states are others than ``before``, in words; None when none is."""
    pairs = zip(NAMES, before, global_state(), strict=True)
    changed = [name for name, old, new in pairs if old != new and old != b""]  # torch may have come meanwhile
    return " and ".join(changed) or None
