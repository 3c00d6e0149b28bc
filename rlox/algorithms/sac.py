r"""Soft Actor-Critic.

With α the entropy coefficient, d terminated, Q' the target critics, ã and a' fresh samples of the policy:

    y    = r + γ (1 − d) [min_i Q'_i(s', a') − α log π(a'|s')]
    L_Q  = ½ Σ_i mean[(Q_i(s, a) − y)²]
    L_π  = mean[α log π(ã|s) − min_i Q_i(s, ã)]
    L_α  = −log α · mean[log π(ã|s) + target_entropy]

One value of α serves the whole update. Actions are in [-1, 1] per dimension, and so are log π and target_entropy.

Source: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv:1812.05905), equations 5, 7, 18;
defaults of stable-baselines3 ``sac/sac.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..callbacks import Callback
from ..config.network import NetworkConfig
from ..config.sac import SACConfig
from ..errors import ConfigError
from ..learner import Learner, Optimizer, frozen, make_target, network_options, polyak
from ..logging import LoggerCallback
from ..networks import QEnsemble, SquashedGaussianActor
from ..online.off_policy import OffPolicyAlgorithm
from ..protocols import Batch, ExplorationStrategy, ReplayBufferProtocol


def soft_target(
    rewards: Tensor, terminated: Tensor, next_q: Tensor, next_log_probs: Tensor, ent_coef: Tensor | float, gamma: float
) -> Tensor:
    """Return y = r + γ (1 − d) (next_q − α next_log_probs).

    Parameters
    ----------
    rewards, terminated, next_q, next_log_probs : (B,) tensors
        ``terminated`` is 0 or 1; ``next_q`` is the smallest target critic at the next action.
    ent_coef : 0-d tensor or float
        α; 0 leaves the entropy out.
    gamma : float
    """
    return rewards + gamma * (1 - terminated) * (next_q - ent_coef * next_log_probs)


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Return ½ Σ_i mean[(Q_i − y)²] of values (E, B) and targets (B,)."""
    return 0.5 * (q - target).square().mean(-1).sum()


def actor_loss(log_probs: Tensor, q: Tensor, ent_coef: Tensor | float) -> Tensor:
    """Return mean[α log π − Q] of (B,) log-probabilities and (B,) values of the sampled actions."""
    return (ent_coef * log_probs - q).mean()


def temperature_loss(log_ent_coef: Tensor, log_probs: Tensor, target_entropy: float) -> Tensor:
    """Return −log α · mean[log π + target_entropy]; no gradient reaches the policy."""
    return -log_ent_coef * (log_probs.detach() + target_entropy).mean()


class Temperature(nn.Module):
    """The entropy coefficient α: fixed, or learnt from 1.0 so that the policy's entropy stays at a target."""

    def __init__(self, ent_coef: float | str, target_entropy: float | str, act_dim: int) -> None:
        super().__init__()
        self.learnt = ent_coef == "auto"
        self.target_entropy = -float(act_dim) if target_entropy == "auto" else float(target_entropy)
        self.fixed = 0.0 if self.learnt else float(ent_coef)
        if self.learnt:
            self.log_ent_coef = nn.Parameter(torch.zeros(()))

    def forward(self) -> Tensor | float:
        """Return α, without gradient."""
        return self.log_ent_coef.detach().exp() if self.learnt else self.fixed

    def loss(self, log_probs: Tensor) -> Tensor:
        """Return the loss of log α for the policy's (B,) log-probabilities."""
        return temperature_loss(self.log_ent_coef, log_probs, self.target_entropy)


