"""The base class of offline algorithms: a user's subclass, a user's dataset, bounds, normalisation, saving."""

from __future__ import annotations

import inspect
from abc import ABC

import gymnasium as gym
import numpy as np
import pytest
import torch
from probes import ActionScale, Endless, Noisy
from torch import nn

from rlox import BC, CQL, OfflineAlgorithm, OfflineDatasetBuffer
from rlox.algorithm import load_algorithm
from rlox.callbacks import Callback, EvalCallback
from rlox.errors import (
    CheckpointError,
    CheckpointMismatchError,
    ConfigError,
    DatasetError,
    DatasetMismatchError,
)
from rlox.logging import LoggerCallback
from rlox.seeding import derive
from rlox.user_code import UserCodeError


class Mine(OfflineAlgorithm):
    """What a user writes: twenty lines, the documented example."""

    def __init__(self, dataset, **kwargs):
        super().__init__(dataset, **kwargs)
        self.actor = nn.Sequential(nn.Linear(self.obs_dim, 8), nn.ReLU(), nn.Linear(8, self.act_dim), nn.Tanh())
        self.optimizer = torch.optim.Adam(self.actor.parameters(), lr=1e-2)

    def _update(self, batch):
        loss = (self.actor(batch["obs"]) - batch["actions"]).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss}


class Own:
    """A user's dataset: five keys and nothing else."""

    def __init__(self, n=64, scale=1.0, seed=0):
        rng = np.random.default_rng(seed)
        self.columns = {
            "obs": rng.normal(size=(n, 3)),
            "next_obs": rng.normal(size=(n, 3)),
            "actions": scale * rng.uniform(-1, 1, (n, 2)),
            "rewards": rng.normal(size=n),
            "terminated": rng.random(n) < 0.1,
        }
        self.seeds = []

    def sample(self, batch_size, seed):
        self.seeds.append(seed)
        index = np.random.default_rng(seed).integers(len(self), size=batch_size)
        return {k: v[index] for k, v in self.columns.items()}

    def __len__(self):
        return len(self.columns["rewards"])


def buffer(n=64, scale=1.0, **options):
    c = Own(n, scale).columns
    return OfflineDatasetBuffer(c["obs"], c["next_obs"], c["actions"], c["rewards"], c["terminated"], **options)


def weights(algo):
    return torch.cat([p.detach().flatten() for p in algo.actor.parameters()])


def watch(algo):
    """The batches that ``_update`` is given."""
    seen, inner = [], algo._update
    algo._update = lambda batch: (seen.append({k: v.clone() for k, v in batch.items()}), inner(batch))[1]
    return seen


# A user's subclass and a user's dataset.


@pytest.mark.parametrize("make", [Own, buffer])
def test_twenty_lines_are_enough_to_train_predict_and_evaluate(make):
    algo = Mine(make(), batch_size=16)
    result = algo.train(30)
    assert set(result) == {"loss", "n_updates", "reason"} and result["n_updates"] == algo.step == 30
    assert algo.predict(np.zeros(3)).shape == (2,) and algo.predict(np.zeros((4, 3))).shape == (4, 2)
    assert algo.can_act


def test_the_example_in_the_documentation_works():
    from rlox.offline import base

    names = {"OfflineAlgorithm": OfflineAlgorithm, "nn": nn, "torch": torch}
    source = base.__doc__.split("\n\n", 1)[1]
    exec(compile("\n".join(line[4:] for line in source.splitlines()), "doc", "exec"), names)
    assert names["MyBC"](Own(), batch_size=8).train(3)["reason"] == "finished"


def test_batches_of_a_users_dataset_are_float32_tensors_with_a_seed_per_step():
    data = Own()
    algo = Mine(data, batch_size=16, seed=5)
    seen = watch(algo)
    algo.train(3)
    assert data.seeds[-3:] == [derive(5, "sample", k) for k in range(3)]
    assert set(seen[0]) == {"obs", "next_obs", "actions", "rewards", "terminated"}
    assert all(v.dtype == torch.float32 for v in seen[0].values())
    assert seen[0]["obs"].shape == (16, 3) and seen[0]["rewards"].shape == (16,)
    want = data.sample(16, derive(5, "sample", 0))
    np.testing.assert_allclose(seen[0]["obs"], want["obs"].astype(np.float32))
    np.testing.assert_array_equal(seen[0]["terminated"], want["terminated"].astype(np.float32))


