"""The losses of SAC against numbers worked out by hand, and what one update changes."""

from __future__ import annotations

import math

import pytest
import torch

from rlox.algorithms.sac import (
    SACLearner,
    Temperature,
    actor_loss,
    critic_loss,
    draw,
    soft_target,
    temperature_loss,
    values,
)
from rlox.config import SACConfig
from rlox.errors import ConfigError
from rlox.seeding import torch_generator


def learner(**options) -> SACLearner:
    torch.manual_seed(0)
    return SACLearner(3, 2, SACConfig(net_arch=[8], batch_size=4, **options))


def batch(n=6):
    g = torch.Generator().manual_seed(1)
    return {
        "obs": torch.randn(n, 3, generator=g),
        "next_obs": torch.randn(n, 3, generator=g),
        "actions": torch.rand(n, 2, generator=g) * 2 - 1,
        "rewards": torch.randn(n, generator=g),
        "terminated": torch.tensor([0.0, 1.0] * (n // 2)),
    }


def values_of(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def changed(before, module):
    return [k for k, v in module.state_dict().items() if not torch.equal(v, before[k])]


def test_the_target_has_the_entropy_inside_the_mask():
    rewards, terminated = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0])
    next_q, next_log_probs = torch.tensor([10.0, 10.0]), torch.tensor([-2.0, -2.0])
    target = soft_target(rewards, terminated, next_q, next_log_probs, 0.5, 0.9)
    assert target.tolist() == pytest.approx([1 + 0.9 * (10 + 1), 1.0])  # terminated: nothing but the reward


def test_the_critic_loss_is_half_the_sum_over_critics_of_the_mean_square():
    q = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert float(critic_loss(q, torch.tensor([0.0, 4.0]))) == pytest.approx(0.5 * ((1 + 4) / 2 + (9 + 0) / 2))


def test_the_actor_loss_is_the_mean_of_alpha_log_pi_minus_q():
    assert float(actor_loss(torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 5.0]), 0.5)) == pytest.approx((-3.5 - 4.0) / 2)


def test_the_temperature_loss_moves_alpha_towards_the_target_entropy_and_nothing_else():
    log_alpha = torch.tensor(math.log(0.5), requires_grad=True)
    log_probs = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = temperature_loss(log_alpha, log_probs, -1.0)
    assert loss.item() == pytest.approx(-math.log(0.5) * 0.5)
    loss.backward()
    assert float(log_alpha.grad) == pytest.approx(-0.5)  # entropy −1.5 is below the target −1: alpha must grow
    assert log_probs.grad is None


def test_the_temperature_starts_at_one_and_aims_at_minus_the_number_of_dimensions():
    learnt, fixed = Temperature("auto", "auto", 3), Temperature(0.2, "auto", 3)
    assert float(learnt()) == 1.0 and learnt.target_entropy == -3.0
    assert fixed() == 0.2 and list(fixed.parameters()) == []
    assert Temperature("auto", -0.5, 3).target_entropy == -0.5
    assert not learnt().requires_grad


def test_a_user_critic_of_another_shape_is_refused_with_both_shapes():
    with pytest.raises(ConfigError, match=r"shape \(4, 1\), must be \(n_critics, 4\)"):
        values(lambda obs, actions: torch.zeros(4, 1), torch.zeros(4, 3), torch.zeros(4, 2))


class Fixed(torch.nn.Module):
    """An actor that returns what it was given."""

    def __init__(self, actions, log_probs):
        super().__init__()
        self.out = actions, log_probs

    def sample(self, obs):
        return self.out


@pytest.mark.parametrize(
    ("actions", "log_probs", "message"),
    [
        ((4, 2), (4, 1), r"log-probabilities of shape \(4, 1\), must be \(4,\); sum over the action dimensions"),
        ((4, 2), (4, 2), r"log-probabilities of shape \(4, 2\), must be \(4,\)"),
        ((4,), (4,), r"actions of shape \(4,\), must be \(4, act_dim\)"),
        ((2, 4), (4,), r"actions of shape \(2, 4\), must be \(4, act_dim\)"),
    ],
)
def test_samples_of_a_wrong_shape_are_refused_with_both_shapes(actions, log_probs, message):
    with pytest.raises(ConfigError, match=message):
        draw(Fixed(torch.zeros(actions), torch.zeros(log_probs)), torch.zeros(4, 3), torch.Generator())


def test_the_critics_gradient_is_that_of_the_loss_on_hand_made_targets():
    net, data = learner(ent_coef=0.2), batch()
    generator = torch_generator(0, "x")
    replay = torch_generator(0, "x")
    noise = torch.randn(6, 2, generator=replay)
    with torch.no_grad():
        mean, log_std = net.actor(data["next_obs"])
        u = mean + log_std.exp() * noise
        log_pi = (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi) - torch.log(1 - torch.tanh(u) ** 2)).sum(-1)
        q_next = net.critic_target(data["next_obs"], torch.tanh(u))
        y = data["rewards"] + 0.99 * (1 - data["terminated"]) * (torch.minimum(q_next[0], q_next[1]) - 0.2 * log_pi)
    q = net.critic(data["obs"], data["actions"])
    loss = 0.5 * ((q[0] - y) ** 2).mean() + 0.5 * ((q[1] - y) ** 2).mean()
    wanted = torch.autograd.grad(loss, net.critic.net.flat)[0]
    seen = []
    net.critic_optimizer.step = lambda got: seen.append((got, torch.autograd.grad(got, net.critic.net.flat)[0]))
    metrics = net.update(data, generator)
    assert float(metrics["critic_loss"]) == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(seen[0][1], wanted, atol=1e-5, rtol=1e-4)