def draw(actor: nn.Module, obs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return differentiable actions (B, A) and log-probabilities (B,) of the policy.

    rlox's own actor takes its noise from ``generator``; a user's own ``sample`` draws what it draws.
    """
    if isinstance(actor, SquashedGaussianActor):
        noise = torch.randn(len(obs), actor.act_dim, generator=generator, device=obs.device)
        return actor.rsample(obs, noise)
    actions, log_probs = actor.sample(obs)  # type: ignore[operator]
    if actions.dim() != 2 or len(actions) != len(obs):
        shapes = f"actions of shape {tuple(actions.shape)}, must be ({len(obs)}, act_dim)"
        raise ConfigError(f"actor.sample returned {shapes}", param="actor")
    if log_probs.shape != (len(obs),):
        shapes = f"log-probabilities of shape {tuple(log_probs.shape)}, must be {(len(obs),)}"
        raise ConfigError(f"actor.sample returned {shapes}; sum over the action dimensions", param="actor")
    return actions, log_probs


def values(critic: nn.Module, obs: Tensor, actions: Tensor) -> Tensor:
    """Return the critics' values (E, B); ConfigError when a user's own critic returns another shape."""
    q: Tensor = critic(obs, actions)
    if q.dim() != 2 or q.shape[1] != len(obs):
        raise ConfigError(
            f"critic returned values of shape {tuple(q.shape)}, must be (n_critics, {len(obs)})", param="critic"
        )
    return q


class SACLearner(Learner):
    """The networks of SAC and their update.

    Parameters
    ----------
    obs_dim, act_dim : int
    config : NetworkConfig
        With SAC's options; CQL's has them too.
    actor_learning_rate : float, optional
        Of the policy and of α; None: ``config.learning_rate``.
    actor, critic : nn.Module, optional
        The user's own: a StochasticActor; a module (obs, actions) -> (n_critics, B).
    device : torch.device
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        config: Any,
        *,
        actor_learning_rate: float | None = None,
        actor: nn.Module | None = None,
        critic: nn.Module | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        shape = network_options(config)
        actor_lr = config.learning_rate if actor_learning_rate is None else actor_learning_rate
        if actor is None:
            actor = SquashedGaussianActor(obs_dim, act_dim, config.widths("pi"), **shape)
        if critic is None:
            critic = QEnsemble(obs_dim, act_dim, config.widths("qf"), config.n_critics, **shape)
        self.actor, self.critic = actor.to(device), critic.to(device)
        self.critic_target = make_target(self.critic)
        self.temperature = Temperature(config.ent_coef, config.target_entropy, act_dim).to(device)
        self.actor_optimizer = Optimizer(self.actor, config, actor_lr)
        self.critic_optimizer = Optimizer(self.critic, config, config.learning_rate)
        self.temperature_optimizer = (
            Optimizer(self.temperature, NetworkConfig(optimizer=config.optimizer), actor_lr)
            if self.temperature.learnt
            else None
        )
        self.act_dim, self.gamma, self.tau = act_dim, config.gamma, config.tau
        self.target_update_interval = getattr(config, "target_update_interval", 1)

    def update(self, batch: Batch, generator: torch.Generator) -> dict[str, Any]:
        """Make one update of critics, policy, temperature and targets."""
        obs, next_obs = batch["obs"], batch["next_obs"]
        ent_coef = self.temperature()

        with torch.no_grad():
            next_actions, next_log_probs = draw(self.actor, next_obs, generator)
            next_q = values(self.critic_target, next_obs, next_actions).amin(0)
            target = soft_target(batch["rewards"], batch["terminated"], next_q, next_log_probs, ent_coef, self.gamma)
        loss_q = critic_loss(values(self.critic, obs, batch["actions"]), target)
        self.critic_optimizer.step(loss_q)

        actions, log_probs = draw(self.actor, obs, generator)
        with frozen(self.critic):
            q = values(self.critic, obs, actions).amin(0)
            loss_pi = actor_loss(log_probs, q, ent_coef)
            self.actor_optimizer.step(loss_pi)

        if self.temperature_optimizer is not None:
            self.temperature_optimizer.step(self.temperature.loss(log_probs))
        self.n_updates += 1
        if self.n_updates % self.target_update_interval == 0:
            polyak(self.critic_target, self.critic, self.tau)
        return {
            "critic_loss": loss_q.detach(),
            "actor_loss": loss_pi.detach(),
            "ent_coef": ent_coef,
            "q_mean": q.detach().mean(),
            "entropy": -log_probs.detach().mean(),
        }

    def act(self, obs: Tensor, deterministic: bool, generator: torch.Generator) -> Tensor:
        """Return actions (B, A) in [-1, 1]."""
        if deterministic:
            actions: Tensor = self.actor.deterministic(obs)  # type: ignore[operator]
            return actions
        return draw(self.actor, obs, generator)[0]

    def value(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return the smallest critic's value (B,)."""
        return values(self.critic, obs, actions).amin(0)


class SAC(OffPolicyAlgorithm):
    """Soft Actor-Critic for Box actions with finite bounds.

    Parameters
    ----------
    env : str, gymnasium.Env, callable or EnvSource
        An id, an environment, or a factory that makes one.
    n_envs : int
        Environments stepped together.
    seed : int
        0…2³²−1; the same seed gives the same run, bit for bit.
    config : SACConfig, optional
        Options; single ones can be given as keywords, e.g. ``learning_rate=1e-3``.
    callbacks : Callback or iterable of them, optional
    logger : LoggerCallback or iterable of them, optional
    device : {"auto", "cpu", "cuda", "cuda:N"}
    actor : StochasticActor, optional
        The user's own policy, an ``nn.Module``.
    critic : nn.Module, optional
        The user's own critics: (obs (B, obs_dim), actions (B, A)) -> (n_critics, B).
    buffer : ReplayBufferProtocol, optional
        The user's own replay buffer.
    exploration : ExplorationStrategy, optional
        Disturbs the sampled actions while collecting.
    **config_overrides
        Fields of :class:`rlox.config.SACConfig`.

    Raises
    ------
    ConfigError
        For a value out of range, an unknown option, or a part of the user's own that lacks a method.
    SpaceError
        When actions are not a bounded Box, or observations are of an unsupported kind.

    Examples
    --------
    >>> from rlox.algorithms.sac import SAC
    >>> algo = SAC("Pendulum-v1", learning_starts=50, batch_size=32, net_arch=[32])
    >>> metrics = algo.train(200)
    >>> algo.predict([1.0, 0.0, 0.0]).shape
    (1,)
    """

    name = "sac"
    config_class = SACConfig
    config: SACConfig

    def __init__(
        self,
        env: Any,
        *,
        n_envs: int = 1,
        seed: int = 0,
        config: SACConfig | None = None,
        callbacks: Callback | Iterable[Callback] | None = None,
        logger: LoggerCallback | Iterable[LoggerCallback] | None = None,
        device: str | torch.device = "auto",
        actor: Any = None,
        critic: Any = None,
        buffer: ReplayBufferProtocol | None = None,
        exploration: ExplorationStrategy | None = None,
        **config_overrides: Any,
    ) -> None:
        self.actor, self.critic = actor, critic
        self._require(actor=("sample", "deterministic", "parameters"), critic=("forward", "parameters"))
        self._prepare(env, n_envs, seed, config, config_overrides, callbacks, logger, device, buffer, exploration)

    def _make_learner(self) -> SACLearner:
        return SACLearner(
            self.obs_space.dim,
            self.act_space.dim,
            self.config,
            actor=self.actor,
            critic=self.critic,
            device=self.device,
        )
