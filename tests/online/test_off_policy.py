"""Off-policy training: how often it updates, what it stores, what it draws, what of the user's it takes, what it saves."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from probes import ActionScale, Echo, Endless, Noisy, Reach, Swap
from torch import nn

from rlox import SAC, ReplayBuffer
from rlox.algorithm import load_algorithm
from rlox.callbacks import Callback, EvalCallback
from rlox.config import SACConfig, options_of
from rlox.errors import CheckpointError, CheckpointMismatchError, ConfigError, SpaceError
from rlox.logging import JSONLLogger
from rlox.seeding import derive

TINY = dict(net_arch=[16], batch_size=16, buffer_size=500, learning_starts=20)


def make(env=Noisy, **options):
    return SAC(env, **{**TINY, **options})


def rows(algo):
    return algo.buffer.take(np.arange(len(algo.buffer)))


def same(a, b):
    """Whether two algorithms have the same networks, bit for bit."""
    ours, theirs = a.learner.state_dict(), b.learner.state_dict()
    return all(
        torch.equal(v, theirs[part][k])
        for part in ("actor", "critic", "critic_target", "temperature")
        for k, v in ours[part].items()
    )


# How often it updates.


@pytest.mark.parametrize("n_envs", [1, 3, 4])
@pytest.mark.parametrize(
    ("train_freq", "gradient_steps"), [(1, 1), (4, 1), (1, 3), (5, 2), (3, 7), (4, -1), (10, -1)]
)
def test_updates_per_transition_do_not_depend_on_the_number_of_environments(n_envs, train_freq, gradient_steps):
    algo = make(Endless, n_envs=n_envs, train_freq=train_freq, gradient_steps=gradient_steps, learning_starts=0)
    seen = []
    algo._learn = lambda batch: seen.append(algo.step) or {}
    algo.train(60)
    per_phase = -(-train_freq // n_envs) * n_envs  # a phase of updates begins once at least train_freq are collected
    collected = algo.step // per_phase * per_phase
    ratio = 1 if gradient_steps == -1 else gradient_steps / train_freq
    assert len(seen) == algo.n_updates == int(collected * ratio)
    assert all(s % per_phase == 0 for s in seen)


def test_a_remainder_of_updates_is_carried_over():
    algo = make(Endless, n_envs=3, train_freq=2, gradient_steps=1, learning_starts=0)
    counts = []

    class Count(Callback):
        def on_step(self, *, algo, **kwargs):
            counts.append(algo.n_updates)

    algo.callbacks.append(Count())
    algo.train(18)
    assert np.diff([*counts, algo.n_updates]).tolist() == [1, 2, 1, 2, 1, 2]  # 3/2: one now, half of one owed
    assert algo.n_updates == 9


def test_the_remainder_goes_on_in_the_next_call_of_train():
    whole, parts = (make(Endless, train_freq=4, gradient_steps=3, learning_starts=0) for _ in range(2))
    whole.train(30)
    for n in (1, 2, 10, 17):
        parts.train(n)
    assert whole.n_updates == parts.n_updates == 21
    assert same(whole, parts)


@pytest.mark.parametrize(("n_envs", "random", "updates"), [(1, 20, 10), (3, 21, 9)])
def test_learning_starts_is_collected_at_random_before_the_first_update(n_envs, random, updates):
    algo = make(n_envs=n_envs)
    first = []

    class First(Callback):
        def on_train_batch(self, *, step, **kwargs):
            first.append(step)

    algo.callbacks.append(First())
    algo.train(30)
    assert first[0] == random + n_envs
    assert algo.n_updates == updates


def test_each_update_draws_other_rows_also_within_one_phase():
    drawn = []

    class Watched(ReplayBuffer):
        def sample(self, batch_size, seed, out=None):
            batch = super().sample(batch_size, seed, out)
            drawn.append((seed, tuple(batch["indices"])))
            return batch

    algo = make(Endless, gradient_steps=4, buffer=Watched(500, 1, 1))
    algo.train(23)
    assert len(drawn) == 12 and len({indices for _, indices in drawn}) == 12
    assert [seed for seed, _ in drawn] == [derive(0, "sample", k) for k in range(12)]


# What it stores.


def test_warm_up_is_uniform_in_a_box_of_other_bounds_per_dimension():
    algo = make(ActionScale, learning_starts=1000, buffer_size=1000)
    taken = []
    source = algo.act_space.to_env
    algo.act_space.to_env = lambda a: taken.append(source(a)) or taken[-1]
    algo.train(1000)
    env_units = np.concatenate(taken)
    assert env_units[:, 1].mean() == pytest.approx(2.5, abs=0.2)
    assert env_units[:, 1].min() >= 0 and env_units[:, 1].max() > 4.5
    assert -1 <= env_units[:, 0].min() < -0.9 and 0.9 < env_units[:, 0].max() <= 1
    stored = rows(algo)["actions"]
    assert np.abs(stored).max() <= 1
    np.testing.assert_allclose(source(stored), env_units, atol=1e-6)
    assert algo.n_updates == 0


def test_the_environment_gets_its_own_units_and_the_buffer_minus_1_to_1():
    received = []

    class Watched(ActionScale):
        def step(self, action):
            received.append(np.array(action))
            return super().step(action)

    algo = make(Watched, learning_starts=10)
    algo.train(40)
    stored = rows(algo)["actions"]
    low, high = Watched.action_space.low, Watched.action_space.high
    np.testing.assert_allclose(low + (stored + 1) / 2 * (high - low), received, atol=1e-5)
    assert all(Watched.action_space.contains(a) for a in received)
    np.testing.assert_allclose(rows(algo)["rewards"], [-np.sum(((a - [0.5, 4]) / [1, 2.5]) ** 2) for a in received], rtol=1e-4)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_stored_rows_join_true_successors_and_never_cross_a_reset(n_envs):
    algo = make(Echo, n_envs=n_envs, learning_starts=100)
    algo.train(24)
    r = rows(algo)
    assert (r["obs"][:, 0] == r["next_obs"][:, 0]).all()
    assert (r["next_obs"][:, 1] == r["obs"][:, 1] + 1).all()
    assert (r["rewards"] == r["next_obs"][:, 1]).all()
    assert (r["truncated"] == (r["next_obs"][:, 1] == 3)).all() and not r["terminated"].any()


def vector(n, mode):
    return gym.vector.SyncVectorEnv([Echo] * n, autoreset_mode=mode)


@pytest.mark.parametrize(
    ("mode", "calls_kept"),
    [(gym.vector.AutoresetMode.NEXT_STEP, 18), (gym.vector.AutoresetMode.SAME_STEP, 24), (gym.vector.AutoresetMode.DISABLED, 24)],
)
def test_a_vector_environment_of_another_make_is_adapted_and_marked_as_not_exact(mode, calls_kept):
    algo = SAC(vector(2, mode), **{**TINY, "learning_starts": 100})
    assert algo.n_envs == 2
    algo.train(calls_kept)
    r = rows(algo)
    assert len(algo.buffer) == calls_kept == algo.step
    assert (r["obs"][:, 0] == r["next_obs"][:, 0]).all() and (r["rewards"] > 0).all()
    assert algo.exact and "vector environment" in algo.exact[0]
    with pytest.raises(ConfigError, match="n_envs is 3"):
        SAC(vector(2, mode), n_envs=3, **TINY)


def test_a_call_without_a_transition_has_no_reward():
    rewards = []

    class Look(Callback):
        def on_step(self, **kwargs):
            rewards.append(kwargs.get("reward"))

    algo = SAC(vector(1, gym.vector.AutoresetMode.NEXT_STEP), callbacks=Look(), **{**TINY, "learning_starts": 100})
    algo.train(6)
    assert rewards == [1, 2, 3, None, 1, 2, 3]


# Randomness.


def test_the_same_seed_gives_the_same_networks_and_another_seed_others():
    a, b, c = make(seed=1), make(seed=1), make(seed=2)
    assert same(a, b) and not same(a, c)
    for algo in (a, b, c):
        algo.train(60)
    assert same(a, b) and not same(a, c)
    np.testing.assert_array_equal(rows(a)["obs"], rows(b)["obs"])
    assert (rows(a)["actions"] != rows(c)["actions"]).any()


def test_evaluating_and_logging_in_between_change_nothing(tmp_path):
    plain = make(n_envs=2, normalize_obs=True)
    watched = make(
        n_envs=2,
        normalize_obs=True,
        callbacks=[EvalCallback(eval_freq=10, n_eval_episodes=2, n_eval_envs=2, deterministic=False, verbose=False)],
        logger=JSONLLogger(tmp_path / "metrics.jsonl", log_interval=1),
    )
    for algo in (plain, watched):
        algo.train(60)
    assert same(plain, watched)
    assert plain.normalizer.count == watched.normalizer.count


def test_predicting_in_between_changes_nothing():
    plain, asked = make(), make()
    plain.train(40)
    for _ in range(4):
        asked.train(10)
        asked.predict(np.zeros(3), deterministic=False)
        asked.value(np.zeros(3))
    assert same(plain, asked)


def test_async_environments_give_the_bits_of_sync_ones():
    a, b = (make("Pendulum-v1", n_envs=2, vec=vec) for vec in ("sync", "async"))
    try:
        for algo in (a, b):
            algo.train(40)
        assert same(a, b)
        np.testing.assert_array_equal(rows(a)["next_obs"], rows(b)["next_obs"])
    finally:
        b.close()


def test_training_leaves_global_random_state_alone():
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    make(dropout=0.1, callbacks=EvalCallback(eval_freq=10, n_eval_episodes=1, verbose=False)).train(40)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


# Parts of the user's own.


class OwnActor(nn.Module):
    """Draws from torch's global generator, as users do."""

    def __init__(self, obs_dim=3, act_dim=2):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(obs_dim, 8), nn.Tanh(), nn.Linear(8, act_dim))

    def sample(self, obs):
        normal = torch.distributions.Normal(self.net(obs), 0.3)
        u = normal.rsample()
        return torch.tanh(u), (normal.log_prob(u) - torch.log(1 - torch.tanh(u) ** 2 + 1e-6)).sum(-1)

    def deterministic(self, obs):
        return torch.tanh(self.net(obs))


