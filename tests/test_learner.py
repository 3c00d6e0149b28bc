"""Optimizer state by plain names, targets, metrics, and the state of whatever has one."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from rlox.config import NetworkConfig
from rlox.learner import (
    Learner,
    Metrics,
    Optimizer,
    gather_state,
    network_options,
    restore_state,
    training_mode,
)
from rlox.networks import MLP, QEnsemble

OPTIMIZERS = ["adam", "adamw", "rmsprop", "sgd"]


class Mixed(nn.Module):
    """An MLP, a plain layer, a parameter of its own and one that is not trained."""

    def __init__(self):
        super().__init__()
        self.body = MLP([3, 4, 4], layer_norm=True)
        self.head = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(()))
        self.fixed = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x):
        return self.head(self.body(x)) * self.scale + self.fixed


def plain_copy(mlp: MLP) -> nn.Module:
    """The same network of torch's own modules."""
    layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    names = {"0.weight": "layers.0.weight", "0.bias": "layers.0.bias", "2.weight": "layers.1.weight", "2.bias": "layers.1.bias"}
    state = mlp.state_dict()
    layers.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
    return layers


def config(name, **options):
    return NetworkConfig(optimizer=name, **options)


def steps(net, optimizer, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        optimizer.step(net(torch.randn(8, 3, generator=generator)).square().mean())


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_on_the_flat_buffer_is_torchs_step_on_plain_modules(name, decay):
    torch.manual_seed(0)
    net = MLP([3, 4, 2])
    plain = plain_copy(net)
    steps(net, Optimizer(net, config(name, weight_decay=decay), 1e-2), 5)
    cls = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop, "sgd": torch.optim.SGD}[name]
    theirs = cls(plain.parameters(), lr=1e-2, weight_decay=decay)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        theirs.zero_grad()
        plain(torch.randn(8, 3, generator=generator)).square().mean().backward()
        theirs.step()
    x = torch.randn(4, 3)
    torch.testing.assert_close(net(x), plain(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [lambda: MLP([3, 4, 2]), Mixed, lambda: nn.Linear(3, 2)], ids=["mlp", "mixed", "linear"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_saved_optimizer_goes_on_bit_for_bit(name, make):
    torch.manual_seed(0)
    a = make()
    ours = Optimizer(a, config(name, weight_decay=0.05), 1e-2)
    steps(a, ours, 3)
    b = copy.deepcopy(a)
    theirs = Optimizer(b, config(name, weight_decay=0.05), 5.0)
    theirs.load_state_dict(ours.state_dict())
    steps(a, ours, 3, seed=1)
    steps(b, theirs, 3, seed=1)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert theirs.torch.param_groups[0]["lr"] == 1e-2


def test_the_state_has_the_names_and_shapes_of_plain_parameters():
    net = Mixed()
    optimizer = Optimizer(net, config("adam"), 1e-2)
    steps(net, optimizer, 1)
    state = optimizer.state_dict()
    assert state["learning_rate"] == 1e-2
    shapes = {k: v.shape for k, v in net.state_dict().items()}
    got = state["state"]
    assert {k for k in got if "exp_avg" in got[k]} == set(shapes) - {"fixed"}
    assert all(got[k]["exp_avg"].shape == got[k]["exp_avg_sq"].shape == shapes[k] for k in got if "exp_avg" in got[k])


def test_members_of_an_ensemble_have_moments_of_their_own():
    critic = QEnsemble(2, 1, [4], 2)
    optimizer = Optimizer(critic, config("adam"), 1e-2)
    optimizer.step(critic(torch.randn(4, 2), torch.randn(4, 1)).square().mean())
    moments = optimizer.state_dict()["state"]
    first, second = (moments[f"net.members.{e}.layers.0.weight"]["exp_avg"] for e in (0, 1))
    assert first.shape == (4, 3) and not torch.equal(first, second)


def test_a_saved_state_is_a_copy():
    net = MLP([3, 4, 2])
    optimizer = Optimizer(net, config("adam"), 1e-2)
    steps(net, optimizer, 1)
    state = optimizer.state_dict()["state"]["layers.0.weight"]["exp_avg"]
    before = state.clone()
    steps(net, optimizer, 1)
    assert torch.equal(state, before)


def test_the_state_of_a_fresh_optimizer_makes_a_used_one_fresh():
    torch.manual_seed(0)
    net = MLP([3, 4, 2])
    used, fresh = Optimizer(net, config("adam"), 1e-2), Optimizer(net, config("adam"), 1e-2)
    steps(net, used, 2)
    used.load_state_dict(fresh.state_dict())
    assert used.state_dict()["state"] == {}


def test_weight_decay_and_kind_come_from_the_config():
    net = MLP([3, 2])
    optimizer = Optimizer(net, config("rmsprop", weight_decay=0.3), 0.1)
    assert isinstance(optimizer.torch, torch.optim.RMSprop)
    assert optimizer.torch.param_groups[0]["weight_decay"] == 0.3


def test_a_step_starts_from_cleared_gradients():
    net = MLP([3, 2])
    optimizer = Optimizer(net, config("sgd"), 0.0)
    x = torch.randn(4, 3)
    for _ in range(3):
        optimizer.step(net(x).sum())
    once = net.flat.grad.clone()
    net.flat.grad = None
    net(x).sum().backward()
    assert torch.equal(once, net.flat.grad)


def test_options_of_networks_reach_the_network():
    options = network_options(NetworkConfig(activation="tanh", layer_norm=True, dropout=0.1))
    net = MLP([3, 4, 2], **options)
    assert (net.activation, net.layer_norm, net.dropout) == ("tanh", True, 0.1)


def test_metrics_turn_tensors_into_floats_when_they_are_read():
    reads = []

    class Watched(torch.Tensor):
        def __float__(self):
            reads.append(1)
            return 2.5

        def detach(self):
            return self

    metrics = Metrics({"a": torch.zeros(()).as_subclass(Watched), "b": 3})
    assert reads == [] and list(metrics) == ["a", "b"] and len(metrics) == 2 and "a" in metrics
    assert metrics["a"] == 2.5 and metrics["a"] == 2.5
    assert reads == [1]
    assert type(metrics["a"]) is float and metrics["b"] == 3


def test_metrics_take_numpy_scalars_and_keep_what_is_no_number():
    metrics = Metrics({"x": np.float32(1.5), "note": "text", "many": torch.ones(2), "loss": torch.ones(1, requires_grad=True)})
    assert metrics["x"] == 1.5 and type(metrics["x"]) is float
    assert metrics["note"] == "text" and metrics["many"].shape == (2,) and metrics["loss"] == 1.0


def test_put_replaces_and_adds():
    metrics = Metrics({"a": 1.0})
    metrics.put({"a": 2.0, "b": 3.0})
    assert dict(metrics) == {"a": 2.0, "b": 3.0}
    with pytest.raises(KeyError):
        metrics["missing"]


def test_the_first_figure_that_is_not_finite_is_named():
    values = {"a": 1.0, "note": "nan", "b": torch.tensor(math.inf), "c": math.nan}
    assert Metrics(values).first_nonfinite(values) == "b"
    assert Metrics(values).first_nonfinite(["a", "note"]) is None


class Whole:
    """Everything that has a state, and things that have none."""

    def __init__(self):
        self.net = MLP([2, 3, 1])
        self.generator = torch.Generator().manual_seed(1)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)
        self.number, self.text, self.nothing = 3, "x", None


def test_state_is_gathered_from_every_attribute_that_has_one():
    a, b = Whole(), Whole()
    a.optimizer.zero_grad()
    a.net(torch.ones(1, 2)).sum().backward()
    a.optimizer.step()
    a.scheduler.step()
    torch.rand(3, generator=a.generator)
    state = gather_state(a)
    assert set(state) == {"net", "generator", "optimizer", "scheduler"}
    restore_state(b, state)
    assert torch.equal(a.net.flat, b.net.flat)
    assert torch.equal(torch.rand(2, generator=a.generator), torch.rand(2, generator=b.generator))
    assert b.scheduler.last_epoch == 1
    assert set(gather_state(a, skip=("net",))) == {"generator", "optimizer", "scheduler"}


def test_gathered_state_is_a_copy_and_so_is_what_is_restored():
    def step(whole):
        whole.optimizer.zero_grad()
        whole.net(torch.ones(1, 2)).sum().backward()
        whole.optimizer.step()

    a, b = Whole(), Whole()
    step(a)
    state = gather_state(a)
    before = copy.deepcopy(state)
    step(a)
    restore_state(b, state)
    step(b)
    for part in ("net", "optimizer"):
        torch.testing.assert_close(state[part], before[part], rtol=0, atol=0)
    assert torch.equal(a.net.flat, b.net.flat)


def test_an_optimizer_state_of_another_shape_is_refused():
    for net, name in ((MLP([3, 4, 2]), "layers.0.weight"), (nn.Linear(3, 2), "weight")):
        optimizer = Optimizer(net, config("adam"), 1e-2)
        steps(net, optimizer, 1)
        state = optimizer.state_dict()
        state["state"][name]["exp_avg"] = torch.zeros(1)
        with pytest.raises(ValueError, match=rf"state of {name} has shape \(1,\), must be"):
            optimizer.load_state_dict(state)


def test_a_part_that_the_state_lacks_is_named():
    state = gather_state(Whole())
    del state["optimizer"]
    with pytest.raises(KeyError, match="optimizer"):
        restore_state(Whole(), state)


def test_a_learner_knows_which_of_its_networks_are_trained():
    class Two(Learner):
        def __init__(self):
            super().__init__()
            self.net = MLP([2, 1])
            self.target = MLP([2, 1]).requires_grad_(False)
            self.other = 3

    learner = Two()
    assert list(learner.networks()) == [learner.net]
    assert set(learner.state_dict()) == {"net", "target", "n_updates"}


def test_training_mode_ends_in_evaluation_mode_also_after_an_error():
    nets = [MLP([2, 1]).eval(), MLP([2, 1]).eval()]
    with pytest.raises(KeyError), training_mode(n for n in nets):
        assert all(n.training for n in nets)
        raise KeyError
    assert not any(n.training for n in nets)
