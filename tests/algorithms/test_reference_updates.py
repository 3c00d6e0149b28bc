"""Whole updates of SAC and CQL against plain modules and plain sums, written apart from rlox's own losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.nn import functional as F

from rlox.algorithms.cql import CQLLearner
from rlox.algorithms.sac import SACLearner
from rlox.config import CQLConfig, SACConfig
from rlox.seeding import torch_generator

OBS, ACT, N_ROWS = 4, 2, 32


class Plain:
    """The same networks as modules of torch's own, loaded from a learner's state, with Adam for each."""

    def __init__(self, learner, config):
        state = learner.state_dict()
        members = [f"net.members.{e}." for e in range(config.n_critics)]
        self.actor = network([OBS, 16, 2 * ACT], state["actor"], "net.")
        self.critics = [network([OBS + ACT, 16, 1], state["critic"], m) for m in members]
        self.targets = [network([OBS + ACT, 16, 1], state["critic_target"], m) for m in members]
        self.log_alpha = state["temperature"]["log_ent_coef"].clone().requires_grad_()
        actor_rate = getattr(config, "actor_learning_rate", config.learning_rate)
        self.optimizers = {
            "actor": torch.optim.Adam(self.actor.parameters(), actor_rate),
            "critic": torch.optim.Adam([p for c in self.critics for p in c.parameters()], config.learning_rate),
            "alpha": torch.optim.Adam([self.log_alpha], actor_rate),
        }

    def act(self, obs, noise):
        mean, log_std = self.actor(obs).chunk(2, -1)
        normal = Normal(mean, log_std.clamp(-20, 2).exp())
        u = mean + normal.stddev * noise
        return torch.tanh(u), (normal.log_prob(u) - 2 * (math.log(2) - u - F.softplus(-2 * u))).sum(-1)

    def q(self, networks, obs, actions):
        return [net(torch.cat([obs, actions], -1)).squeeze(-1) for net in networks]

    def smallest(self, networks, obs, actions):
        return torch.stack(self.q(networks, obs, actions)).min(0).values

    def step(self, name, loss):
        self.optimizers[name].zero_grad()
        loss.backward()
        self.optimizers[name].step()

    @torch.no_grad()
    def move_targets(self, tau):
        for net, target in zip(self.critics, self.targets, strict=True):
            for p, old in zip(net.parameters(), target.parameters(), strict=True):
                old.copy_((1 - tau) * old + tau * p)


def network(sizes, state, prefix):
    net = nn.Sequential(nn.Linear(sizes[0], sizes[1]), nn.Tanh(), nn.Linear(sizes[1], sizes[2]))
    layers = {"0": "layers.0", "2": "layers.1"}
    net.load_state_dict({f"{i}.{k}": state[f"{prefix}{layers[i]}.{k}"] for i in layers for k in ("weight", "bias")})
    return net


def batch(seed):
    g = torch.Generator().manual_seed(seed)
    obs, next_obs = torch.randn(2, N_ROWS, OBS, generator=g)
    return {
        "obs": obs,
        "next_obs": next_obs,
        "actions": torch.rand(N_ROWS, ACT, generator=g) * 2 - 1,
        "rewards": torch.randn(N_ROWS, generator=g),
        "terminated": (torch.rand(N_ROWS, generator=g) < 0.3).float(),
        "truncated": torch.ones(N_ROWS),
    }


def sac_update(plain, data, config, g):
    """One update, noise drawn in rlox's order: for the target, then for the policy."""
    obs, alpha = data["obs"], plain.log_alpha.detach().exp()
    with torch.no_grad():
        actions, log_pi = plain.act(data["next_obs"], torch.randn(N_ROWS, ACT, generator=g))
        soft = plain.smallest(plain.targets, data["next_obs"], actions) - alpha * log_pi
        y = data["rewards"] + config.gamma * (1 - data["terminated"]) * soft
    loss_q = sum(0.5 * F.mse_loss(q, y) for q in plain.q(plain.critics, obs, data["actions"]))
    plain.step("critic", loss_q)
    actions, log_pi = plain.act(obs, torch.randn(N_ROWS, ACT, generator=g))
    loss_pi = (alpha * log_pi - plain.smallest(plain.critics, obs, actions)).mean()
    plain.step("actor", loss_pi)
    plain.step("alpha", -plain.log_alpha * (log_pi.detach() - ACT).mean())
    plain.move_targets(config.tau)
    return {"critic_loss": loss_q, "actor_loss": loss_pi, "ent_coef": alpha}