class OwnCritic(nn.Module):
    def __init__(self, obs_dim=3, act_dim=2, n=3):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(obs_dim + act_dim, 1) for _ in range(n))

    def forward(self, obs, actions):
        x = torch.cat([obs, actions], -1)
        return torch.stack([head(x).squeeze(-1) for head in self.heads])


class OwnBuffer:
    """A plain list, without push_many."""

    def __init__(self):
        self.rows, self.seeds = [], []

    def push(self, obs, action, reward, terminated, truncated, next_obs):
        self.rows.append((obs, action, reward, terminated, truncated, next_obs))

    def sample(self, batch_size, seed):
        self.seeds.append(seed)
        index = np.random.default_rng(seed).integers(len(self.rows), size=batch_size)
        names = ("obs", "actions", "rewards", "terminated", "truncated", "next_obs")
        return {name: np.array([self.rows[i][k] for i in index]) for k, name in enumerate(names)}

    def __len__(self):
        return len(self.rows)


class OwnExploration:
    def __init__(self):
        self.asked, self.resets = [], 0

    def select_action(self, action, step, total_steps):
        self.asked.append((step, total_steps))
        return np.full_like(action, 5.0)  # beyond the range: clipped

    def reset(self):
        self.resets += 1


def seeded(cls, *args, seed=0):
    torch.manual_seed(seed)
    return cls(*args)


