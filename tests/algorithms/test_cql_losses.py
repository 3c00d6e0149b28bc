"""The losses of CQL against numbers worked out by hand, and against SAC where the two agree."""

from __future__ import annotations

import math

import pytest
import torch

from rlox.algorithms.cql import CQLLearner, bellman_loss, conservative_loss, values_of_many
from rlox.algorithms.sac import SACLearner
from rlox.config import CQLConfig, SACConfig
from rlox.seeding import torch_generator


def learner(**options) -> CQLLearner:
    torch.manual_seed(0)
    return CQLLearner(3, 2, CQLConfig(net_arch=[8], **options))


def batch(n=6):
    g = torch.Generator().manual_seed(1)
    return {
        "obs": torch.randn(n, 3, generator=g),
        "next_obs": torch.randn(n, 3, generator=g),
        "actions": torch.rand(n, 2, generator=g) * 2 - 1,
        "rewards": torch.randn(n, generator=g),
        "terminated": torch.tensor([0.0, 1.0] * (n // 2)),
    }


def gradients(net, data, **watch):
    """The gradient that each optimizer is given, without a step taken."""
    seen = {}
    for name, module in (("actor", net.actor), ("critic", net.critic)):
        flat = module.net.flat
        optimizer = getattr(net, f"{name}_optimizer")
        optimizer.step = lambda loss, name=name, flat=flat: seen.update(
            {name: torch.autograd.grad(loss, flat, retain_graph=True)[0], f"{name}_loss": loss.item()}
        )
    seen["metrics"] = net.update(data, torch_generator(0, "x"))
    return seen


def test_the_log_sum_exp_with_one_dimension_and_three_actions():
    # One uniform action (density 1/2) of value 1, one of π(s) of value 2 (log π −0.5), one of π(s') of value 0 (0.25).
    q_sampled = torch.tensor([[[1.0], [2.0], [0.0]]])  # (E, K, B)
    log_density = torch.tensor([[math.log(0.5)], [-0.5], [0.25]])  # (K, B)
    lse = math.log(math.exp(1 + math.log(2)) + math.exp(2.5) + math.exp(-0.25))
    assert lse == pytest.approx(2.912234)
    loss = conservative_loss(q_sampled, log_density, torch.tensor([[0.7]]))
    assert loss.item() == pytest.approx(lse - 0.7, abs=1e-5)


def test_the_conservative_loss_is_summed_over_critics_and_averaged_over_the_batch():
    q = torch.tensor([[[0.0, 1.0]], [[2.0, 3.0]]])  # one action: log-sum-exp is its value minus its log-density
    data = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    loss = conservative_loss(q, torch.tensor([[0.5, -0.5]]), data)
    assert loss.item() == pytest.approx(((0 - 0.5 - 1) + (1 + 0.5 - 1)) / 2 + ((2 - 0.5 - 1) + (3 + 0.5 - 1)) / 2)


def test_its_gradient_pushes_sampled_actions_down_by_their_share_and_the_data_up():
    q = torch.tensor([[[1.0], [1.0 + math.log(3)]]], requires_grad=True)
    data = torch.tensor([[0.0]], requires_grad=True)
    conservative_loss(q, torch.zeros(2, 1), data).backward()
    assert q.grad.flatten().tolist() == pytest.approx([0.25, 0.75])
    assert data.grad.flatten().tolist() == [-1.0]


def test_the_bellman_loss_is_twice_sacs():
    q, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.0, 4.0])
    assert float(bellman_loss(q, y)) == pytest.approx((1 + 4) / 2 + (9 + 0) / 2)


def test_many_actions_are_valued_at_the_observation_of_their_own_row():
    net = learner()
    obs, actions = torch.randn(4, 3), torch.randn(5, 4, 2)
    got = values_of_many(net.critic, obs, actions)
    assert got.shape == (2, 5, 4)
    for k in range(5):
        torch.testing.assert_close(got[:, k], net.critic(obs, actions[k]))


