"""The multilayer perceptron against plain modules of torch."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from rlox.learner import frozen, make_target, polyak
from rlox.networks import MLP, DeterministicTanhActor, QEnsemble, SquashedGaussianActor
from rlox.seeding import TorchStream

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU}
SIZES = [5, 7, 6, 3]


class Plain(nn.Module):
    """The same network of torch's own modules, with the names that MLP saves under."""

    def __init__(self, sizes, activation="relu", layer_norm=False, dropout=0.0):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(nn.LayerNorm(s) for s in sizes[1:-1]) if layer_norm else []
        self.act, self.dropout = ACTIVATIONS[activation](), nn.Dropout(dropout)

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < len(self.layers) - 1:
                x = self.norms[i](x) if self.norms else x
                x = self.dropout(self.act(x))
        return x


def pair(ensemble=None, sizes=SIZES, **options):
    """An MLP and the plain networks with the same values."""
    torch.manual_seed(0)
    net = MLP(sizes, ensemble=ensemble, **options)
    plain = [Plain(sizes, **options) for _ in range(ensemble or 1)]
    for one in plain:
        for p in one.parameters():  # norms start at 1 and 0, which would hide a mistake
            nn.init.normal_(p, std=0.5)
    if ensemble is None:
        net.load_state_dict(plain[0].state_dict())
    else:
        net.load_state_dict({f"members.{e}.{k}": v for e, one in enumerate(plain) for k, v in one.state_dict().items()})
    return net, plain


def plain_gradients(plain, ensemble):
    for e, one in enumerate(plain):
        for name, p in one.named_parameters():
            yield ("" if ensemble is None else f"members.{e}.") + name, p.grad


CASES = [
    dict(ensemble=e, activation=a, layer_norm=n) for e in (None, 1, 3) for a, n in
    (("relu", False), ("tanh", True), ("elu", False), ("silu", True))
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("batch", [1, 8])
def test_values_and_gradients_are_those_of_plain_modules(case, batch):
    net, plain = pair(**case)
    x = torch.randn(batch, SIZES[0])
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    got = net(ours)
    wanted = torch.stack([one(theirs) for one in plain])
    wanted = wanted[0] if case["ensemble"] is None else wanted
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)

    weights = torch.randn_like(wanted)
    (got * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)
    grads = dict(net.named_views(net.flat_parameters().grad))
    for name, grad in plain_gradients(plain, case["ensemble"]):
        torch.testing.assert_close(grads[name], grad, atol=1e-5, rtol=1e-5, msg=name)


def test_without_gradients_the_values_are_the_same_bits():
    for ensemble in (None, 2):
        net, _ = pair(ensemble, layer_norm=True)
        x = torch.randn(4, SIZES[0])
        with torch.no_grad():
            quick = net(x)
        assert torch.equal(net(x), quick)


def test_members_of_an_ensemble_take_inputs_of_their_own():
    net, plain = pair(3)
    x = torch.randn(3, 4, SIZES[0])
    wanted = torch.stack([one(x[e]) for e, one in enumerate(plain)])
    torch.testing.assert_close(net(x), wanted, atol=1e-5, rtol=1e-5)


def test_a_gradient_of_one_member_leaves_the_others_at_zero():
    net, _ = pair(3)
    net(torch.randn(4, SIZES[0]))[1].sum().backward()
    grads = dict(net.named_views(net.flat.grad))
    assert all((grads[k] == 0).all() for k in grads if not k.startswith("members.1."))
    assert grads["members.1.layers.0.weight"].abs().sum() > 0


def test_gradients_add_up_until_they_are_cleared():
    net, _ = pair()
    x = torch.randn(4, SIZES[0])
    net(x).sum().backward()
    once = net.flat.grad.clone()
    net(x).sum().backward()
    torch.testing.assert_close(net.flat.grad, 2 * once)


def test_two_passes_in_one_graph_give_the_sum_of_their_gradients():
    net, plain = pair()
    a, b = torch.randn(4, SIZES[0]), torch.randn(4, SIZES[0])
    (net(a).sum() * net(b).sum()).backward()
    (plain[0](a).sum() * plain[0](b).sum()).backward()
    for name, view in net.named_views(net.flat.grad):
        torch.testing.assert_close(view, dict(plain_gradients(plain, None))[name], atol=1e-4, rtol=1e-4)


def test_padding_stays_zero_through_training_with_weight_decay():
    net = MLP([3, 5, 2], layer_norm=True)
    used = torch.zeros_like(net.flat, dtype=torch.bool)
    for _, view in net.named_views(used):
        view.fill_(True)
    assert 0 < used.sum() < used.numel()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    assert (net.flat[~used] == 0).all()
    assert (net.flat.grad[~used] == 0).all()