def test_an_actor_that_draws_globally_is_reproducible_and_disturbs_nobody():
    algos = []
    for outside in (1, 2):
        actor = seeded(OwnActor)
        torch.manual_seed(outside)
        before = torch.random.get_rng_state()
        algo = make(actor=actor)
        algo.train(40)
        algo.predict(np.zeros(3), deterministic=False)
        assert torch.equal(before, torch.random.get_rng_state())
        algos.append(algo)
    assert same(*algos)
    assert algos[0].custom == ["actor"] and algos[0].n_updates == 20


def test_own_critics_are_trained_with_a_target_of_their_own():
    critic = seeded(OwnCritic)
    before = critic.heads[0].weight.detach().clone()
    algo = make(critic=critic)
    algo.train(30)
    assert algo.learner.critic is critic and not torch.equal(critic.heads[0].weight, before)
    assert not algo.learner.critic_target.heads[0].weight.requires_grad
    obs = np.zeros((1, 3), np.float32)
    values = critic(torch.from_numpy(obs), torch.from_numpy(algo.policy().squashed(obs)))
    assert values.shape == (3, 1) and algo.value(np.zeros(3)) == pytest.approx(values.min().item())


def test_a_plain_buffer_of_the_users_is_used_row_by_row():
    buffer = OwnBuffer()
    algo = make(n_envs=2, buffer=buffer)
    algo.train(30)
    assert algo.buffer is buffer and len(buffer) == 30 and len(buffer.seeds) == algo.n_updates == 10
    obs, action, reward, _terminated, _truncated, next_obs = buffer.rows[-1]
    assert obs.shape == next_obs.shape == (3,) and action.shape == (2,) and np.ndim(reward) == 0


def test_a_buffer_with_push_many_gets_a_vector_step_at_once():
    class Many(OwnBuffer):
        calls = 0

        def push_many(self, *columns):
            self.calls += 1
            self.rows.extend(zip(*columns, strict=True))

    buffer = Many()
    make(n_envs=2, buffer=buffer).train(30)
    assert buffer.calls == 15 and len(buffer) == 30


def test_a_buffer_smaller_than_learning_starts_does_not_keep_training_from_starting():
    algo = make(buffer=ReplayBuffer(16, 3, 2), learning_starts=30)
    algo.train(40)
    assert algo.n_updates == 10


