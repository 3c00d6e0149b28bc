"""Options of every algorithm that trains networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .fields import option, validate

NetArch = list[int] | dict[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shape and optimizer of the networks.

    ``net_arch`` is a list of hidden widths for all networks, or a table ``{pi = [...], qf = [...]}`` for the policy
    and the critics.
    """

    net_arch: list[int] | dict[str, list[int]] = option(
        [256, 256], "Hidden widths, e.g. --net-arch 64,64 or --net-arch '{pi = [64], qf = [256]}'", panel="Networks"
    )
    activation: Literal["relu", "tanh", "elu", "silu"] = option(
        "relu", "Activation between the layers", panel="Networks"
    )
    layer_norm: bool = option(False, "LayerNorm after each hidden linear layer", panel="Networks")
    dropout: float = option(0.0, "Share of hidden units dropped while training", ge=0, lt=1, panel="Networks")
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = option("adam", "Optimizer", panel="Networks")
    weight_decay: float = option(0.0, "Weight decay of the optimizer", ge=0, panel="Networks")

    def __post_init__(self) -> None:
        validate(self)

    def widths(self, which: Literal["pi", "qf"]) -> list[int]:
        """Return the hidden widths of the policy (``pi``) or of the critics (``qf``)."""
        return list(self.net_arch[which] if isinstance(self.net_arch, dict) else self.net_arch)
