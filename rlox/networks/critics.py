"""Action values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .mlp import MLP


class QEnsemble(nn.Module):
    """E independent critics Q(s, a) as one batched network.

    Parameters
    ----------
    obs_dim, act_dim : int
    widths : sequence of int
        Hidden widths.
    n_critics : int
        E.
    activation, layer_norm, dropout
        As in :class:`rlox.networks.MLP`.
    """

    def __init__(self, obs_dim: int, act_dim: int, widths: Sequence[int], n_critics: int, **kwargs: object) -> None:
        super().__init__()
        self.net = MLP([obs_dim + act_dim, *widths, 1], ensemble=n_critics, **kwargs)  # type: ignore[arg-type]

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return the values (E, B) of ``actions`` (B, A) in [-1, 1] at ``obs`` (B, obs_dim)."""
        values: Tensor = self.net(torch.cat([obs, actions], dim=-1)).squeeze(-1)  # (E, B)
        return values