@pytest.mark.parametrize(
    ("ring", "n_envs", "message"),
    [
        ((5, 2), 1, r"buffer is made for observations of shape \(5,\), must be \(3,\)"),
        (((3, 1), 2), 1, r"buffer is made for observations of shape \(3, 1\), must be \(3,\)"),
        ((3, 1), 1, r"buffer is made for actions of shape \(1,\), must be \(2,\)"),
        ((3, 2), 2, "buffer is made for n_envs 1, must be 2"),
    ],
)
def test_a_ring_made_for_something_else_is_refused_at_construction(ring, n_envs, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make(n_envs=n_envs, buffer=ReplayBuffer(100, *ring))
    assert caught.value.param == "buffer"


@pytest.mark.parametrize("normalize_obs", [False, True])
def test_a_ring_of_another_dtype_is_read_as_float32(normalize_obs):
    plain, double = (
        make(normalize_obs=normalize_obs, buffer=ReplayBuffer(500, 3, 2, obs_dtype=dtype)) for dtype in ("float32", "float64")
    )
    for algo in (plain, double):
        algo.train(30)
    assert same(plain, double) and double._sample(0)["obs"].dtype == torch.float32


def test_read_only_arrays_of_a_users_buffer_are_taken():
    class Frozen(OwnBuffer):
        def sample(self, batch_size, seed):
            batch = {k: v.astype(np.float32) for k, v in super().sample(batch_size, seed).items()}
            for column in batch.values():
                column.flags.writeable = False
            return batch

    assert make(buffer=Frozen()).train(25)["n_updates"] == 5


def test_what_cannot_be_saved_is_named_once():
    assert make().exact == make(buffer=ReplayBuffer(500, 3, 2)).exact == []
    assert make(buffer=OwnBuffer()).exact == ["the buffer has no state_dict"]
    algo = SAC(vector(2, gym.vector.AutoresetMode.SAME_STEP), **TINY)
    for _ in range(2):
        algo.train(4)
        algo.close()
    assert len(algo.exact) == 1


def test_exploration_is_copied_per_environment_reset_at_episode_ends_and_clipped():
    given = OwnExploration()
    algo = make(Endless, n_envs=2, exploration=given)
    algo.train(40)
    assert given.asked == [] and len(algo._explorers) == 2
    assert [e.resets for e in algo._explorers] == [4, 4]
    assert algo._explorers[0].asked == [(s, 40) for s in range(20, 40, 2)]
    assert (rows(algo)["actions"][20:] == 1.0).all()
    assert "the exploration has no state_dict" in algo.exact


class Lacking:
    """Has some methods and not others."""

    def __init__(self, *names):
        for name in names:
            setattr(self, name, lambda *args: None)


@pytest.mark.parametrize(
    ("part", "has", "missing"),
    [
        ("actor", ("parameters",), "sample, deterministic"),
        ("actor", ("sample", "parameters"), "deterministic"),
        ("critic", ("parameters",), "forward"),
        ("buffer", ("push",), "sample, __len__"),
        ("exploration", ("reset",), "select_action"),
        ("exploration", ("select_action",), "reset"),
    ],
)
def test_each_method_that_a_part_lacks_is_named(part, has, missing):
    with pytest.raises(ConfigError, match=f"^{part} is a Lacking without {missing}$") as caught:
        make(**{part: Lacking(*has)})
    assert caught.value.param == part


def test_an_actor_that_is_no_module_is_refused():
    with pytest.raises(ConfigError, match=r"actor is a Lacking, must be an nn\.Module"):
        make(actor=Lacking("sample", "deterministic", "parameters"))


def broken(part, **how):
    cls = OwnActor if part == "actor" else OwnCritic
    return seeded(type("Broken", (cls,), how))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"actor": broken("actor", sample=lambda self, obs: (self.deterministic(obs), torch.zeros(len(obs), 1)))},
            r"log-probabilities of shape \(1, 1\), must be \(1,\)",
        ),
        (
            {"actor": broken("actor", sample=lambda self, obs: (self.deterministic(obs)[:, :1], torch.zeros(len(obs))))},
            r"actions of shape \(1, 1\), must be \(1, 2\)",
        ),
        (
            {"actor": broken("actor", sample=lambda self, obs: (3 * torch.ones(len(obs), 2), torch.zeros(len(obs))))},
            r"an action of size 3, must be in \[-1, 1\]",
        ),
        (
            {"critic": broken("critic", forward=lambda self, obs, actions: torch.zeros(len(obs), 1, requires_grad=True))},
            r"critic returned values of shape \(16, 1\), must be \(n_critics, 16\)",
        ),
    ],
)
def test_a_wrong_shape_is_refused_on_the_first_batch_with_both_shapes(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options).train(25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("truncated"), "buffer.sample returned no 'truncated', only actions"),
        (lambda b: b.update(rewards=b["rewards"][:, None]), r"rewards of shape \(16, 1\), must be \(16,\)"),
        (lambda b: b.update(obs=b["obs"][:4]), r"obs of shape \(4, 3\), must be \(16, 3\)"),
        (lambda b: b.update(actions=b["actions"][:, 0]), r"actions of shape \(16,\), must be \(16, 2\)"),
    ],
)
def test_a_batch_of_a_users_buffer_is_checked(change, message):
    class Wrong(OwnBuffer):
        def sample(self, batch_size, seed):
            batch = super().sample(batch_size, seed)
            change(batch)
            return batch

    with pytest.raises(ConfigError, match=message):
        make(buffer=Wrong()).train(25)


def test_an_exploration_that_returns_another_shape_is_named():
    class Wrong(OwnExploration):
        def select_action(self, action, step, total_steps):
            return 0.0

    with pytest.raises(ConfigError, match=r"select_action returned shape \(\), must be \(2,\)"):
        make(exploration=Wrong()).train(25)


def test_tensors_and_other_dtypes_from_a_users_buffer_are_taken():
    class Tensors(OwnBuffer):
        def sample(self, batch_size, seed):
            return {k: torch.as_tensor(v.astype(np.float64)) for k, v in super().sample(batch_size, seed).items()}

    plain, tensors = make(buffer=OwnBuffer()), make(buffer=Tensors())
    for algo in (plain, tensors):
        algo.train(30)
    assert same(plain, tensors)


# Observations and normalisation.


def test_normalisation_uses_the_statistics_of_what_was_acted_on():
    algo = make(normalize_obs=True)
    algo.train(50)
    r = rows(algo)
    seen = np.concatenate([r["obs"], algo._obs])
    np.testing.assert_allclose(algo.normalizer.mean, seen.mean(0), atol=1e-5)
    np.testing.assert_allclose(algo.normalizer.var, seen.var(0), atol=1e-4)
    assert algo.normalizer.count == 51


def test_the_buffer_keeps_raw_observations_and_batches_are_normalised_with_current_statistics():
    algo = make(normalize_obs=True)
    batches = []
    inner = algo._learn
    algo._learn = lambda batch: (batches.append((algo.normalizer.frozen(), {k: v.clone() for k, v in batch.items()})), inner(batch))[1]
    algo.train(40)
    normalizer, batch = batches[-1]
    raw = algo.buffer.take(batch["indices"].numpy())
    np.testing.assert_array_equal(batch["obs"].numpy(), normalizer(raw["obs"]))
    np.testing.assert_array_equal(batch["next_obs"].numpy(), normalizer(raw["next_obs"]))