def test_whole_numbers_become_float32_where_a_target_is_computed_from_them():
    data = Own()
    data.columns |= {"rewards": np.arange(64), "terminated": np.arange(64, dtype=np.uint8) % 2, "steps": np.arange(64)}
    algo = Mine(data, batch_size=8)
    seen = watch(algo)
    algo.train(1)
    assert seen[0]["rewards"].dtype == seen[0]["terminated"].dtype == torch.float32
    assert seen[0]["steps"].dtype == torch.int64 and torch.equal(seen[0]["steps"], seen[0]["rewards"].long())


def test_what_a_user_hands_out_is_not_written_to():
    class Views(Own):
        def sample(self, batch_size, seed):
            return {k: v[:batch_size] for k, v in self.columns.items()}

    data = Views()
    for column in data.columns.values():
        column.flags.writeable = False
    assert Mine(data, batch_size=16).train(2)["reason"] == "finished"


def test_the_same_seed_is_the_same_run_and_another_is_not():
    runs = []
    for seed, outside in ((1, 7), (1, 8), (2, 7)):
        torch.manual_seed(outside)
        before = torch.random.get_rng_state()
        algo = Mine(buffer(), batch_size=16, seed=seed)
        start = weights(algo).clone()
        algo.train(10)
        assert torch.equal(before, torch.random.get_rng_state())
        runs.append((start, weights(algo)))
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][0], runs[2][0])


def test_the_seed_counts_however_a_subclass_passes_it_on():
    class Positional(Mine):
        def __init__(self, dataset, chosen):
            super().__init__(dataset, batch_size=8, seed=chosen)

    a, b, c = Positional(buffer(), 1), Positional(buffer(), 1), Positional(buffer(), 2)
    assert torch.equal(weights(a), weights(b)) and not torch.equal(weights(a), weights(c))
    assert torch.equal(weights(a), weights(Mine(buffer(), batch_size=8, seed=1)))


def test_noise_from_the_global_generator_in_an_update_is_reproducible():
    class Noise(Mine):
        def _update(self, batch):
            batch["obs"] = batch["obs"] + torch.randn_like(batch["obs"])
            return super()._update(batch)

    algos = []
    for outside in (1, 2):
        torch.manual_seed(outside)
        algo = Noise(buffer(), batch_size=8)
        algo.train(5)
        algos.append(weights(algo))
    assert torch.equal(*algos)


def test_evaluations_in_between_change_nothing():
    plain = CQL(buffer(), 16, net_arch=[8])
    watched = CQL(buffer(), 16, EvalCallback(Noisy, 3, 2, verbose=False, deterministic=False), net_arch=[8])
    plain.train(10)
    watched.train(10)
    assert len(watched.callbacks.callbacks[0].eval_results) == 4
    assert torch.equal(plain.learner.critic.net.flat, watched.learner.critic.net.flat)
    assert torch.equal(plain.learner.actor.net.flat, watched.learner.actor.net.flat)


def test_no_steps_give_no_metrics():
    algo = Mine(Own(), batch_size=8)
    assert algo.train(0) == {} and algo.step == 0


def test_hooks_come_in_the_pinned_order():
    order = []

    class Order(Callback):
        def on_training_start(self, **kwargs):
            order.append(("start", kwargs["step"]))

        def on_train_batch(self, **kwargs):
            order.append(("batch", kwargs["step"], kwargs["n_updates"]))

        def on_step(self, **kwargs):
            assert set(kwargs) == {"algo", "step", "episodes", "metrics"} and kwargs["episodes"] == []
            order.append(("step", kwargs["step"], kwargs["metrics"]["loss"] >= 0))

        def on_training_end(self, **kwargs):
            order.append(("end", kwargs["reason"]))

    class Log(LoggerCallback):
        log_interval = 1

        def on_train_step(self, step, metrics):
            order.append(("log", step))

    class Ordered(Mine):
        def _update(self, batch):
            order.append(("update", self.step))
            return super()._update(batch)

    class Data(Own):
        def sample(self, batch_size, seed):
            order.append("sample")
            return super().sample(batch_size, seed)

    algo = Ordered(Data(), batch_size=8, callbacks=Order(), logger=Log())
    order.clear()
    algo.train(2)
    first = ["sample", ("update", 0), ("batch", 0, 1), ("step", 1, True), ("log", 1)]
    second = ["sample", ("update", 1), ("batch", 1, 2), ("step", 2, True), ("log", 2)]
    assert order == [("start", 0), *first, *second, ("end", "finished")]


