"""Distributions over actions, as pure functions of tensors; the noise comes in from outside."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def tanh_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Squash a Gaussian sample into [-1, 1] and return its log-density there.

    u = mean + exp(log_std)·noise, a = tanh(u), log π(a) = Σ [log N(u) − log(1 − tanh²u)], the last term in the form
    2(ln 2 − u − softplus(−2u)), which is exact for any u.

    Parameters
    ----------
    mean, log_std, noise : (…, A) tensors
        ``noise`` is standard normal.

    Returns
    -------
    actions : (…, A) tensor in [-1, 1]
    log_probs : (…,) tensor
        Nats, density of the squashed action.

    Source
    ------
    Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", appendix C.
    """
    u = mean + log_std.exp() * noise
    log_prob = -0.5 * noise.square() - log_std - _HALF_LOG_2PI - 2 * (math.log(2) - u - F.softplus(-2 * u))
    return torch.tanh(u), log_prob.sum(-1)
