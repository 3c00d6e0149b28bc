r"""Conservative Q-Learning for continuous actions.

SAC on a dataset, with an entropy-free target and critics that are pushed down where the data has no actions:

    y    = r + γ (1 − d) min_i Q'_i(s', a'),  a' ~ π(s')
    L_Q  = Σ_i mean[(Q_i(s, a) − y)²] + cql_alpha Σ_i mean[lse_i(s) − Q_i(s, a)]
    lse  = log Σ exp over  N uniform actions: Q(s, ã) − log ½^A
                           N actions of π(s): Q(s, ã) − log π(ã|s)
                           N actions of π(s'), evaluated at s: Q(s, ã) − log π(ã|s')
    L_π  = mean[α log π(ã|s) − min_i Q_i(s, ã)],   L_α as in SAC

All losses are computed with the parameters from before the step, as in the reference.

Source: Kumar et al. 2020, "Conservative Q-Learning for Offline Reinforcement Learning" (arXiv:2006.04779), equation 4,
appendix F (importance sampling); CORL ``algorithms/offline/cql.py`` for rates and sample counts. The networks are SAC's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..config.cql import CQLConfig
from ..learner import frozen, polyak
from ..networks import tanh_gaussian
from ..offline.configured import ConfiguredOfflineAlgorithm
from ..protocols import Batch
from .sac import SACLearner, actor_loss, draw, soft_target, values


def bellman_loss(q: Tensor, target: Tensor) -> Tensor:
    """Return Σ_i mean[(Q_i − y)²] of values (E, B) and targets (B,)."""
    return (q - target).square().mean(-1).sum()


def conservative_loss(q_sampled: Tensor, log_density: Tensor, q_data: Tensor) -> Tensor:
    """Return Σ_i mean[log Σ_k exp(Q_i(s, ã_k) − log density_k) − Q_i(s, a)].

    Parameters
    ----------
    q_sampled : (E, K, B) tensor
        Values of K sampled actions per observation.
    log_density : (K, B) tensor
        Log-density of each under the distribution it was drawn from.
    q_data : (E, B) tensor
        Values of the dataset's actions.
    """
    return (torch.logsumexp(q_sampled - log_density, dim=1) - q_data).mean(-1).sum()


def values_of_many(critic: nn.Module, obs: Tensor, actions: Tensor) -> Tensor:
    """Return the critics' values (E, K, B) of ``actions`` (K, B, A) at ``obs`` (B, obs_dim)."""
    k, n, _ = actions.shape
    tiled = obs.expand(k, *obs.shape).reshape(k * n, -1)
    return values(critic, tiled, actions.reshape(k * n, -1)).view(-1, k, n)


class CQLLearner(SACLearner):
    """SAC's networks with the update of CQL."""

    def __init__(self, obs_dim: int, act_dim: int, config: CQLConfig, *, device: torch.device | str = "cpu") -> None:
        super().__init__(obs_dim, act_dim, config, actor_learning_rate=config.actor_learning_rate, device=device)
        self.cql_alpha, self.n_actions = config.cql_alpha, config.n_actions

    def update(self, batch: Batch, generator: torch.Generator) -> dict[str, Any]:
        """Make one update of temperature, policy, critics and targets, all from the parameters before it."""
        obs, next_obs, actions = batch["obs"], batch["next_obs"], batch["actions"]
        ent_coef = self.temperature()

        sampled, log_probs = draw(self.actor, obs, generator)
        with frozen(self.critic):
            loss_pi = actor_loss(log_probs, values(self.critic, obs, sampled).amin(0), ent_coef)

        with torch.no_grad():
            next_sampled, next_log_probs = draw(self.actor, next_obs, generator)
            next_q = values(self.critic_target, next_obs, next_sampled).amin(0)
            target = soft_target(batch["rewards"], batch["terminated"], next_q, next_log_probs, 0.0, self.gamma)
            candidates, log_density = self.sample_candidates(obs, next_obs, generator)
        q = values(self.critic, obs, actions)
        loss_td = bellman_loss(q, target)
        loss_cql = conservative_loss(values_of_many(self.critic, obs, candidates), log_density, q)
        loss_q = loss_td + self.cql_alpha * loss_cql

        loss_alpha = self.temperature.loss(log_probs) if self.temperature_optimizer is not None else None
        self.actor_optimizer.step(loss_pi)
        self.critic_optimizer.step(loss_q)
        if self.temperature_optimizer is not None and loss_alpha is not None:
            self.temperature_optimizer.step(loss_alpha)
        polyak(self.critic_target, self.critic, self.tau)
        self.n_updates += 1
        return {
            "critic_loss": loss_q.detach(),
            "td_loss": loss_td.detach(),
            "conservative_loss": loss_cql.detach(),
            "actor_loss": loss_pi.detach(),
            "ent_coef": ent_coef,
            "q_mean": q.detach().mean(),
            "entropy": -log_probs.detach().mean(),
        }

    @torch.no_grad()
    def sample_candidates(self, obs: Tensor, next_obs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return K = 3N actions (K, B, A) for the log-sum-exp and their log-densities (K, B), without gradient."""
        act_dim = self.act_dim
        shape = (self.n_actions, len(obs), act_dim)
        uniform = 2 * torch.rand(shape, generator=generator, device=obs.device) - 1
        parts = [(uniform, torch.full(shape[:-1], act_dim * math.log(0.5), device=obs.device))]
        for where in (obs, next_obs):
            mean, log_std = self.actor(where)  # once per distinct observation, N samples from it
            parts.append(tanh_gaussian(mean, log_std, torch.randn(shape, generator=generator, device=obs.device)))
        return torch.cat([a for a, _ in parts]), torch.cat([p for _, p in parts])


class CQL(ConfiguredOfflineAlgorithm):
    """Conservative Q-Learning for Box actions.

    Parameters
    ----------
    dataset, batch_size, callbacks, logger, seed, device, env, action_low, action_high, config, **config_overrides
        As in :class:`rlox.offline.configured.ConfiguredOfflineAlgorithm`; the options are those of
        :class:`rlox.config.CQLConfig`.
    """

    name = "cql"
    config_class = CQLConfig
    config: CQLConfig

    def _build(self) -> None:
        self.learner = CQLLearner(self.obs_dim, self.act_dim, self.config, device=self.device)

    def _update(self, batch: Batch) -> dict[str, Any]:
        return self.learner.update(batch, self.generator)

    def act(self, obs: Tensor, deterministic: bool, generator: torch.Generator) -> Tensor:
        """Return actions (B, A) in [-1, 1]."""
        return self.learner.act(obs, deterministic, generator)

    def _value(self, obs: Tensor, actions: Tensor) -> Tensor:
        return self.learner.value(obs, actions)