def test_a_vote_stops_training():
    class Stop(Callback):
        def on_step(self, *, step, **kwargs):
            return step < 4

    assert Mine(Own(), batch_size=8, callbacks=[Stop()]).train(10) | {"loss": 0} == {"loss": 0, "n_updates": 4, "reason": "stopped"}


def test_networks_train_in_updates_and_evaluate_outside_also_after_an_error():
    modes = []

    class Modes(Mine):
        def _update(self, batch):
            modes.append((self.actor.training, self.frozen.training))
            if self.step == 1:
                raise ZeroDivisionError
            return super()._update(batch)

        def __init__(self, dataset, **kwargs):
            super().__init__(dataset, **kwargs)
            self.frozen = nn.Linear(1, 1).requires_grad_(False)

    algo = Modes(Own(), batch_size=8)
    assert not algo.actor.training
    with pytest.raises(ZeroDivisionError):
        algo.train(3)
    assert modes == [(True, False)] * 2 and not algo.actor.training


def test_a_subclass_may_have_other_base_classes():
    class Abstract(Mine, ABC):
        pass

    assert Abstract(Own(), batch_size=8).train(1)["n_updates"] == 1


def test_a_subclass_without_update_is_refused_when_it_is_made():
    class Empty(OfflineAlgorithm):
        pass

    with pytest.raises(ConfigError, match=r"Empty does not implement _update\(batch\)"):
        Empty(Own())


def test_an_update_that_returns_no_dict_is_named():
    class Returns(Mine):
        def _update(self, batch):
            return self.answer

    algo = Returns(Own(), batch_size=8)
    algo.answer = 3.0
    with pytest.raises(UserCodeError, match=r"Returns\._update returned a float, must be a dict of metrics") as raised:
        algo.train(1)
    assert raised.value.exit_code == 7
    algo.answer = None
    assert algo.train(1)["reason"] == "finished"


def test_without_an_actor_acting_and_evaluating_are_refused_by_name():
    class Blind(Mine):
        def __init__(self, dataset, **kwargs):
            super().__init__(dataset, **kwargs)
            self.net, self.actor = self.actor, None

        def _update(self, batch):
            return {}

    algo = Blind(Own(), batch_size=8)
    assert not algo.can_act
    with pytest.raises(ConfigError, match="Blind has no policy"):
        algo.predict(np.zeros(3))
    with pytest.raises(ConfigError, match="needs an algorithm that can act"):
        Blind(Own(), batch_size=8, env=Noisy, callbacks=EvalCallback())


def test_a_stochastic_actor_and_a_method_act_are_used():
    class Sampler(nn.Module):
        def sample(self, obs):
            return torch.rand(len(obs), 2), torch.zeros(len(obs))

        def deterministic(self, obs):
            return torch.zeros(len(obs), 2)

    class WithSampler(Mine):
        def __init__(self, dataset, **kwargs):
            super().__init__(dataset, **kwargs)
            self.actor = Sampler()

    algo = WithSampler(Own(), batch_size=8)
    assert (algo.predict(np.zeros(3)) == 0).all()
    assert (algo.predict(np.zeros(3), deterministic=False) != algo.predict(np.zeros(3), deterministic=False)).any()

    class WithAct(Mine):
        def act(self, obs, deterministic, generator):
            return torch.full((len(obs), 2), 0.5 if deterministic else -0.5)

    algo = WithAct(Own(), batch_size=8)
    assert (algo.predict(np.zeros(3)) == 0.5).all() and (algo.predict(np.zeros(3), deterministic=False) == -0.5).all()


