"""The squashed Gaussian against known numbers and against torch's own distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from rlox.networks import SquashedGaussianActor, tanh_gaussian


@pytest.mark.parametrize(("u", "wanted"), [(0.0, -0.918939), (3.0, -0.800282), (10.0, -32.305233)])
def test_log_probs_of_the_unit_gaussian_are_those_of_check_29(u, wanted):
    zero = torch.zeros(1, 1, dtype=torch.float64)
    action, log_prob = tanh_gaussian(zero, zero, torch.full((1, 1), u, dtype=torch.float64))
    assert float(log_prob) == pytest.approx(wanted, abs=1e-5)
    assert float(action) == pytest.approx(math.tanh(u))


def test_in_float32_the_exact_form_holds_where_the_epsilon_form_is_off_by_nats():
    zero, u = torch.zeros(1, 1), torch.full((1, 1), 10.0)
    assert float(tanh_gaussian(zero, zero, u)[1]) == pytest.approx(-32.305233, abs=1e-4)


def test_log_probs_are_summed_over_dimensions_and_equal_torchs():
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    actions, log_probs = tanh_gaussian(mean, 0.3 * log_std, noise)
    theirs = TransformedDistribution(Normal(mean, (0.3 * log_std).exp()), TanhTransform())
    torch.testing.assert_close(log_probs, theirs.log_prob(actions).sum(-1), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(actions, torch.tanh(mean + (0.3 * log_std).exp() * noise))


def test_far_out_samples_stay_finite_with_finite_gradients():
    mean = torch.tensor([[50.0, -80.0]], requires_grad=True)
    log_std = torch.tensor([[2.0, -20.0]], requires_grad=True)
    actions, log_probs = tanh_gaussian(mean, log_std, torch.tensor([[3.0, -3.0]]))
    log_probs.sum().backward()
    assert torch.isfinite(log_probs).all() and actions.abs().max() <= 1
    assert torch.isfinite(mean.grad).all() and torch.isfinite(log_std.grad).all()


def test_gradients_reach_mean_and_deviation_through_the_action():
    mean, log_std = torch.zeros(1, 1, requires_grad=True), torch.zeros(1, 1, requires_grad=True)
    tanh_gaussian(mean, log_std, torch.full((1, 1), 0.5))[0].sum().backward()
    slope = 1 - math.tanh(0.5) ** 2
    assert float(mean.grad) == pytest.approx(slope)
    assert float(log_std.grad) == pytest.approx(0.5 * slope)


def test_the_density_integrates_to_one():
    u = torch.linspace(-8, 8, 20_001, dtype=torch.float64)[:, None]
    actions, log_probs = tanh_gaussian(torch.full_like(u, 0.3), torch.full_like(u, -0.5), (u - 0.3) / math.exp(-0.5))
    area = torch.trapezoid(log_probs.exp(), actions[:, 0])
    assert float(area) == pytest.approx(1.0, abs=1e-5)


def test_log_std_is_clamped_to_minus_20_and_2():
    actor = SquashedGaussianActor(1, 1, [])
    with torch.no_grad():
        actor.net.flat.zero_()
        dict(actor.net.named_views(actor.net.flat))["layers.0.weight"][1] = 1.0
    log_std = actor(torch.tensor([[-50.0], [1.0], [50.0]]))[1]
    assert log_std.flatten().tolist() == [-20.0, 1.0, 2.0]


def test_rsample_takes_its_noise_from_outside():
    actor = SquashedGaussianActor(3, 2, [8])
    obs, noise = torch.randn(4, 3), torch.randn(4, 2)
    before = torch.random.get_rng_state()
    first, second = actor.rsample(obs, noise), actor.rsample(obs, noise)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    torch.testing.assert_close(actor.rsample(obs, torch.zeros(4, 2))[0], actor.deterministic(obs))