def test_the_actors_loss_gives_no_gradient_to_critics_and_flows_through_the_smallest_one():
    net, data = learner(ent_coef=0.0, n_critics=3), batch()
    net.critic_optimizer.step = lambda loss: None
    net.critic.net.flat.grad = None
    noise_generator = torch_generator(0, "x")
    torch.randn(6, 2, generator=noise_generator)  # that of the target
    noise = torch.randn(6, 2, generator=noise_generator)
    actions, _ = net.actor.rsample(data["obs"], noise)
    wanted = -net.critic(data["obs"], actions).amin(0).mean()
    gradient = torch.autograd.grad(wanted, net.actor.net.flat)[0]
    seen = []
    net.actor_optimizer.step = lambda loss: (seen.append(loss.item()), loss.backward())
    net.update(data, torch_generator(0, "x"))
    assert seen[0] == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(net.actor.net.flat.grad, gradient, atol=1e-6, rtol=1e-5)
    assert net.critic.net.flat.grad is None and net.critic.net.flat.requires_grad


def test_one_update_moves_every_network_and_the_target_by_tau():
    net, data = learner(tau=0.25), batch()
    before = {name: values_of(getattr(net, name)) for name in ("actor", "critic", "critic_target", "temperature")}
    net.update(data, torch_generator(0, "x"))
    for name in before:
        assert changed(before[name], getattr(net, name)), name
    online = net.critic.state_dict()
    for key, old in before["critic_target"].items():
        torch.testing.assert_close(net.critic_target.state_dict()[key], old + 0.25 * (online[key] - old))


def test_the_target_starts_equal_and_is_never_given_a_gradient():
    net = learner()
    assert all(torch.equal(v, net.critic_target.state_dict()[k]) for k, v in net.critic.state_dict().items())
    net.update(batch(), torch_generator(0, "x"))
    assert all(p.grad is None and not p.requires_grad for p in net.critic_target.parameters())


def test_target_update_interval_counts_updates_over_all_calls():
    net, data = learner(target_update_interval=3, tau=1.0), batch()
    moved, generator = [], torch_generator(0, "x")
    for _ in range(7):
        before = values_of(net.critic_target)
        net.update(data, generator)
        moved.append(bool(changed(before, net.critic_target)))
    assert moved == [False, False, True, False, False, True, False]


def test_terminated_rows_do_not_depend_on_the_next_observation():
    losses = []
    for shift in (0.0, 5.0):
        data = batch()
        data["terminated"] = torch.ones(6)
        data["next_obs"] = data["next_obs"] + shift
        losses.append(float(learner().update(data, torch_generator(0, "x"))["critic_loss"]))
    assert losses[0] == losses[1]


def test_a_fixed_entropy_coefficient_stays():
    net = learner(ent_coef=0.3)
    metrics = net.update(batch(), torch_generator(0, "x"))
    assert metrics["ent_coef"] == 0.3 and net.temperature_optimizer is None


def test_one_alpha_serves_a_whole_update():
    net = learner(learning_rate=0.5)
    first = net.update(batch(), torch_generator(0, "x"))["ent_coef"]
    assert float(first) == 1.0 and float(net.temperature()) != 1.0


def test_the_temperature_falls_to_741_in_1000_updates_as_check_11_says():
    torch.manual_seed(0)
    net = SACLearner(1, 1, SACConfig(net_arch=[16], learning_rate=3e-4))
    data = {
        "obs": torch.zeros(16, 1),
        "next_obs": torch.zeros(16, 1),
        "actions": torch.rand(16, 1) * 2 - 1,
        "rewards": torch.zeros(16),
        "terminated": torch.ones(16),
    }
    generator = torch_generator(0, "x")
    for _ in range(1000):
        net.update(data, generator)
    assert float(net.temperature()) == pytest.approx(math.exp(-0.3), abs=0.02)


def test_the_state_of_a_learner_goes_on_bit_for_bit():
    a, b = learner(optimizer="adamw", weight_decay=0.01), learner(optimizer="adamw", weight_decay=0.01)
    data = batch()
    generator = torch_generator(0, "x")
    for _ in range(3):
        a.update(data, generator)
    b.load_state_dict(a.state_dict())
    assert b.n_updates == 3
    state = generator.get_state()
    a.update(data, generator)
    other = torch.Generator()
    other.set_state(state)
    b.update(data, other)
    assert all(torch.equal(v, b.actor.state_dict()[k]) for k, v in a.actor.state_dict().items())
    assert all(torch.equal(v, b.critic_target.state_dict()[k]) for k, v in a.critic_target.state_dict().items())
    assert float(a.temperature()) == float(b.temperature())