def test_discrete_actions_are_indices_and_logits_their_policy():
    class Clone(OfflineAlgorithm):
        def __init__(self, dataset, **kwargs):
            super().__init__(dataset, **kwargs)
            self.actor = nn.Linear(self.obs_dim, self.act_dim)
            self.optimizer = torch.optim.Adam(self.actor.parameters(), lr=0.05)

        def _update(self, batch):
            assert batch["actions"].dtype == torch.int64
            loss = nn.functional.cross_entropy(self.actor(batch["obs"]), batch["actions"])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return {"loss": loss}

    data = Own(128)
    data.columns["actions"] = np.digitize(data.columns["obs"][:, 0], [0, 1])
    algo = Clone(data, batch_size=32)
    assert algo.act_dim == 3 and algo.act_space.discrete
    algo.train(200)
    assert [algo.predict(np.array([x, 0, 0])) for x in (-2.0, 2.5)] == [0, 2]
    assert type(algo.predict(np.zeros(3))) is int and algo.predict(np.zeros((4, 3))).dtype == np.int64
    with pytest.raises(DatasetMismatchError, match=r"bc needs Box actions; the dataset has Discrete\(3\)"):
        BC(data, 8)


# What is wrong with a dataset or an argument is said at construction.


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (3, ConfigError, "dataset is a int without sample, __len__"),
        ([1, 2], ConfigError, "dataset is a list without sample"),
    ],
)
def test_a_dataset_that_lacks_a_method_is_named(dataset, error, message):
    with pytest.raises(error, match=message):
        Mine(dataset)


@pytest.mark.parametrize("key", ["obs", "next_obs", "actions", "rewards", "terminated"])
def test_each_key_that_a_dataset_owes_is_named(key):
    data = Own()
    del data.columns[key]
    data.__class__ = type("Short", (Own,), {"__len__": lambda self: 64})
    with pytest.raises(DatasetError, match=rf"Short\.sample returned no '{key}'"):
        Mine(data, batch_size=8)


def test_a_key_that_an_algorithm_needs_beyond_the_five_is_named():
    class Needs(Mine):
        requires = ("returns",)

    with pytest.raises(DatasetError, match="no 'returns'"):
        Needs(Own(), batch_size=8)


def test_a_batch_of_another_size_is_refused():
    class Short(Own):
        def sample(self, batch_size, seed):
            return super().sample(batch_size - 1, seed)

    with pytest.raises(DatasetError, match=r"sample\(8, seed\) returned 'obs' of shape \(7, 3\), must have 8 rows"):
        Mine(Short(), batch_size=8)


@pytest.mark.parametrize("key", ["rewards", "terminated", "truncated"])
def test_a_column_of_figures_is_refused_since_it_would_be_broadcast(key):
    data = Own()
    data.columns["truncated"] = np.zeros(64)
    data.columns[key] = data.columns[key][:, None]
    with pytest.raises(DatasetError, match=rf"sample\(8, seed\) returned '{key}' of shape \(8, 1\), must be \(8,\)"):
        CQL(data, 8, net_arch=[4])


@pytest.mark.parametrize("make", [Own, buffer])
def test_a_batch_larger_than_the_data_names_both_sizes(make):
    with pytest.raises(DatasetMismatchError, match="64 rows, fewer than batch_size 65") as caught:
        Mine(make(), batch_size=65)
    assert caught.value.exit_code == 5
    assert Mine(make(), batch_size=64).train(1)["n_updates"] == 1


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "8"])
def test_a_wrong_batch_size_is_refused(size):
    with pytest.raises(ConfigError, match="batch_size is"):
        Mine(Own(), batch_size=size)


def test_batch_size_is_an_argument_or_an_option():
    assert BC(buffer(), 16).config.batch_size == BC(buffer(), batch_size=16).batch_size == 16
    with pytest.raises(DatasetMismatchError, match="batch_size 256"):
        BC(buffer())


# Where the bounds of actions come from.


def scaled(make=buffer, scale=2.0, **options):
    return Mine(make(scale=scale), batch_size=16, **options)


