"""A throwaway algorithm: its policy learns one action. One learner, one config, one registry line."""

from __future__ import annotations

from own_config import ThrowawayConfig

from rlox.learner import Learner, Optimizer
from rlox.networks import MLP
from rlox.online.off_policy import OffPolicyAlgorithm


class ThrowawayLearner(Learner):
    def __init__(self, obs_dim, act_dim, config, device):
        super().__init__()
        self.actor = MLP([obs_dim, *config.widths("pi"), act_dim]).to(device)
        self.optimizer = Optimizer(self.actor, config, config.learning_rate)
        self.goal = config.goal

    def update(self, batch, generator):
        loss = (self.actor(batch["obs"]).tanh() - self.goal).square().mean()
        self.optimizer.step(loss)
        self.n_updates += 1
        return {"goal_loss": loss.detach()}

    def act(self, obs, deterministic, generator):
        return self.actor(obs).tanh()


class Throwaway(OffPolicyAlgorithm):
    name = "throwaway"
    config_class = ThrowawayConfig

    def __init__(self, env, *, n_envs=1, seed=0, config=None, callbacks=None, logger=None, device="auto", **overrides):
        self._prepare(env, n_envs, seed, config, overrides, callbacks, logger, device, None, None)

    def _make_learner(self):
        return ThrowawayLearner(self.obs_space.dim, self.act_space.dim, self.config, self.device)
