"""The options of CQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .fields import option
from .network import NetworkConfig


@dataclass(frozen=True, kw_only=True)
class CQLConfig(NetworkConfig):
    """Options of :class:`rlox.algorithms.cql.CQL`.

    Rates, weights and sample counts are CORL's. Networks are rlox's: 2×256, SAC's policy and initial values; observations
    are normalised only where asked for.
    """

    learning_rate: float = option(3e-4, "Learning rate of the critics", gt=0, aliases=("--lr",))
    actor_learning_rate: float = option(3e-5, "Learning rate of the policy and of the entropy coefficient", gt=0)
    gamma: float = option(0.99, "Discount", ge=0, le=1)
    batch_size: int = option(256, "Transitions per update", ge=1)
    tau: float = option(0.005, "Share of the online weights in each update of the target", gt=0, le=1)
    cql_alpha: float = option(10.0, "Weight of the conservative term", ge=0)
    n_actions: int = option(10, "Actions sampled per kind and observation for the conservative term", ge=1, le=1000)
    ent_coef: float | Literal["auto"] = option("auto", "Entropy coefficient, or 'auto' to learn it from 1.0", ge=0)
    target_entropy: float | Literal["auto"] = option("auto", "Entropy to hold when ent_coef is auto; 'auto': -act_dim")
    n_critics: int = option(2, "Critics; targets and the policy use the smallest value", ge=1, le=100)
    normalize_obs: bool = option(False, "Normalise observations by the dataset's mean and deviation", panel="Dataset")