def test_every_block_starts_on_a_boundary_of_64_bytes():
    net = MLP([3, 5, 2], ensemble=2, layer_norm=True)
    assert all((view.data_ptr() - net.flat.data_ptr()) % 64 == 0 for view in net._views.values())


@pytest.mark.parametrize("ensemble", [None, 2])
def test_saved_names_and_shapes_are_those_of_plain_linear_modules(ensemble):
    net, plain = pair(ensemble, layer_norm=True)
    prefixes = [""] if ensemble is None else ["members.0.", "members.1."]
    wanted = {p + k: v.shape for p in prefixes for k, v in plain[0].state_dict().items()}
    assert {k: v.shape for k, v in net.state_dict().items()} == wanted


def test_saved_values_load_into_plain_modules_and_back():
    net, _ = pair(layer_norm=True)
    plain = Plain(SIZES, layer_norm=True)
    plain.load_state_dict(net.state_dict())
    x = torch.randn(4, SIZES[0])
    torch.testing.assert_close(plain(x), net(x), atol=1e-5, rtol=1e-5)
    other = MLP(SIZES, layer_norm=True)
    other.load_state_dict(plain.state_dict())
    assert torch.equal(other(x), net(x))


def test_names_get_the_prefix_of_the_module_around():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = MLP([2, 3, 1])
            self.head = nn.Linear(1, 1)

    around = Around()
    names = list(around.state_dict())
    assert names[:2] == ["net.layers.0.weight", "net.layers.0.bias"] and "head.weight" in names
    Around().load_state_dict(around.state_dict())