def test_predict_and_value_normalise_as_training_did():
    algo = make(normalize_obs=True)
    algo.train(40)
    obs = np.array([0.5, -0.2, 0.1], np.float32)
    z = torch.from_numpy(algo.normalizer(obs[None]))
    with torch.no_grad():
        wanted = algo.learner.actor.deterministic(z)
        value = algo.learner.critic(z, wanted).min()
    np.testing.assert_array_equal(algo.predict(obs), algo.act_space.to_env(wanted.numpy())[0])
    assert algo.value(obs) == pytest.approx(float(value))


def test_predict_takes_one_or_many_of_any_dtype_that_casts():
    algo = make()
    one = np.array([0.25, -0.5, 0.125])
    wanted = algo.predict(one)
    assert wanted.shape == (2,) and wanted.dtype == np.float32
    for form in (one.astype(np.float32), one.astype(np.float16), list(one), tuple(one), torch.from_numpy(one)):
        np.testing.assert_array_equal(algo.predict(form), wanted)
    for batch in (np.stack([one, one]), [one, one], [list(one)] * 2):
        got = algo.predict(batch)
        assert got.shape == (2, 2)
        np.testing.assert_allclose(got, [wanted, wanted], atol=1e-6)
    np.testing.assert_array_equal(algo.predict(np.array([1, 0, 2])), algo.predict([1.0, 0.0, 2.0]))


def test_predict_gives_the_caller_memory_of_its_own():
    algo = make()
    a = algo.predict(np.zeros(3))
    copy = a.copy()
    algo.predict(np.ones(3))
    a += 1
    np.testing.assert_array_equal(algo.predict(np.zeros(3)), copy)


def test_predict_takes_dict_observations_alone_and_in_batches():
    algo = make(Reach)
    algo.train(30)
    one = Reach().reset(seed=0)[0]
    wanted = algo.predict(one)
    assert wanted.shape == (2,) and Reach.action_space.contains(wanted)
    batch = {k: np.stack([np.asarray(v)] * 3) for k, v in one.items()}
    np.testing.assert_allclose(algo.predict(batch), np.tile(wanted, (3, 1)), atol=1e-6)
    np.testing.assert_allclose(algo.predict([one, one]), np.tile(wanted, (2, 1)), atol=1e-6)


class Board(gym.Env):
    observation_space = gym.spaces.Dict(
        board=gym.spaces.Box(0, 255, (2,), np.uint8), turn=gym.spaces.Discrete(3), goal=gym.spaces.Box(-1, 1, (2,))
    )
    action_space = gym.spaces.Box(-1, 1, (1,))


def test_predict_casts_numbers_that_fit_into_every_leaf():
    algo = make(Board)
    exact = {"board": np.array([3, 200], np.uint8), "turn": 2, "goal": np.array([1, 0], np.float32)}
    wanted = algo.predict(exact)
    for board in ([3, 200], [3.0, 200.0], np.array([3, 200])):
        typed = {"board": board, "turn": 2.0, "goal": [1, 0]}
        np.testing.assert_array_equal(algo.predict(typed), wanted)
        assert algo.value(typed) == algo.value(exact)
        np.testing.assert_allclose(algo.predict([typed, typed]), [wanted] * 2, atol=1e-6)
        batch = {"board": [board, board], "turn": [2.0, 2.0], "goal": [[1, 0]] * 2}
        np.testing.assert_allclose(algo.predict(batch), [wanted] * 2, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"board": [3, 300]}, r"observation\['board'\] has the number 300, which is none of uint8"),
        ({"board": [-1, 3]}, r"observation\['board'\] has the number -1, which is none of uint8"),
        ({"board": [0.5, 3]}, r"observation\['board'\] has the number 0.5, which is none of uint8"),
        ({"board": [float("nan"), 3]}, r"observation\['board'\] has the number nan"),
        ({"turn": 1.5}, r"observation\['turn'\] has the number 1.5"),
        ({"turn": 3.0}, r"observation\['turn'\] entry 0 is 3, must be in 0…2"),
        ({"goal": [0, float("nan")]}, r"observation\['goal'\] entry 1 is nan, must be finite"),
        ({"goal": [float("-inf"), 0]}, r"observation\['goal'\] entry 0 is -inf, must be finite"),
    ],
)
def test_predict_names_the_number_that_does_not_fit(change, said):
    with pytest.raises(ConfigError, match=said):
        make(Board).predict({"board": [3, 200], "turn": 2, "goal": [1, 0], **change})


def test_predict_names_the_row_and_entry_that_is_not_finite():
    batch = np.zeros((3, 3))
    batch[2, 1] = np.nan
    with pytest.raises(ConfigError, match="observation entry 1 of row 2 is nan, must be finite"):
        make().predict(batch)


@pytest.mark.parametrize("obs", [np.zeros(4), np.zeros((2, 4)), "text", None, {"a": 1}, 3.0])
def test_an_observation_that_does_not_fit_is_a_config_error(obs):
    with pytest.raises(ConfigError, match="observation does not fit"):
        make().predict(obs)


def test_sampled_predictions_differ_and_repeat_with_the_seed():
    a, b = make(seed=4), make(seed=4)
    ours = [a.predict(np.zeros(3), deterministic=False) for _ in range(3)]
    theirs = [b.predict(np.zeros(3), deterministic=False) for _ in range(3)]
    np.testing.assert_array_equal(ours, theirs)
    assert (ours[0] != ours[1]).any()


