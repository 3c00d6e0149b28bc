"""Policies over continuous actions in [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .distributions import LOG_STD_MAX, LOG_STD_MIN, tanh_gaussian
from .mlp import MLP


class SquashedGaussianActor(nn.Module):
    """A Gaussian with state-dependent mean and deviation, squashed by tanh.

    Parameters
    ----------
    obs_dim, act_dim : int
    widths : sequence of int
        Hidden widths.
    activation, layer_norm, dropout
        As in :class:`rlox.networks.MLP`.

    Notes
    -----
    log σ is clamped to [-20, 2]. It is a :class:`rlox.protocols.StochasticActor`; ``rsample`` takes the noise from
    outside, so that rlox can draw it from a stream of its own.
    """

    def __init__(self, obs_dim: int, act_dim: int, widths: Sequence[int], **kwargs: object) -> None:
        super().__init__()
        self.act_dim = act_dim
        self.net = MLP([obs_dim, *widths, 2 * act_dim], **kwargs)  # type: ignore[arg-type]

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log σ before squashing, both (B, A)."""
        mean, log_std = self.net(obs).chunk(2, dim=-1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def rsample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return differentiable actions (B, A) and log-probabilities (B,) for standard normal ``noise`` (B, A)."""
        mean, log_std = self(obs)
        return tanh_gaussian(mean, log_std, noise)

    def sample(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions (B, A) and log-probabilities (B,), with noise from torch's global generator."""
        return self.rsample(obs, torch.randn(*obs.shape[:-1], self.act_dim, device=obs.device))

    def deterministic(self, obs: Tensor) -> Tensor:
        """Return tanh of the mean, (B, A)."""
        return torch.tanh(self(obs)[0])


class DeterministicTanhActor(nn.Module):
    """A deterministic policy with a tanh output; a :class:`rlox.protocols.DeterministicActor`."""

    def __init__(self, obs_dim: int, act_dim: int, widths: Sequence[int], **kwargs: object) -> None:
        super().__init__()
        self.net = MLP([obs_dim, *widths, act_dim], **kwargs)  # type: ignore[arg-type]

    def forward(self, obs: Tensor) -> Tensor:
        """Return actions (B, A) in [-1, 1]."""
        return torch.tanh(self.net(obs))