def test_candidates_are_uniform_then_of_this_and_then_of_the_next_observation():
    net, data = learner(n_actions=500), batch()
    actions, density = net.sample_candidates(data["obs"], data["next_obs"], torch_generator(0, "x"))
    assert actions.shape == (1500, 6, 2) and density.shape == (1500, 6)
    uniform, here, there = actions.chunk(3)
    assert density[:500].unique().tolist() == pytest.approx([2 * math.log(0.5)])
    assert abs(float(uniform.mean())) < 0.03 and float(uniform.abs().max()) <= 1
    assert abs(float(uniform.std()) - 1 / 3**0.5) < 0.02
    for part, where, own in ((here, "obs", density[500:1000]), (there, "next_obs", density[1000:])):
        mean, log_std = net.actor(data[where])
        u = torch.atanh(part.double())
        gaussian = torch.distributions.Normal(mean.double(), log_std.double().exp()).log_prob(u)
        wanted = (gaussian - torch.log(1 - part.double() ** 2)).sum(-1)
        middle = part.abs().amax(-1) < 0.99  # atanh of what was rounded to 1 says nothing
        torch.testing.assert_close(own.double()[middle], wanted[middle], atol=1e-3, rtol=1e-3)


def test_without_alpha_the_critics_gradient_is_that_of_sac_with_an_entropy_free_target():
    data = batch()
    cql = learner(cql_alpha=0.0)
    torch.manual_seed(0)
    sac = SACLearner(3, 2, SACConfig(net_arch=[8], ent_coef=0.0))
    for name in ("actor", "critic", "critic_target"):
        getattr(sac, name).load_state_dict(getattr(cql, name).state_dict())
    # CQL draws for the policy first and SAC for the target: with no deviation the noise does not matter.
    for net in (cql, sac):
        with torch.no_grad():
            for key, view in net.actor.net.named_views(net.actor.net.flat):
                if key == "layers.1.bias":
                    view[2:] = -20.0
                if key == "layers.1.weight":
                    view[2:] = 0.0
    ours, theirs = gradients(cql, data), gradients(sac, data)
    assert theirs["critic"].abs().sum() > 0
    torch.testing.assert_close(ours["critic"], 2 * theirs["critic"], atol=1e-5, rtol=1e-4)


def test_the_target_has_no_entropy_whatever_alpha_is():
    data = batch()
    losses = {float(learner(ent_coef=a).update(data, torch_generator(0, "x"))["td_loss"]) for a in (0.0, 0.5, "auto")}
    assert len(losses) == 1


def test_cql_alpha_weighs_the_conservative_term():
    data = batch()
    for alpha in (0.0, 2.0, 10.0):
        m = learner(cql_alpha=alpha).update(data, torch_generator(0, "x"))
        assert float(m["critic_loss"]) == pytest.approx(float(m["td_loss"]) + alpha * float(m["conservative_loss"]), rel=1e-5)


def test_all_losses_use_the_parameters_from_before_the_step():
    data = batch()
    plain = gradients(learner(), data)
    for big in ({"learning_rate": 1.0}, {"actor_learning_rate": 1.0}):
        metrics = learner(**big).update(data, torch_generator(0, "x"))
        assert float(metrics["actor_loss"]) == pytest.approx(plain["actor_loss"], rel=1e-6)
        assert float(metrics["critic_loss"]) == pytest.approx(plain["critic_loss"], rel=1e-6)


def test_neither_loss_reaches_the_other_network():
    net, data = learner(), batch()
    net.actor_optimizer.step = lambda loss: loss.backward()
    net.critic_optimizer.step = lambda loss: None
    net.update(data, torch_generator(0, "x"))
    assert net.critic.net.flat.grad is None and net.actor.net.flat.grad.abs().sum() > 0
    net = learner()
    net.actor_optimizer.step = lambda loss: None
    net.critic_optimizer.step = lambda loss: loss.backward()
    net.update(data, torch_generator(0, "x"))
    assert net.actor.net.flat.grad is None and net.critic.net.flat.grad.abs().sum() > 0


def test_policy_and_temperature_have_a_learning_rate_of_their_own():
    net = learner(learning_rate=1e-2, actor_learning_rate=1e-4)
    rates = [o.torch.param_groups[0]["lr"] for o in (net.actor_optimizer, net.temperature_optimizer, net.critic_optimizer)]
    assert rates == [1e-4, 1e-4, 1e-2]


def test_training_lowers_values_off_the_data_below_those_on_it():
    torch.manual_seed(0)
    data = batch(64)
    data["actions"] = torch.full((64, 2), 0.5)
    net = CQLLearner(3, 2, CQLConfig(net_arch=[32], learning_rate=3e-3, cql_alpha=5.0, n_actions=4))
    generator = torch_generator(0, "x")
    for _ in range(150):
        net.update(data, generator)
    with torch.no_grad():
        on = net.critic(data["obs"], data["actions"]).mean()
        off = net.critic(data["obs"], -data["actions"]).mean()
    assert float(on) > float(off) + 1.0