def test_the_value_of_given_actions_is_in_their_own_units():
    algo = make(ActionScale)
    obs, actions = np.zeros((3, 1), np.float32), np.array([[-1, 0], [0, 2.5], [1, 5]], np.float32)
    with torch.no_grad():
        wanted = algo.learner.critic(torch.zeros(3, 1), torch.tensor([[-1.0, -1], [0, 0], [1, 1]])).amin(0).numpy()
    got = algo.value(obs, actions)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert algo.value(obs[0], actions[0]) == pytest.approx(float(wanted[0]), abs=1e-6)
    np.testing.assert_allclose(algo.value(obs), algo.value(obs, algo.predict(obs)), atol=1e-5)
    with pytest.raises(ConfigError, match=r"actions has shape \(3,\), must be \(3, 2\)"):
        algo.value(obs, np.zeros(3))


def test_a_policy_acts_with_a_frozen_copy_of_the_statistics():
    algo = make(normalize_obs=True)
    algo.train(30)
    policy = algo.policy(2)
    before = policy.act(np.ones((2, 3), np.float32))
    algo.normalizer.update(np.full((100, 3), 50.0))
    np.testing.assert_array_equal(policy.act(np.ones((2, 3), np.float32)), before)
    assert (algo.policy(2).act(np.ones((2, 3), np.float32)) != before).any()


# Saving and loading.


@pytest.mark.parametrize("options", [{}, {"normalize_obs": True, "n_envs": 2}, {"layer_norm": True, "optimizer": "adamw", "ent_coef": 0.1}])
def test_a_saved_model_predicts_the_same_bits(tmp_path, options):
    algo = make("Pendulum-v1", **options)
    algo.train(40)
    algo.save(tmp_path / "deep" / "x.pt")
    obs = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    for loaded in (SAC.from_checkpoint(tmp_path / "deep" / "x.pt"), load_algorithm(tmp_path / "deep" / "x.pt")):
        assert type(loaded) is SAC and loaded.config == algo.config and same(loaded, algo)
        np.testing.assert_array_equal(loaded.predict(obs), algo.predict(obs))
        np.testing.assert_array_equal(loaded.value(obs), algo.value(obs))
        assert (loaded.step, loaded.n_updates, loaded.seed, loaded.n_envs) == (algo.step, algo.n_updates, 0, algo.n_envs)


def test_a_loaded_model_trains_on_with_a_warning_about_its_empty_buffer(tmp_path):
    algo = make("Pendulum-v1", learning_starts=30)
    algo.train(40)
    algo.save(tmp_path / "x.pt")
    loaded = SAC.from_checkpoint(tmp_path / "x.pt")
    with pytest.warns(UserWarning, match="goes on from step 40 with an empty replay buffer"):
        loaded.train(40)
    assert loaded.step == 80 and loaded.n_updates == 10 + 11  # from 30 rows in the new buffer on


def test_a_loaded_model_has_the_counters_and_streams_of_the_saved_one(tmp_path):
    """What exact resume needs of this class: each of these would otherwise start again."""
    algo = make("Pendulum-v1", learning_starts=20, train_freq=4, gradient_steps=3, dropout=0.1)
    algo.train(43)
    algo._owed = 2
    algo.save(tmp_path / "x.pt")
    loaded, fresh = SAC.from_checkpoint(tmp_path / "x.pt"), make("Pendulum-v1", dropout=0.1)

    def streams(a):
        acting = a._behaviour.state_dict()
        return {
            "update": a.generator.get_state(), "warm-up": a._warm_up.get_state(),
            "update/global": a._update_stream.state_dict()["state"],
            "explore": acting["generator"], "explore/global": acting["global"]["state"],
        }  # fmt: skip

    assert (loaded._collected, loaded._owed) == (algo._collected, 2) and algo._collected
    for name, state in streams(algo).items():
        assert torch.equal(streams(loaded)[name], state), name
        if name != "explore/global":  # rlox's own actor does not draw from it
            assert not torch.equal(streams(fresh)[name], state), name


def test_seed_and_options_reach_the_environments(monkeypatch):
    from rlox.envs import vectorize

    given = []

    def watched(source, n_envs, **options):
        given.append((n_envs, options))
        return vectorize(source, n_envs, **{**options, "vec": "sync"})

    monkeypatch.setattr("rlox.online.off_policy.vectorize", watched)
    make(n_envs=2, seed=7, vec="async", env_timeout=5.0).train(2)
    assert given == [(2, {"seed": 7, "vec": "async", "timeout_s": 5.0, "first_episode": 0})]


class Seeds(Echo):
    """Writes down the seeds that it is reset with."""

    seen: list = []  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        Seeds.seen.append(seed)
        return super().reset(seed=seed, options=options)


@pytest.mark.parametrize("foreign", [False, True])
def test_training_that_goes_on_in_new_environments_meets_no_episode_again(tmp_path, monkeypatch, foreign):
    monkeypatch.setattr(Seeds, "seen", [])

    def env():
        return gym.vector.SyncVectorEnv([Seeds, Seeds], autoreset_mode="Disabled") if foreign else Seeds

    algo = make(env(), n_envs=2, learning_starts=1000)
    for steps in (2, 60, 2, 2):
        algo.train(steps)
        algo.close()
        if foreign:
            algo.env_source = make(env()).env_source
    algo.save(tmp_path / "x.pt")
    loaded = SAC.from_checkpoint(tmp_path / "x.pt", env=env())
    with pytest.warns(UserWarning, match="empty replay buffer"):
        loaded.train(20)
    seeds = [seed for seed in Seeds.seen if seed is not None]
    assert seeds[:2] == [derive(0, "env/0", 0), derive(0, "env/1", 0)]
    assert len(seeds) > 10 and len(set(seeds)) == len(seeds)