def test_bounds_of_the_environment_come_first():
    env = gym.Env()
    env.observation_space, env.action_space = gym.spaces.Box(-9, 9, (3,)), gym.spaces.Box(np.array([-4, -2], np.float32), np.array([2, 8], np.float32))
    algo = scaled(env=env, action_low=-50.0, action_high=50.0)
    assert algo.bounds_from == "env"
    assert algo.act_space.low.tolist() == [-4, -2] and algo.act_space.high.tolist() == [2, 8]
    seen = watch(algo)
    algo.train(1)
    raw = algo.dataset.sample(16, derive(0, "sample", 0))["actions"]
    np.testing.assert_allclose(seen[0]["actions"], (raw - [-1, 3]) / [3, 5], atol=1e-6)
    assert (algo.predict(np.zeros((50, 3))) >= [-4, -2]).all()


def test_then_those_of_the_file():
    from rlox.envs import space_to_json

    data = buffer(scale=2.0)
    spaces = {"observation_space": gym.spaces.Box(-9, 9, (3,)), "action_space": gym.spaces.Box(-3, 3, (2,))}
    data.meta = {k: space_to_json(v) for k, v in spaces.items()}
    algo = Mine(data, batch_size=8, action_low=-50.0, action_high=50.0)
    assert (algo.bounds_from, algo.act_space.low.tolist()) == ("dataset", [-3, -3])
    data.meta["action_space"] = space_to_json(gym.spaces.Box(-3, 3, (5,)))
    with pytest.raises(DatasetMismatchError, match=r"actions of shape \(2,\), its metadata has Box"):
        Mine(data, batch_size=8)


def test_then_those_of_the_flags():
    algo = scaled(action_low=-2.0, action_high=4.0)
    assert (algo.bounds_from, algo.act_space.low.tolist(), algo.act_space.high.tolist()) == ("flags", [-2, -2], [4, 4])


@pytest.mark.parametrize("make", [Own, buffer])
def test_then_minus_1_to_1_when_all_actions_lie_inside(make):
    algo = scaled(make, scale=1.0)
    assert (algo.bounds_from, algo.act_space.low.tolist(), algo.act_space.high.tolist()) == ("[-1, 1]", [-1, -1], [1, 1])


@pytest.mark.parametrize(("make", "whose"), [(Own, "first batch's"), (buffer, "data's")])
def test_and_else_the_range_of_the_data_with_one_warning(make, whose):
    with pytest.warns(UserWarning, match=f"action bounds are unknown; taking the {whose} range") as caught:
        algo = scaled(make)
    assert len(caught) == 1 and algo.bounds_from == "data"
    assert (abs(algo.act_space.high) <= 2).all() and (algo.act_space.high > 1.5).all()
    seen = watch(algo)
    algo.train(2)
    assert all(b["actions"].abs().max() <= 1 for b in seen)


def test_actions_beyond_known_bounds_are_clipped_with_a_warning_that_says_so():
    with pytest.warns(UserWarning, match=r"actions are clipped: the data's reach \[-1\.\d+, 1\.\d+\] in dimension 0, the bounds from the flags are \[-1, 1\]"):
        scaled(action_low=-1.0, action_high=1.0)


class Late(Own):
    """Its first batch does not show what the others hold."""

    def __init__(self, first, later):
        super().__init__()
        self.actions = [first, later]

    def sample(self, batch_size, seed):
        batch = super().sample(batch_size, seed)
        batch["actions"] = np.resize(self.actions[min(len(self.seeds), 2) - 1], (batch_size, *np.shape(self.actions[0])))
        return batch


def test_actions_beyond_bounds_that_one_batch_suggested_are_named_once():
    algo = Mine(Late([0.5, 0.5], [0.5, 5.0]), batch_size=8)
    assert algo.bounds_from == "[-1, 1]"
    with pytest.warns(UserWarning, match=r"the data's reach \[5, 5\] in dimension 1, the bounds from the first batch are \[-1, 1\]") as caught:
        algo.train(3)
    assert len(caught) == 1


