"""rlox: reinforcement learning from the shell, and the library of the same parts underneath.

``import rlox`` is cheap: what is below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .algorithms.bc import BC
    from .algorithms.cql import CQL
    from .algorithms.sac import SAC
    from .buffers import ReplayBuffer
    from .data import OfflineDatasetBuffer
    from .errors import RloxError
    from .evaluation import evaluate
    from .offline.base import OfflineAlgorithm

__version__ = "0.1.0"

_HOME = {
    "BC": "rlox.algorithms.bc",
    "CQL": "rlox.algorithms.cql",
    "OfflineAlgorithm": "rlox.offline.base",
    "OfflineDatasetBuffer": "rlox.data",
    "ReplayBuffer": "rlox.buffers",
    "RloxError": "rlox.errors",
    "SAC": "rlox.algorithms.sac",
    "evaluate": "rlox.evaluation",
}

__all__ = [
    "BC",
    "CQL",
    "SAC",
    "OfflineAlgorithm",
    "OfflineDatasetBuffer",
    "ReplayBuffer",
    "RloxError",
    "__version__",
    "evaluate",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'rlox' has no attribute {name!r}")


def __dir__() -> list[str]:
    own = {name for name in globals() if name not in ("Any", "TYPE_CHECKING", "annotations", "import_module")}
    return sorted(own | set(_HOME))