def test_other_spaces_are_refused(tmp_path):
    make("Pendulum-v1").save(tmp_path / "x.pt")
    with pytest.raises(CheckpointMismatchError, match="observations") as caught:
        SAC.from_checkpoint(tmp_path / "x.pt", env=Noisy)
    assert caught.value.exit_code == 5
    assert SAC.from_checkpoint(tmp_path / "x.pt", "Pendulum-v1").env_source.id == "Pendulum-v1"


def test_an_environment_of_the_users_own_is_needed_for_training_only(tmp_path):
    algo = make(Noisy)
    algo.train(25)
    algo.save(tmp_path / "x.pt")
    loaded = SAC.from_checkpoint(tmp_path / "x.pt")
    np.testing.assert_array_equal(loaded.predict(np.ones(3)), algo.predict(np.ones(3)))
    with pytest.raises(ConfigError, match="loaded without an environment"):
        loaded.train(1)
    assert SAC.from_checkpoint(tmp_path / "x.pt", env=Noisy).env_source is not None


def test_an_actor_of_the_users_own_must_be_given_again(tmp_path):
    algo = make(actor=seeded(OwnActor))
    algo.train(30)
    algo.save(tmp_path / "x.pt")
    with pytest.raises(CheckpointMismatchError, match="with the user's own actor, which must be given again") as caught:
        SAC.from_checkpoint(tmp_path / "x.pt")
    assert "actor=" in caught.value.hint
    loaded = SAC.from_checkpoint(tmp_path / "x.pt", actor=seeded(OwnActor, seed=9))
    np.testing.assert_array_equal(loaded.predict(np.ones(3)), algo.predict(np.ones(3)))
    with pytest.raises(CheckpointError, match="does not fit SAC"):
        SAC.from_checkpoint(tmp_path / "x.pt", actor=seeded(OwnActor, 3, 4))


def test_loading_does_not_need_the_memory_of_the_replay_buffer(tmp_path, monkeypatch):
    make("Pendulum-v1").save(tmp_path / "x.pt")
    monkeypatch.setattr("rlox.online.off_policy.available_memory", lambda: 10)
    monkeypatch.setattr("rlox.checkpoint.store.available_memory", lambda: 10**9)
    SAC.from_checkpoint(tmp_path / "x.pt").predict(np.zeros(3))
    with pytest.raises(ConfigError, match="buffer_size 500 needs"):
        make("Pendulum-v1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": 3}, "'algorithm' in its manifest is a int"),
        ({"config": None}, "'config' in its manifest is missing"),
        ({"config": {"callbacks": []}}, "no option 'callbacks'"),
        ({"config": {"gamma": 7}}, "gamma is 7"),
        ({"seed": -1}, "'seed' in its manifest is -1"),
        ({"n_envs": "two"}, "'n_envs' in its manifest is a str"),
        ({"spaces": {}}, "space"),
        ({"spaces": 5}, "'spaces' in its manifest is a int"),
    ],
)
def test_a_manifest_that_says_nonsense_is_a_checkpoint_error(tmp_path, change, message):
    from rlox import checkpoint

    algo = make("Pendulum-v1")
    checkpoint.save(tmp_path / "x.pt", algo.state_dict(), {**algo.manifest(), **change})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_algorithm(tmp_path / "x.pt")
    assert caught.value.exit_code == 4


def test_an_algorithm_that_is_not_registered_is_named_with_the_way_to_load_it(tmp_path):
    from rlox import checkpoint

    class Mine(SAC):
        pass

    algo = Mine("Pendulum-v1", **TINY)
    algo.save(tmp_path / "x.pt")
    with pytest.raises(CheckpointMismatchError, match="Mine, which is not a registered algorithm") as caught:
        load_algorithm(tmp_path / "x.pt")
    assert "--algo" in caught.value.hint
    assert type(load_algorithm(tmp_path / "x.pt", cls=Mine)) is Mine
    checkpoint.save(tmp_path / "y.pt", algo.state_dict(), {**algo.manifest(), "algorithm": "x.py:A; rm -rf /"})
    with pytest.raises(CheckpointMismatchError) as caught:
        load_algorithm(tmp_path / "y.pt")
    assert "'x.py:A; rm -rf /'" in caught.value.hint