def test_a_discrete_action_that_the_first_batch_did_not_show_is_an_error_unless_the_dataset_knows_them():
    with pytest.raises(DatasetError, match="the action 5, its first batch had none above 2") as caught:
        Mine(Late(2, 5), batch_size=8).train(1)
    assert "n_actions" in caught.value.hint
    data = Late(2, 5)
    data.n_actions = 6
    algo = Mine(data, batch_size=8)
    assert algo.act_dim == 6 and next(iter(algo._batch(0)["actions"])) == 5


def test_arguments_are_public_attributes():
    data = buffer()
    algo = Mine(data, batch_size=8, seed=3, env=Noisy, action_low=-1.0, action_high=2.0, normalize_obs=True)
    assert (algo.dataset, algo.batch_size, algo.seed, algo.env) == (data, 8, 3, Noisy)
    assert (algo.action_low, algo.action_high, algo.normalize_obs, algo.logger) == (-1.0, 2.0, True, None)


def test_rounding_beyond_the_bounds_is_no_cause_for_a_warning():
    data = Own()
    data.columns["actions"][0] = 1 + 1e-6
    assert Mine(data, batch_size=64, action_low=-1.0, action_high=1.0).bounds_from == "flags"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_low": 1.0}, "must be given together"),
        ({"action_low": 1.0, "action_high": 1.0}, r"action_low is 1\.0, must be below action_high 1\.0"),
        ({"env": Endless}, r"observations of shape \(3,\), .* has Box"),
        ({"env": "CartPole-v1"}, r"observations of shape \(3,\)"),
        ({"env": "Pendulum-v1"}, r"actions of shape \(2,\)"),
    ],
)
def test_bounds_that_do_not_fit_are_refused(options, message):
    with pytest.raises((ConfigError, DatasetMismatchError), match=message):
        scaled(**options)


def test_a_dimension_that_never_moves_still_has_bounds():
    data = Own(scale=2.0)
    data.columns["actions"][:, 1] = 3.0
    with pytest.warns(UserWarning, match="bounds are unknown"):
        algo = Mine(data, batch_size=8)
    assert algo.act_space.low[1] < algo.act_space.high[1] and np.isfinite(algo.predict(np.zeros(3))).all()


def test_flat_actions_of_one_dimension_become_columns():
    data = Own()
    data.columns["actions"] = data.columns["actions"][:, 0]
    algo = Mine(data, batch_size=8)
    seen = watch(algo)
    algo.train(1)
    assert algo.act_dim == 1 and seen[0]["actions"].shape == (8, 1) and algo.predict(np.zeros(3)).shape == (1,)


# Normalisation.


@pytest.mark.parametrize("where", ["option", "dataset"])
def test_observations_are_normalised_once_in_training_and_in_acting(where):
    data = buffer(normalize=where == "dataset")
    algo = Mine(data, batch_size=16, normalize_obs=where == "option")
    seen = watch(algo)
    algo.train(1)
    raw = buffer().sample(16, derive(0, "sample", 0))
    for key in ("obs", "next_obs"):
        np.testing.assert_allclose(seen[0][key], (raw[key] - data.obs_mean) / (data.obs_std + 1e-3), atol=1e-5)
    obs = np.array([[0.5, 1.0, -1.0]], np.float32)
    with torch.no_grad():
        wanted = algo.actor(torch.from_numpy(((obs - data.obs_mean) / (data.obs_std + 1e-3)).astype(np.float32)))
    np.testing.assert_allclose(algo.predict(obs), wanted, atol=1e-6)


def test_normalisation_is_off_by_default_and_needs_statistics():
    assert Mine(buffer(), batch_size=8).normalizer is None
    with pytest.raises(ConfigError, match="normalize_obs needs obs_mean and obs_std, Own has none"):
        Mine(Own(), batch_size=8, normalize_obs=True)


def test_a_users_dataset_may_bring_statistics():
    data = Own()
    data.obs_mean, data.obs_std = np.ones(3), np.full(3, 2.0)
    algo = Mine(data, batch_size=8, normalize_obs=True)
    seen = watch(algo)
    algo.train(1)
    raw = data.sample(8, derive(0, "sample", 0))["obs"]
    np.testing.assert_allclose(seen[0]["obs"], (raw - 1) / 2.001, atol=1e-5)