def test_loading_names_what_is_missing_left_over_or_of_another_shape():
    state = MLP([2, 3, 1]).state_dict()
    with pytest.raises(RuntimeError, match=r"layers\.0\.bias"):
        MLP([2, 3, 1]).load_state_dict({k: v for k, v in state.items() if k != "layers.0.bias"})
    with pytest.raises(RuntimeError, match="extra"):
        MLP([2, 3, 1]).load_state_dict({**state, "extra": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"layers\.0\.weight has shape \(3, 2\), must be \(4, 2\)"):
        MLP([2, 4, 1]).load_state_dict(state)
    MLP([2, 3, 1]).load_state_dict({**state, "extra": torch.zeros(1)}, strict=False)


def test_initial_values_are_those_of_linear_modules():
    torch.manual_seed(0)
    net = MLP([100, 400, 1], ensemble=2, layer_norm=True)
    for name, view in net.named_views(net.flat.detach()):
        if "norms" in name:
            assert (view == (1.0 if name.endswith("weight") else 0.0)).all()
            continue
        bound = 0.1 if "layers.0" in name else 0.05
        assert view.abs().max() <= bound
        if view.numel() > 100:
            assert view.abs().max() > 0.98 * bound
            assert abs(float(view.std()) - bound / 3**0.5) < 0.05 * bound
    members = dict(net.named_views(net.flat))
    assert not torch.equal(members["members.0.layers.0.weight"], members["members.1.layers.0.weight"])


def test_dropout_drops_in_training_mode_only_and_scales_what_stays():
    net = MLP([4, 2000, 2000], activation="relu", dropout=0.25)
    with torch.no_grad():
        net.flat.zero_()
        dict(net.named_views(net.flat))["layers.0.bias"].fill_(1.0)
        dict(net.named_views(net.flat))["layers.1.weight"].copy_(torch.eye(2000))
    x = torch.zeros(1, 4)
    net.eval()
    assert torch.equal(net(x), torch.ones(1, 2000))
    net.train()
    out = net(x)
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert abs(float((out == 0).float().mean()) - 0.25) < 0.05


def test_dropout_draws_from_the_stream_it_runs_in():
    net = MLP([4, 64, 2], dropout=0.5).train()
    x = torch.randn(3, 4)

    def draw(seed):
        with TorchStream(seed, "x").use():
            return net(x)

    before = torch.random.get_rng_state()
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_copy_has_the_same_values_and_memory_of_its_own():
    net = MLP([3, 4, 2], ensemble=2, activation="tanh", layer_norm=True, dropout=0.1).eval()
    before = torch.random.get_rng_state()
    twin = copy.deepcopy(net)
    assert torch.equal(torch.random.get_rng_state(), before)
    x = torch.randn(5, 3)
    assert torch.equal(twin(x), net(x))
    assert twin.training is False and (twin.dropout, twin.activation, twin.layer_norm) == (0.1, "tanh", True)
    with torch.no_grad():
        twin.flat.add_(1.0)
    assert not torch.equal(twin(x), net(x))


def test_the_copy_of_a_frozen_network_is_frozen():
    net = MLP([3, 4, 2]).requires_grad_(False)
    assert not copy.deepcopy(net).flat.requires_grad


def test_the_target_of_a_users_subclass_computes_what_the_subclass_does():
    class Doubled(MLP):
        def __init__(self, sizes):
            super().__init__(sizes)
            self.extra = nn.Linear(1, 1)

        def forward(self, x):
            return 2 * self.extra(super().forward(x))

    net = Doubled([2, 3, 1])
    target = make_target(net)
    x = torch.randn(4, 2)
    assert type(target) is Doubled and torch.equal(target(x), net(x))
    with torch.no_grad():
        net.flat.zero_()
        net.extra.bias.fill_(7.0)
    assert not torch.equal(target(x), net(x))


def test_deepcopy_of_a_module_around_copies_the_network_inside():
    critic = QEnsemble(3, 1, [4], 2)
    twin = copy.deepcopy(critic)
    obs, actions = torch.randn(5, 3), torch.randn(5, 1)
    assert torch.equal(twin(obs, actions), critic(obs, actions))
    assert twin.net.flat.data_ptr() != critic.net.flat.data_ptr()


def test_another_dtype_moves_values_and_views_along():
    net, _ = pair(2)
    x = torch.randn(4, SIZES[0])
    before = net(x)
    net.double()
    torch.testing.assert_close(net(x.double()), before.double(), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert net(x.double()).dtype == torch.float64
    assert copy.deepcopy(net).flat.dtype == torch.float64


def test_in_place_changes_of_the_flat_buffer_are_seen_at_once():
    net = MLP([2, 3, 1])
    with torch.no_grad():
        net.flat.zero_()
        assert (net(torch.ones(1, 2)) == 0).all()
    assert (net(torch.ones(1, 2)) == 0).all()


def test_frozen_lets_gradients_through_to_the_inputs_only():
    critic = QEnsemble(3, 2, [4], 2)
    obs, actions = torch.randn(5, 3), torch.randn(5, 2, requires_grad=True)
    with frozen(critic):
        value = critic(obs, actions).sum()
    value.backward()
    assert critic.net.flat.grad is None and critic.net.flat.requires_grad
    wanted = torch.autograd.grad(critic(obs, actions).sum(), actions)[0]
    assert torch.equal(actions.grad, wanted) and wanted.abs().sum() > 0


def test_frozen_leaves_alone_what_was_frozen_already():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    with pytest.raises(KeyError), frozen(net):
        assert not any(p.requires_grad for p in net.parameters())
        raise KeyError
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True]


def test_polyak_from_0_to_1_with_tau_005_gives_check_22():
    online, target = MLP([2, 3, 1]), MLP([2, 3, 1])
    with torch.no_grad():
        online.flat.fill_(1.0)
        target.flat.zero_()
    for _ in range(10):
        polyak(target, online, 0.005)
    torch.testing.assert_close(target.flat.detach(), torch.full_like(target.flat, 0.048890), atol=1e-6, rtol=0)


def test_polyak_copies_running_statistics():
    online, target = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    online.running_mean.fill_(4.0)
    online.num_batches_tracked.fill_(7)
    polyak(target, online, 0.5)
    assert target.running_mean.tolist() == [4.0, 4.0] and int(target.num_batches_tracked) == 7


def test_a_target_is_frozen_in_evaluation_mode_and_moves_alone():
    net = MLP([2, 3, 1], dropout=0.5).train()
    target = make_target(net)
    assert not target.training and not target.flat.requires_grad and net.training and net.flat.requires_grad
    polyak(net, target, 1.0)
    x = torch.ones(1, 2)
    assert torch.equal(target(x), target(x))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (dict(sizes=[3]), "sizes is"),
        (dict(sizes=[3, 0, 1]), "sizes is"),
        (dict(sizes=[3, 1], ensemble=0), "ensemble is 0"),
        (dict(sizes=[3, 1], activation="gelu"), "activation is 'gelu', must be one of relu, tanh, elu, silu"),
        (dict(sizes=[3, 1], dropout=1.0), r"dropout is 1.0, must be in \[0, 1\)"),
    ],
)
def test_wrong_arguments_are_named(args, message):
    with pytest.raises(ValueError, match=message):
        MLP(**args)


def test_a_network_without_hidden_layers_is_linear():
    net, plain = pair(sizes=[3, 2])
    x = torch.randn(4, 3)
    torch.testing.assert_close(net(x), plain[0](x))


def test_shapes_of_actors_and_critics():
    obs, actions = torch.randn(5, 3), torch.rand(5, 2) * 2 - 1
    gaussian, plain = SquashedGaussianActor(3, 2, [8]), DeterministicTanhActor(3, 2, [8])
    assert QEnsemble(3, 2, [8], 4)(obs, actions).shape == (4, 5)
    assert plain(obs).shape == gaussian.deterministic(obs).shape == (5, 2)
    sampled, log_probs = gaussian.sample(obs)
    assert sampled.shape == (5, 2) and log_probs.shape == (5,)
    assert sampled.abs().max() <= 1 and plain(obs).abs().max() <= 1