# Construction.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rat": 1}, "no option 'learning_rat'"),
        ({"n_envs": 0}, "n_envs is 0"),
        ({"n_envs": True}, "n_envs is True"),
        ({"seed": -1}, "seed is -1"),
        ({"config": {"gamma": 0.9}}, "config is a dict"),
        ({"callbacks": 3}, "callbacks"),
        ({"logger": 3}, "logger"),
        ({"device": "tpu"}, "device is 'tpu'"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_one_environment_that_cannot_be_made_again_serves_alone():
    assert make(Noisy()).train(25)["reason"] == "finished"
    with pytest.raises(ConfigError, match=r"n_envs is 2, .* is one and cannot be made again") as caught:
        make(Noisy(), n_envs=2)
    assert "pass a class or function that makes one" in caught.value.hint
    assert make(gym.make("Pendulum-v1"), n_envs=2).train(4)["reason"] == "finished"


def test_discrete_actions_are_refused_with_what_they_are():
    with pytest.raises(SpaceError, match=r"sac needs Box actions; .*CartPole-v1.* has Discrete\(2\)"):
        SAC("CartPole-v1")


def test_an_algorithm_shows_its_environment_and_how_far_it_is():
    algo = make("Pendulum-v1")
    algo.train(25)
    assert repr(algo) == "SAC('Pendulum-v1', step=25, n_updates=5)"
    assert repr(make(Noisy)) == "SAC(Noisy, step=0, n_updates=0)"


def test_arguments_are_public_attributes():
    config = SACConfig(net_arch=[8])
    buffer = OwnBuffer()
    algo = SAC(Noisy, n_envs=2, seed=3, config=config, buffer=buffer, gamma=0.5)
    assert (algo.env, algo.n_envs, algo.seed, algo.buffer, algo.exploration) == (Noisy, 2, 3, buffer, None)
    assert algo.config.gamma == 0.5 and algo.config.net_arch == [8] and config.gamma == 0.99


def test_the_size_of_the_buffer_is_known_before_it_is_there():
    algo = make()
    assert algo._buffer is None
    assert algo.estimate_nbytes == algo.buffer.nbytes


# Every option does something.

EFFECTS = {
    "net_arch": [8], "activation": "tanh", "layer_norm": True, "dropout": 0.5, "optimizer": "sgd", "weight_decay": 0.5,
    "learning_rate": 1e-2, "gamma": 0.5, "batch_size": 8, "learning_starts": 10, "tau": 0.5, "train_freq": 2,
    "gradient_steps": 2, "normalize_obs": True, "ent_coef": 0.3, "target_entropy": -7.0, "n_critics": 3,
    "target_update_interval": 3, "buffer_size": 20,
}  # fmt: skip


def parameters_after(steps, **options):
    algo = make(**options)
    algo.train(steps)
    return torch.cat([v.flatten() for part in ("actor", "critic") for v in algo.learner.state_dict()[part].values()])


@pytest.fixture(scope="module")
def reference():
    return parameters_after(40, optimizer="adamw")


@pytest.mark.parametrize("name", EFFECTS)
def test_every_option_changes_what_is_learnt(name, reference):
    changed = parameters_after(40, **{"optimizer": "adamw", name: EFFECTS[name]})
    assert changed.shape != reference.shape or not torch.equal(changed, reference)


def test_no_option_was_forgotten_here():
    # The first two reach the environments, with which they are tested; the last changes what is saved, not what is learnt
    others = {"vec", "env_timeout", "save_buffer"}
    assert {o.name for o in options_of(SACConfig)} == set(EFFECTS) | others


def test_widths_of_policy_and_critics_can_differ():
    algo = make(net_arch={"pi": [5], "qf": [6, 7]})
    assert algo.learner.actor.net.sizes == (3, 5, 4) and algo.learner.critic.net.sizes == (5, 6, 7, 1)


def test_dropout_is_active_in_updates_and_never_in_acting():
    modes = []

    class Look(Callback):
        def on_step(self, *, algo, **kwargs):
            modes.append(algo.learner.actor.net.training)

    algo = make(dropout=0.5, callbacks=Look())
    inner = algo.learner.update
    algo.learner.update = lambda *args: (modes.append(algo.learner.actor.net.training), inner(*args))[1]
    algo.train(22)
    assert modes == [*[False] * 21, True, False, True]
    assert len({float(algo.predict(np.zeros(3))[0]) for _ in range(5)}) == 1


def test_truncation_and_termination_are_stored_as_what_they_are():
    """Probe 6 in one figure: the batch says truncated, and the mask is terminated only."""
    algo = make(Swap, learning_starts=100)
    algo.train(20)
    r = rows(algo)
    assert r["truncated"].all() and not r["terminated"].any()
    assert set(map(tuple, r["next_obs"])) == {(0.0, 1.0), (1.0, 0.0)}
    assert all(n[0] == o[1] for o, n in itertools.zip_longest(r["obs"], r["next_obs"]))


def test_the_normaliser_counts_what_is_acted_on_in_every_autoreset_mode():
    statistics = []
    for mode in gym.vector.AutoresetMode:
        algo = make(vector(2, mode), n_envs=2, normalize_obs=True, learning_starts=1000)
        algo.train(16)  # within an episode: after its end the modes differ in when they look at the next one
        statistics.append((algo.normalizer.count, *algo.normalizer.mean, *algo.normalizer.var))
    assert statistics[0] == statistics[1] == statistics[2]


def test_what_a_file_decides_cannot_be_given_on_loading(tmp_path):
    make().save(tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="takes seed from the file"):
        SAC.from_checkpoint(tmp_path / "a.pt", seed=3)


def test_a_forged_count_of_owed_updates_is_refused(tmp_path):
    from rlox import checkpoint

    algo = make()
    state = {**algo.state_dict(), "owed": 10**12}
    checkpoint.save(tmp_path / "a.pt", state, algo.manifest())
    with pytest.raises(CheckpointError, match="owed 1000000000000"):
        SAC.from_checkpoint(tmp_path / "a.pt")


def test_a_figure_named_like_an_argument_of_the_hooks_is_refused():
    algo = make()
    algo._learn = lambda batch: {"step": 1.0}
    with pytest.raises(ConfigError, match="'step'"):
        algo.train(40)