# Saving and loading.


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("cls", [Mine, BC, CQL])
def test_a_saved_model_predicts_the_same_bits_without_code_in_the_subclass(tmp_path, cls, normalize):
    options = {} if cls is Mine else {"net_arch": [8]}
    algo = cls(buffer(scale=2.0), batch_size=16, action_low=-2.0, action_high=2.0, normalize_obs=normalize, **options)
    algo.train(5)
    algo.save(tmp_path / "x.pt")
    obs = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    loaded = [cls.from_checkpoint(tmp_path / "x.pt"), load_algorithm(tmp_path / "x.pt", cls=cls)]
    if cls is not Mine:
        loaded.append(load_algorithm(tmp_path / "x.pt"))
    for other in loaded:
        assert type(other) is cls
        np.testing.assert_array_equal(other.predict(obs), algo.predict(obs))
        assert (other.step, other.n_updates, other.batch_size) == (5, 5, 16)


@pytest.mark.parametrize("cls", [Mine, BC, CQL])
def test_a_loaded_model_goes_on_with_its_dataset_as_if_it_had_not_stopped(tmp_path, cls):
    options = {} if cls is Mine else {"net_arch": [8]}
    whole, half = (cls(buffer(), batch_size=16, normalize_obs=True, **options) for _ in range(2))
    whole.train(10)
    half.train(5)
    half.save(tmp_path / "x.pt")
    loaded = cls.from_checkpoint(tmp_path / "x.pt", dataset=buffer())
    result = loaded.train(5)
    assert result == {**dict(whole.metrics), "n_updates": 10, "reason": "finished"}
    np.testing.assert_array_equal(loaded.predict(np.ones(3)), whole.predict(np.ones(3)))


def test_a_loaded_model_does_not_train_without_its_dataset(tmp_path):
    Mine(Own(), batch_size=8).save(tmp_path / "x.pt")
    with pytest.raises(ConfigError, match="Mine was loaded without its dataset") as caught:
        Mine.from_checkpoint(tmp_path / "x.pt").train(1)
    assert "dataset=" in caught.value.hint


def test_a_dataset_given_on_loading_must_fit(tmp_path):
    Mine(Own(), batch_size=8).save(tmp_path / "x.pt")
    data = Own()
    data.columns["obs"] = np.zeros((64, 5))
    with pytest.raises(DatasetMismatchError, match=r"observations of shape \(5,\), the checkpoint has Box"):
        Mine.from_checkpoint(tmp_path / "x.pt", dataset=data)


def test_a_constructor_that_takes_little_can_be_loaded(tmp_path):
    class Narrow(Mine):
        def __init__(self, dataset):
            super().__init__(dataset, batch_size=8, seed=3)

    algo = Narrow(Own())
    algo.train(2)
    algo.save(tmp_path / "x.pt")
    np.testing.assert_array_equal(Narrow.from_checkpoint(tmp_path / "x.pt").predict(np.ones(3)), algo.predict(np.ones(3)))


def test_a_subclass_of_another_shape_says_what_does_not_fit(tmp_path):
    class Wide(Mine):
        def __init__(self, dataset, width=8, **kwargs):
            super().__init__(dataset, **kwargs)
            self.actor[0], self.actor[2] = nn.Linear(3, width), nn.Linear(width, 2)

    Wide(Own(), width=5, batch_size=8).save(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"the state does not fit Wide: .*size mismatch"):
        Wide.from_checkpoint(tmp_path / "x.pt")
    assert Wide.from_checkpoint(tmp_path / "x.pt", width=5).actor[0].out_features == 5


def test_a_checkpoint_of_another_class_is_refused(tmp_path):
    Mine(Own(), batch_size=8).save(tmp_path / "x.pt")
    with pytest.raises(CheckpointMismatchError, match="was made by Mine, not by bc"):
        BC.from_checkpoint(tmp_path / "x.pt")
    with pytest.raises(CheckpointMismatchError, match="Mine, which is not a registered algorithm"):
        load_algorithm(tmp_path / "x.pt")