def cql_update(plain, data, config, g):
    """One update, noise drawn in rlox's order: policy, target, uniform actions, actions of π(s), actions of π(s')."""
    obs, next_obs, alpha, k = data["obs"], data["next_obs"], plain.log_alpha.detach().exp(), config.n_actions
    actions, log_pi = plain.act(obs, torch.randn(N_ROWS, ACT, generator=g))
    loss_pi = (alpha * log_pi - plain.smallest(plain.critics, obs, actions)).mean()
    with torch.no_grad():
        sampled, _ = plain.act(next_obs, torch.randn(N_ROWS, ACT, generator=g))
        free = plain.smallest(plain.targets, next_obs, sampled)
        y = data["rewards"] + config.gamma * (1 - data["terminated"]) * free
        shape = (k, N_ROWS, ACT)
        uniform, here, there = 2 * torch.rand(shape, generator=g) - 1, *(torch.randn(shape, generator=g) for _ in "ab")
        pairs = [(uniform[i], torch.full((N_ROWS,), ACT * math.log(0.5))) for i in range(k)]
        pairs += [plain.act(obs, here[i]) for i in range(k)] + [plain.act(next_obs, there[i]) for i in range(k)]
    on_data = plain.q(plain.critics, obs, data["actions"])
    td = sum(F.mse_loss(q, y) for q in on_data)
    off_data = zip(*(plain.q(plain.critics, obs, a) for a, _ in pairs), strict=True)
    soft = [torch.stack([q - p for q, (_, p) in zip(qs, pairs, strict=True)]).logsumexp(0) for qs in off_data]
    conservative = sum((s - q).mean() for s, q in zip(soft, on_data, strict=True))
    loss_q = td + config.cql_alpha * conservative
    plain.step("actor", loss_pi)
    plain.step("critic", loss_q)
    plain.step("alpha", -plain.log_alpha * (log_pi.detach() - ACT).mean())
    plain.move_targets(config.tau)
    return {"critic_loss": loss_q, "td_loss": td, "conservative_loss": conservative, "actor_loss": loss_pi}


@pytest.mark.parametrize("n_critics", [2, 3])
@pytest.mark.parametrize(
    ("learner_class", "config_class", "update", "options"),
    [
        (SACLearner, SACConfig, sac_update, {}),
        (CQLLearner, CQLConfig, cql_update, {"cql_alpha": 2.0, "n_actions": 3, "actor_learning_rate": 1e-3}),
    ],
    ids=["sac", "cql"],
)
def test_an_update_is_that_of_plain_modules(learner_class, config_class, update, options, n_critics):
    torch.manual_seed(0)
    config = config_class(
        net_arch=[16], activation="tanh", n_critics=n_critics, learning_rate=1e-2, tau=0.3, gamma=0.9, **options
    )
    learner = learner_class(OBS, ACT, config)
    with torch.no_grad():  # targets and α away from where they start, so that nothing is right by coincidence
        learner.critic_target.net.flat.add_(0.1 * torch.randn_like(learner.critic_target.net.flat))
        learner.temperature.log_ent_coef.fill_(-1.0)
    plain = Plain(learner, config)
    ours, theirs = torch_generator(0, "noise"), torch_generator(0, "noise")
    for i in range(3):
        data = batch(i)
        metrics, wanted = learner.update(data, ours), update(plain, data, config, theirs)
        for name, value in wanted.items():
            assert float(metrics[name]) == pytest.approx(value.item(), abs=1e-5), name
    state = learner.state_dict()
    for name, modules in (("critic", plain.critics), ("critic_target", plain.targets)):
        for e, module in enumerate(modules):
            compare(state[name], f"net.members.{e}.", module)
    compare(state["actor"], "net.", plain.actor)
    assert float(learner.temperature()) == pytest.approx(plain.log_alpha.exp().item(), abs=1e-6)


def compare(state, prefix, module):
    layers = {"0": "layers.0", "2": "layers.1"}
    for key, value in module.state_dict().items():
        i, kind = key.split(".")
        torch.testing.assert_close(state[f"{prefix}{layers[i]}.{kind}"], value, atol=2e-5, rtol=0)
