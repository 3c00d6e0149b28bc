"""Options of every off-policy algorithm: how it collects, stores and samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError
from .fields import option
from .network import NetworkConfig


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(NetworkConfig):
    """Collection, replay and targets. Counts are environment transitions, summed over environments."""

    learning_rate: float = option(3e-4, "Learning rate of all networks", gt=0, aliases=("--lr",))
    gamma: float = option(0.99, "Discount", ge=0, le=1)
    batch_size: int = option(256, "Transitions per update", ge=1)
    buffer_size: int = option(1_000_000, "Transitions kept for replay", ge=1)
    learning_starts: int = option(100, "Transitions collected at random before the first update", ge=0)
    tau: float = option(0.005, "Share of the online weights in each update of the target", gt=0, le=1)
    train_freq: int = option(1, "Transitions between two phases of updates", ge=1)
    gradient_steps: int = option(
        1, "Updates per train_freq transitions; -1 means one per transition", ge=1, special=(-1,)
    )
    normalize_obs: bool = option(False, "Normalise observations by running mean and variance", panel="Environment")
    vec: Literal["sync", "async"] = option(
        "sync", "Several environments in one process (sync) or one process each (async)", section="hardware"
    )
    env_timeout: float = option(
        60.0, "Seconds until a step of an environment counts as hung", section="hardware", gt=0
    )
    save_buffer: bool = option(
        True, "Save the replay buffer for resuming; without it, going on is not exact", section="checkpoint"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size > self.buffer_size:
            raise ConfigError(f"batch_size is {self.batch_size}, must be at most buffer_size {self.buffer_size}",
                              param="--batch-size", value=self.batch_size)  # fmt: skip
