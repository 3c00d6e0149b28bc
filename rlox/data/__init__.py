"""Datasets: formats, safe reading, episode boundaries, collecting. Imports no torch, so that children start fast."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .d4rl import describe, open_dataset
    from .dataset import OfflineDatasetBuffer
    from .writer import write_d4rl

_HOME = {
    "OfflineDatasetBuffer": "rlox.data.dataset",
    "describe": "rlox.data.d4rl",
    "open_dataset": "rlox.data.d4rl",
    "write_d4rl": "rlox.data.writer",
}

__all__ = ["OfflineDatasetBuffer", "describe", "open_dataset", "write_d4rl"]


def __getattr__(name: str) -> Any:
    # Lazy, since the checking process imports this package and must start fast.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'rlox.data' has no attribute {name!r}")
