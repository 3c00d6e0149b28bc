"""The options of SAC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .fields import option
from .off_policy import OffPolicyConfig


@dataclass(frozen=True, kw_only=True)
class SACConfig(OffPolicyConfig):
    """Options of :class:`rlox.algorithms.sac.SAC`. Defaults are those of stable-baselines3."""

    ent_coef: float | Literal["auto"] = option("auto", "Entropy coefficient, or 'auto' to learn it from 1.0", ge=0)
    target_entropy: float | Literal["auto"] = option("auto", "Entropy to hold when ent_coef is auto; 'auto': -act_dim")
    n_critics: int = option(2, "Critics; targets and the policy use the smallest value", ge=1, le=100)
    target_update_interval: int = option(1, "Updates between two updates of the target", ge=1)
