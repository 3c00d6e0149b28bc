"""The config of a throwaway algorithm: all that its command, help, presets and files are made from."""

from __future__ import annotations

from dataclasses import dataclass

from rlox.config.fields import option
from rlox.config.off_policy import OffPolicyConfig


@dataclass(frozen=True, kw_only=True)
class ThrowawayConfig(OffPolicyConfig):
    """Options of the throwaway algorithm."""

    goal: float = option(0.25, "Action that the policy is pulled to", ge=-1, le=1, aliases=("--aim",))
