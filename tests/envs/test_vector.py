"""Vector environments: one contract whatever runs the environments, and whatever resets them."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from gymnasium.vector import SyncVectorEnv as GymSync
from probes import UNIT, Echo, Noisy, OneOrNine, Probe, Reach, SwapBothFlags, vector

from rlox.envs import EnvFailure, EnvSource, adapt, vectorize
from rlox.errors import ConfigError, DivergedError, EnvError, SpaceError
from rlox.seeding import derive


def rollout(envs, n_steps, seed=3):
    """Play seeded random actions and return every column of every step, stacked."""
    generator = np.random.default_rng(seed)
    low, high = envs.act_space.low, envs.act_space.high
    first, steps = envs.reset(), []
    for _ in range(n_steps):
        steps.append(envs.step(generator.uniform(low, high, (envs.n_envs, envs.act_space.dim)).astype(np.float32)))
    return first, steps


def rows(first, steps):
    """Return what a buffer would hold: per environment the list of (obs, reward, flags, next_obs) of valid rows."""
    kept = [[] for _ in first]
    obs = first
    for step in steps:
        for i in np.flatnonzero(step.valid):
            flags = (bool(step.terminated[i]), bool(step.truncated[i]))
            kept[i].append((tuple(obs[i]), float(step.rewards[i]), flags, tuple(step.next_obs[i])))
        obs = step.obs
    return kept


def test_next_obs_is_the_final_observation_and_obs_the_reset_one():
    with vectorize(EnvSource.of(Echo), 1, seed=0) as envs:
        first, steps = rollout(envs, 4)
    assert first.tolist() == [[0, 0]]
    assert [s.next_obs[0].tolist() for s in steps] == [[0, 1], [0, 2], [0, 3], [1, 1]]
    assert [s.obs[0].tolist() for s in steps] == [[0, 1], [0, 2], [1, 0], [1, 1]]
    assert [bool(s.truncated[0]) for s in steps] == [False, False, True, False]
    assert steps[2].episodes == [{"return": 6.0, "length": 3, "env": 0}]
    assert steps[0].rewards.dtype == np.float32 and steps[0].valid.all() and steps[0].episodes == []


@pytest.mark.parametrize("mode, kept, ended", [
    (None, 24, 8),
    (AutoresetMode.DISABLED, 24, 8),
    (AutoresetMode.SAME_STEP, 24, 8),
    (AutoresetMode.NEXT_STEP, 18, 6),
])  # fmt: skip
def test_echo_rows_are_right_in_every_autoreset_mode(mode, kept, ended):
    if mode is None:
        envs = vectorize(EnvSource.of(Echo), 2, seed=0)
    else:
        envs = adapt(GymSync([Echo, Echo], autoreset_mode=mode), 0)
    first, steps = rollout(envs, 12)
    per_env = rows(first, steps)
    assert sum(map(len, per_env)) == kept
    assert sum(len(s.episodes) for s in steps) == ended
    assert all(e["return"] == 6 and e["length"] == 3 for s in steps for e in s.episodes)
    assert all(reward != 0 and obs[0] == next_obs[0] for env in per_env for obs, reward, _, next_obs in env)
    # the same transitions in the same order as rlox's own, as far as they go
    reference = rows(*rollout(vectorize(EnvSource.of(Echo), 2, seed=0), 12))
    assert all(env == expected[: len(env)] for env, expected in zip(per_env, reference, strict=True))


@pytest.mark.parametrize("make", [Noisy, Reach])
def test_autoreset_disabled_of_gymnasium_gives_our_own_rows_bit_for_bit(make):
    own = rows(*rollout(vectorize(EnvSource.of(make), 3, seed=5), 60))
    foreign = GymSync([make] * 3, autoreset_mode=AutoresetMode.DISABLED)
    assert rows(*rollout(adapt(foreign, 5), 60)) == own


def test_same_step_with_dict_observations_reads_the_final_one():
    envs = adapt(GymSync([Reach] * 2, autoreset_mode=AutoresetMode.SAME_STEP), 0)
    assert rows(*rollout(envs, 11)) == rows(*rollout(vectorize(EnvSource.of(Reach), 2, seed=0), 11))


class NoMode(GymSync):
    def __init__(self, mode):
        super().__init__([Echo])
        self.metadata = {} if mode is None else {"autoreset_mode": mode}


def test_missing_autoreset_mode_is_taken_as_next_step_with_a_warning():
    with pytest.warns(UserWarning, match="does not say its autoreset_mode"):
        envs = adapt(NoMode(None), 0)
    assert sum(map(len, rows(*rollout(envs, 12)))) == 9


def test_unknown_autoreset_mode_is_refused():
    with pytest.raises(EnvError, match="autoreset_mode 'sometimes', must be one of NEXT_STEP, SAME_STEP, DISABLED"):
        adapt(NoMode("sometimes"), 0)


def test_mode_may_be_given_by_its_value():
    assert adapt(NoMode(AutoresetMode.NEXT_STEP.value), 0).mode is AutoresetMode.NEXT_STEP


def test_foreign_vector_environment_through_its_source():
    source = EnvSource.of(GymSync([Echo] * 3))
    envs = vectorize(source, seed=0)
    assert envs.n_envs == 3 and "did not make" in envs.exact
    assert source.spaces() == (Echo.observation_space, Echo.action_space)
    with pytest.raises(ConfigError, match=r"n_envs is 2, .* has 3 environments"):
        vectorize(source, 2, seed=0)


def test_same_seed_same_run_and_other_seed_another():
    def play(seed):
        return rows(*rollout(vectorize(EnvSource.of(Noisy), 2, seed=seed), 50))

    assert play(1) == play(1)
    assert play(1) != play(2)


def test_every_episode_of_every_environment_has_its_own_derived_seed():
    seeds = []

    class Recording(Noisy):
        def reset(self, *, seed=None, options=None):
            seeds.append(seed)
            return super().reset(seed=seed)

    rollout(vectorize(EnvSource.of(Recording), 3, seed=9), 100)
    assert len(set(seeds)) == len(seeds) > 12
    assert seeds[:3] == [derive(9, f"env/{i}", 0) for i in range(3)]
    assert set(seeds) >= {derive(9, f"env/{i}", 1) for i in range(3)}


def test_first_environments_do_the_same_whatever_their_number():
    one = rows(*rollout(vectorize(EnvSource.of(OneOrNine), 1, seed=2), 40))
    four = rows(*rollout(vectorize(EnvSource.of(OneOrNine), 4, seed=2), 40))
    assert one[0] == four[0] and four[0] != four[1]


def test_both_flags_are_terminated():
    _, steps = rollout(vectorize(EnvSource.of(SwapBothFlags), 2, seed=0), 5)
    assert all(s.terminated.all() and not s.truncated.any() for s in steps)
    _, steps = rollout(adapt(GymSync([SwapBothFlags], autoreset_mode=AutoresetMode.DISABLED), 0), 5)
    assert all(s.terminated.all() and not s.truncated.any() for s in steps)


def test_returned_arrays_are_the_callers_own():
    envs = vectorize(EnvSource.of(Noisy), 2, seed=0)
    first = envs.reset()
    first[:] = 77
    action = np.ones((2, 2), np.float32)
    step = envs.step(action)
    kept = step.next_obs.copy()
    step.obs[:] = 99
    envs.step(action)
    assert (action == 1).all()  # Noisy zeroes the action that it is given
    np.testing.assert_array_equal(step.next_obs, kept)
    assert not (envs.obs == 99).any() and not (envs.obs == 77).any()


def test_returns_are_summed_in_float64():
    class Tiny(Probe):
        def step(self, action):
            self.t += 1
            return vector(0.0), 2.0**24 if self.t == 1 else 1.0, self.t == 101, False, {}

    _, steps = rollout(vectorize(EnvSource.of(Tiny), 1, seed=0), 101)
    assert steps[-1].episodes[0]["return"] == 2.0**24 + 100  # float32 would stay at 2**24


def test_discrete_actions_reach_the_environment_in_its_units():
    class Count(Probe):
        action_space = Discrete(3, start=5)

        def step(self, action):
            assert self.action_space.contains(action)
            return vector(0.0), float(action), True, False, {}

    envs = vectorize(EnvSource.of(Count), 2, seed=0)
    envs.reset()
    assert envs.step(np.array([5, 7])).rewards.tolist() == [5, 7]


class Faulty(Probe):
    """Does one thing wrong at its third step, or at once."""

    def __init__(self, fault, at=3):
        self.fault, self.at = fault, at

    def start(self):
        return self.fault[1] if self.fault[0] == "reset" else vector(0.0)

    def step(self, action):
        self.t += 1
        good = {"obs": vector(0.0), "reward": 1.0, "terminated": False, "truncated": False, "info": {}}
        kind, value = self.fault
        if self.t < self.at:
            return tuple(good.values())
        if kind == "raise":
            raise value
        if kind == "result":
            return value
        return tuple({**good, kind: value}.values())


NAN = float("nan")
FAULTS = [
    (("obs", np.zeros(2, np.float32)), r"observation has shape \(2,\), must be \(1,\)"),
    (("obs", 0.0), r"observation has shape \(\), must be \(1,\)"),
    (("obs", vector(NAN)), "observation entry 0 is nan, must be finite"),
    (("obs", vector(np.inf)), "observation entry 0 is inf"),
    (("obs", np.array(["x"])), "observation has dtype <U1"),
    (("obs", None), "observation has dtype object"),
    (("reward", NAN), "reward is nan"),
    (("reward", np.inf), "reward is inf"),
    (("reward", 1e300), r"reward is 1e\+300, must be finite in float32"),
    (("reward", None), "reward is NoneType None, must be a number"),
    (("reward", np.zeros(2)), "reward is ndarray"),
    (("result", (vector(0.0), 1.0, True, {})), "step returned 4 values, must be"),
    (("result", None), "step returned NoneType None"),
    (("raise", ZeroDivisionError("inner trouble")), "step raised ZeroDivisionError: inner trouble"),
]


@pytest.mark.parametrize("fault, words", FAULTS, ids=[w for _, w in FAULTS])
@pytest.mark.parametrize("at", [1, 3])
def test_faults_name_environment_step_and_field(fault, words, at):
    envs = vectorize(EnvSource.of(Faulty, {"fault": fault, "at": at}), 2, seed=0)
    with pytest.raises(EnvFailure, match=words) as caught:
        rollout(envs, 5)
    assert caught.value.exit_code == 7 and caught.value.env == 0
    assert caught.value.message.startswith(f"environment 0, episode 0, step {at - (fault[0] == 'raise')}:")
    if fault[0] == "raise":
        assert caught.value.__cause__ is fault[1]


@pytest.mark.parametrize("fault, words", [
    (("obs", vector(11.0)), r"observation entry 0 is 11\.0, outside its space \[-10\.0, 10\.0\]"),
    (("terminated", None), "terminated is NoneType None, must be a bool"),
    (("truncated", "no"), "truncated is str no, must be a bool"),
    (("reset", vector(11.0)), "outside its space"),
    (("reset", vector(NAN)), "observation entry 0 is nan"),
    (("reset", np.zeros(3)), "observation has shape"),
])  # fmt: skip
def test_first_step_is_checked_against_the_spaces(fault, words):
    with pytest.raises(EnvFailure, match=words):
        rollout(vectorize(EnvSource.of(Faulty, {"fault": fault, "at": 1}), 1, seed=0), 1)


def test_reset_that_raises_or_returns_no_pair():
    class Bad(Probe):
        def reset(self, *, seed=None, options=None):
            if self.value is None:
                raise OSError("no display")
            return self.value

    for value, words in [(None, "reset raised OSError: no display"), (vector(0.0), "reset returned ndarray")]:
        Bad.value = value
        with pytest.raises(EnvFailure, match=words):
            vectorize(EnvSource.of(Bad), 1, seed=0).reset()


def test_first_step_of_a_foreign_vector_environment_is_checked_against_the_spaces():
    envs = adapt(GymSync([lambda: Faulty(("obs", vector(11.0)), 1)] * 2, autoreset_mode=AutoresetMode.DISABLED), 0)
    with pytest.raises(EnvFailure, match=r"vector step 1: observation entry 0 is .*, outside its space"):
        rollout(envs, 1)


def test_observation_may_leave_its_bounds_once_the_environment_was_checked():
    envs = vectorize(EnvSource.of(Faulty, {"fault": ("obs", vector(11.0)), "at": 3}), 1, seed=0)
    assert rollout(envs, 3)[1][-1].next_obs[0, 0] == 11


@pytest.mark.parametrize("fault, words", [
    (("obs", vector(NAN)), "environment 0, vector step 2: observation entry 0 is nan"),
    (("reward", NAN), "environment 0, vector step 2: reward is nan"),
    (("raise", ZeroDivisionError("inner trouble")), "raised ZeroDivisionError: inner trouble"),
])  # fmt: skip
def test_faults_of_a_foreign_vector_environment_are_named_too(fault, words):
    envs = adapt(GymSync([lambda: Faulty(fault, 2)] * 2, autoreset_mode=AutoresetMode.DISABLED), 0)
    with pytest.raises(EnvFailure, match=words):
        rollout(envs, 3)


def test_spaces_that_cannot_be_used_are_refused_when_vectorised():
    class Bad(Probe):
        action_space = Box(-np.inf, np.inf, (1,))

    with pytest.raises(SpaceError, match=r"low\[0\] is unbounded"):
        vectorize(EnvSource.of(Bad), 1, seed=0)


def test_environments_with_different_spaces_are_refused():
    sizes = iter([1, 1, 2])

    def make():
        env = Probe()
        env.observation_space = Box(-1, 1, (next(sizes),))
        return env

    with pytest.raises(EnvError, match="environment 1 has space"):
        vectorize(EnvSource.of(make), 2, seed=0)


@pytest.mark.parametrize("options, words", [
    ({"n_envs": 0}, "n_envs is 0"), ({"n_envs": True}, "n_envs is True"), ({"n_envs": 1.5}, "n_envs is 1.5"),
    ({"seed": -1}, "seed is -1"), ({"seed": 2**32}, "seed is"), ({"vec": "threads"}, "sync, async"),
    ({"timeout_s": 0}, "env_timeout is 0"), ({"timeout_s": NAN}, "env_timeout is nan"),
    ({"timeout_s": np.inf}, "env_timeout is inf"),
])  # fmt: skip
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        vectorize(EnvSource.of(Echo), **{"seed": 0, **options})


def test_step_needs_a_reset_and_one_action_per_environment():
    envs = vectorize(EnvSource.of(Echo), 2, seed=0)
    with pytest.raises(EnvError, match="before reset"):
        envs.step(np.zeros((2, 1)))
    envs.reset()
    with pytest.raises(ConfigError, match="3 rows of actions for 2 environments"):
        envs.step(np.zeros((3, 1)))


def test_users_instance_is_used_lent_once_and_left_open():
    class Closing(Echo):
        closed = 0

        def close(self):
            self.closed += 1

    env = Closing()
    source = EnvSource.of(env)
    envs = vectorize(source, 1, seed=0)
    envs.reset()
    assert env.episode == 0
    with pytest.raises(ConfigError, match="it is in use"):
        vectorize(source, 1, seed=0)
    envs.close()
    envs.close()
    assert env.closed == 0
    vectorize(source, 1, seed=0).reset()
    assert env.episode == 1


def test_second_use_of_an_instance_with_an_id_makes_another():
    env = gym.make("Pendulum-v1")
    source = EnvSource.of(env)
    with vectorize(source, 1, seed=0) as training, vectorize(source, 1, seed=0) as evaluation:
        assert training._slots[0].env is env and evaluation._slots[0].env is not env


def test_environments_are_closed_when_a_later_one_cannot_be_made():
    closed = []

    def make():
        if len(made) == 2:
            raise RuntimeError("enough")
        made.append(1)
        env = Probe()
        env.action_space, env.close = UNIT, lambda: closed.append(1)
        return env

    made = []
    with pytest.raises(EnvError, match="enough"):
        vectorize(EnvSource.of(make), 2, seed=0)
    assert len(closed) == 2  # the one for the spaces, and the first


@pytest.mark.parametrize("n_steps", [0, 1, 17, 45])
@pytest.mark.parametrize("make", [Noisy, Reach])
def test_state_goes_on_bit_for_bit_in_the_middle_of_episodes(make, n_steps):
    one = vectorize(EnvSource.of(make), 3, seed=4)
    rollout(one, n_steps)
    state = one.state_dict()
    two = vectorize(EnvSource.of(make), 3, seed=4)
    assert two.load_state_dict(state) == {}
    np.testing.assert_array_equal(one.obs, two.obs)
    actions = np.random.default_rng(0).uniform(-0.5, 1, (40, 3, 2)).astype(np.float32)
    for action in actions:
        a, b = one.step(action), two.step(action)
        for x, y in zip(a, b, strict=True):
            assert np.array_equal(x, y)


def test_environment_that_draws_outside_its_generator_starts_a_fresh_episode():
    class Clock(Echo):
        ticks = 0

        def step(self, action):
            Clock.ticks += 1
            obs, *rest = super().step(action)
            return obs + Clock.ticks, *rest

    one = vectorize(EnvSource.of(Clock), 1, seed=4)
    rollout(one, 2)
    two = vectorize(EnvSource.of(Clock), 1, seed=4)
    assert two.load_state_dict(one.state_dict()) == {
        0: "played again, its episode comes to observation entry 0 4.0 after 2 steps, it was 2.0"
    }
    assert two.lengths == [0] and two.obs[0, 1] == 0


def test_episode_too_long_to_replay_is_not_kept(monkeypatch):
    monkeypatch.setattr("rlox.envs.vector.MAX_REPLAY", 10)

    class Long(Probe):
        def step(self, action):
            return vector(0.0), 0.0, False, False, {}

    one, two = (vectorize(EnvSource.of(Long), 1, seed=4) for _ in range(2))
    rollout(one, 10)
    assert len(one.state_dict()["actions"][0]) == 10
    rollout(one, 11)
    assert one.state_dict()["actions"] == [None]
    assert two.load_state_dict(one.state_dict()) == {0: "its episode of 11 steps is too long to be played again"}


def test_state_of_other_environments_is_refused():
    state = vectorize(EnvSource.of(Echo), 2, seed=0).state_dict()
    with pytest.raises(ConfigError, match="2 environments with seed 0, these are 3 with seed 0"):
        vectorize(EnvSource.of(Echo), 3, seed=0).load_state_dict(state)


@pytest.mark.parametrize("id", ["Pendulum-v1", "MountainCarContinuous-v0", "CartPole-v1", "FrozenLake-v1"])
def test_gymnasiums_own_environments_are_rebuilt(id):
    def actions(envs, t):
        generator = np.random.default_rng(t)
        if envs.act_space.discrete:
            return generator.integers(envs.act_space.n, size=2)
        return generator.uniform(envs.act_space.low, envs.act_space.high, (2, envs.act_space.dim)).astype(np.float32)

    one, two = (vectorize(EnvSource.of(id), 2, seed=1) for _ in range(2))
    one.reset()
    for t in range(33):
        one.step(actions(one, t))
    assert two.load_state_dict(one.state_dict()) == {}
    for t in range(30):
        a, b = one.step(actions(one, t)), two.step(actions(two, t))
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_environment_that_raises_when_closed_costs_a_warning():
    class Stuck(Probe):
        def close(self):
            raise OSError("window is gone")

    with pytest.warns(RuntimeWarning, match="closing an environment raised OSError: window is gone"):
        vectorize(EnvSource.of(Stuck), 1, seed=0).close()


@pytest.mark.parametrize("vec", ["sync", "async"])
def test_an_environment_that_was_given_nan_is_not_to_blame(vec):
    with vectorize(EnvSource.of("Pendulum-v1"), 1, seed=0, vec=vec) as envs:
        envs.reset()
        with pytest.raises(DivergedError, match=r"an action that is not finite, and then environment 0.*nan") as caught:
            envs.step(np.full((1, 1), np.nan, np.float32))
    assert isinstance(caught.value.__cause__, EnvFailure) and caught.value.exit_code == 7
