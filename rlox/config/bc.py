"""The options of behaviour cloning."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import option
from .network import NetworkConfig


@dataclass(frozen=True, kw_only=True)
class BCConfig(NetworkConfig):
    """Options of :class:`rlox.algorithms.bc.BC`. CORL's values, but observations are normalised only where asked for."""

    learning_rate: float = option(3e-4, "Learning rate", gt=0, aliases=("--lr",))
    batch_size: int = option(256, "Transitions per update", ge=1)
    normalize_obs: bool = option(False, "Normalise observations by the dataset's mean and deviation", panel="Dataset")
