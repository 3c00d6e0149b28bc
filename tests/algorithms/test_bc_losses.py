"""Behaviour cloning: its loss by hand, and that it copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlox import BC, OfflineDatasetBuffer
from rlox.algorithms.bc import bc_loss


def copycat(n=256, scale=1.0):
    obs = np.random.default_rng(0).uniform(-1, 1, (n, 2)).astype(np.float32)
    actions = scale * np.tanh(obs @ np.array([[1.0, -0.5], [0.3, 0.8]], np.float32))
    return OfflineDatasetBuffer(obs, None, actions, np.zeros(n), np.arange(n) % 8 == 7)


def test_the_loss_is_the_mean_square_over_batch_and_dimensions():
    predicted, actions = torch.tensor([[1.0, 0.0], [0.5, -1.0]]), torch.tensor([[0.0, 0.0], [0.5, 1.0]])
    assert float(bc_loss(predicted, actions)) == pytest.approx((1 + 0 + 0 + 4) / 4)


def test_one_step_of_sgd_is_the_gradient_times_the_rate():
    algo = BC(copycat(), 16, net_arch=[8], optimizer="sgd", learning_rate=0.1)
    flat = algo.actor.net.flat
    before, seen = flat.detach().clone(), []
    inner = algo._update

    def watched(batch):
        loss = bc_loss(algo.actor(batch["obs"]), batch["actions"])
        seen.append((loss.item(), torch.autograd.grad(loss, flat)[0]))
        return inner(batch)

    algo._update = watched
    metrics = algo.train(1)
    assert metrics["actor_loss"] == pytest.approx(seen[0][0])
    torch.testing.assert_close(flat.detach(), before - 0.1 * seen[0][1])


def test_it_learns_the_actions_of_the_data_in_their_own_units():
    algo = BC(copycat(scale=2.0), 64, net_arch=[32], learning_rate=1e-2, action_low=-2.0, action_high=2.0)
    algo.train(400)
    obs = np.array([[0.5, -0.5], [-0.9, 0.1]], np.float32)
    wanted = 2 * np.tanh(obs @ np.array([[1.0, -0.5], [0.3, 0.8]]))
    np.testing.assert_allclose(algo.predict(obs), wanted, atol=0.1)


def test_rows_without_a_successor_are_imitated_too():
    """All three rows are truncated: temporal differences have nothing to learn from, imitation has."""
    data = OfflineDatasetBuffer(np.eye(3), None, np.full((3, 1), 0.5), np.zeros(3), np.zeros(3), np.ones(3))
    algo = BC(data, 2, net_arch=[8], learning_rate=3e-2)
    algo.train(60)
    np.testing.assert_allclose(algo.predict(np.eye(3)), 0.5, atol=0.05)


def test_sampled_and_greedy_actions_are_the_same_since_the_policy_has_no_noise():
    algo = BC(copycat(), 16, net_arch=[8])
    obs = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(algo.predict(obs), algo.predict(obs, deterministic=False))