def test_an_environment_given_on_loading_must_fit(tmp_path):
    BC(buffer(), 8, net_arch=[4]).save(tmp_path / "x.pt")
    assert BC.from_checkpoint(tmp_path / "x.pt", env=Noisy).env_source is not None
    for wrong in (ActionScale, "Pendulum-v1", "CartPole-v1"):
        with pytest.raises(CheckpointMismatchError, match="the checkpoint was trained on"):
            BC.from_checkpoint(tmp_path / "x.pt", env=wrong)


def test_the_manifest_says_what_it_was_trained_on(tmp_path):
    data = buffer(scale=2.0)
    algo = BC(data, 8, net_arch=[4], action_low=-2.0, action_high=2.0)
    manifest = algo.manifest()
    assert manifest["dataset"] == {"path": None, "fingerprint": data.fingerprint(), "rows": 64}
    assert (manifest["algorithm"], manifest["kind"], manifest["bounds_from"]) == ("bc", "offline", "flags")
    assert manifest["config"]["net_arch"] == [4] and manifest["env"] is None
    assert Mine(Own(), batch_size=8).manifest()["dataset"] == {"path": None, "fingerprint": None, "rows": 64}


def test_a_subclass_of_a_shipped_algorithm_is_recorded_under_its_own_name(tmp_path):
    class MyBC(BC):
        pass

    algo = MyBC(buffer(), 8, net_arch=[4])
    assert algo.manifest()["algorithm"] == MyBC.__qualname__ != "bc"
    algo.save(tmp_path / "x.pt")
    assert type(MyBC.from_checkpoint(tmp_path / "x.pt")) is MyBC


# Options of the shipped algorithms.

EFFECTS = {
    "net_arch": [4], "activation": "tanh", "layer_norm": True, "dropout": 0.5, "optimizer": "sgd", "weight_decay": 0.5,
    "learning_rate": 1e-2, "batch_size": 8, "normalize_obs": True, "actor_learning_rate": 1e-2, "gamma": 0.5, "tau": 0.5,
    "cql_alpha": 0.5, "n_actions": 3, "ent_coef": 0.3, "target_entropy": -7.0, "n_critics": 3,
}  # fmt: skip


def parameters_after(cls, **options):
    algo = cls(buffer(), **{"net_arch": [8], "batch_size": 16, "optimizer": "adamw", **options})
    algo.train(6)
    networks = [n for n in algo._networks() if any(p.requires_grad for p in n.parameters())]
    return torch.cat([p.detach().flatten() for n in networks for p in n.parameters()])


@pytest.mark.parametrize(
    ("cls", "name"), [(c, o) for c in (BC, CQL) for o in EFFECTS if o in {f for f in c.config_class.__dataclass_fields__}]
)
def test_every_option_changes_what_is_learnt(cls, name):
    plain, changed = parameters_after(cls), parameters_after(cls, **{name: EFFECTS[name]})
    assert plain.shape != changed.shape or not torch.equal(plain, changed)


@pytest.mark.parametrize("cls", [BC, CQL])
def test_no_option_was_forgotten_here(cls):
    assert set(cls.config_class.__dataclass_fields__) <= set(EFFECTS)


def test_the_signature_of_a_subclass_is_that_of_its_constructor():
    assert list(inspect.signature(Mine).parameters) == ["dataset", "kwargs"]
    assert list(inspect.signature(OfflineAlgorithm).parameters)[:4] == ["dataset", "batch_size", "callbacks", "logger"]


def test_a_recorded_environment_that_is_gone_does_not_matter_where_another_is_given(tmp_path):
    gym.register("Gone-v0", Noisy)
    try:
        BC(buffer(), 8, net_arch=[4], env="Gone-v0", action_low=-1.0, action_high=1.0).save(tmp_path / "x.pt")
    finally:
        del gym.registry["Gone-v0"]
    assert BC.from_checkpoint(tmp_path / "x.pt", env=Noisy).env_source is not None
    with pytest.raises(CheckpointError, match="Gone-v0"):
        BC.from_checkpoint(tmp_path / "x.pt")
