"""Gymnasium's environments go on from any point of an episode, bit for bit, by replay and by their own state."""

import random
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from probes import Noisy, Probe, vector

from rlox.envs import EnvSource, vectorize
from rlox.errors import MissingDependencyError

LIMIT = 13  # steps of an episode, so that all of them end often
N_STEPS = 45
POINTS = (0, 1, 7, LIMIT - 1, LIMIT, LIMIT + 1, 2 * LIMIT + 5)  # just after a reset: 0, LIMIT
FAMILIES = ("classic_control", "toy_text", "mujoco")
IDS = sorted(
    spec.id
    for spec in gym.registry.values()
    if any(f"gymnasium.envs.{family}." in str(spec.entry_point) for family in FAMILIES)
    and f"{spec.name}-v{spec.version + 1}" not in gym.registry
)
# What an environment's state is made of besides its generator.
KEPT = {
    "AcrobotEnv": ("state",),
    "BlackjackEnv": ("dealer", "player"),
    "CartPoleEnv": ("state", "steps_beyond_terminated"),
    "CliffWalkingEnv": ("s", "lastaction"),
    "Continuous_MountainCarEnv": ("state",),
    "FrozenLakeEnv": ("s", "lastaction"),
    "MountainCarEnv": ("state",),
    "PendulumEnv": ("state", "last_u"),
    "TaxiEnv": ("s", "lastaction", "fickle_step", "taxi_orientation"),
}


def class_of(id):
    return gym.spec(id).entry_point.rpartition(":")[2]


class Snapshot(gym.Wrapper):
    """Says the state of one of gymnasium's environments, which have no such method."""

    def state_dict(self):
        env = self.unwrapped
        if hasattr(env, "data"):
            import mujoco

            kind = mujoco.mjtState.mjSTATE_INTEGRATION
            out = np.empty(mujoco.mj_stateSize(env.model, kind))
            mujoco.mj_getState(env.model, env.data, out, kind)
            return {"physics": out}
        return {name: getattr(env, name) for name in KEPT[type(env).__name__]}

    def load_state_dict(self, state):
        if "physics" in state:
            import mujoco

            env = self.unwrapped
            mujoco.mj_setState(env.model, env.data, state["physics"], mujoco.mjtState.mjSTATE_INTEGRATION)
            return
        for name, value in state.items():
            setattr(self.unwrapped, name, value)


def made(id, snapshot=False):
    env = gym.make(id, max_episode_steps=LIMIT, disable_env_checker=True)
    if id.startswith("Blackjack"):
        env = wrappers.FlattenObservation(env)  # a Tuple is not supported
    return Snapshot(env) if snapshot else env


def vector_of(source, n_envs, vec="sync"):
    try:
        return vectorize(EnvSource.of(source), n_envs, seed=5, vec=vec)
    except MissingDependencyError as error:
        pytest.skip(str(error))


def actions_at(envs, t):
    generator, space = np.random.default_rng(t), envs.act_space
    if space.discrete:
        return space.start + generator.integers(space.n, size=envs.n_envs)
    return generator.uniform(space.low, space.high, (envs.n_envs, space.dim)).astype(space.dtype)


def as_bytes(step):
    return [part if isinstance(part, list) else (part.dtype, part.shape, part.tobytes()) for part in step]


def uninterrupted(envs, points, n_steps=N_STEPS):
    """Play on and return what every step gave, and the state at some points."""
    envs.reset()
    steps, states = [], {}
    for t in range(n_steps):
        if t in points:
            states[t] = envs.state_dict()
        steps.append(as_bytes(envs.step(actions_at(envs, t))))
    return steps, states


def assert_continues(source, n_envs, vec="sync", points=POINTS, by_replay=True):
    """Check that other instances that are given a state do what the uninterrupted ones did."""
    with vector_of(source, n_envs, vec) as one:
        steps, states = uninterrupted(one, points)
    assert sum(len(step[-1]) for step in steps) >= 2 * n_envs  # episodes end on the way, and others begin
    with vector_of(source, n_envs, vec) as two:
        for t, state in states.items():
            if by_replay:
                state["own"] = [None] * n_envs
            else:
                assert all(isinstance(own, np.ndarray) for own in state["own"])
                state["actions"] = [None if n else a for n, a in zip(state["lengths"], state["actions"], strict=True)]
            assert two.load_state_dict(state) == {}
            assert two.obs.tobytes() == state["obs"].tobytes()
            assert [as_bytes(two.step(actions_at(two, k))) for k in range(t, N_STEPS)] == steps[t:]
        assert two.exact is None


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("id", IDS)
def test_every_environment_of_gymnasium_is_rebuilt_by_replay(id, n_envs):
    assert_continues(partial(made, id), n_envs)


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("id", [id for id in IDS if class_of(id) in KEPT] + ["HalfCheetah-v5", "InvertedPendulum-v5"])
def test_environments_go_on_by_their_own_state(id, n_envs):
    assert_continues(partial(made, id, snapshot=True), n_envs, by_replay=False)


@pytest.mark.parametrize("by_replay", [True, False], ids=["replay", "own state"])
@pytest.mark.parametrize("n_envs", [1, 4])
def test_workers_go_on_by_replay_and_by_their_own_state(n_envs, by_replay):
    source = partial(made, "CartPole-v1", snapshot=not by_replay)
    assert_continues(source, n_envs, "async", points=(0, 1, LIMIT, LIMIT + 5), by_replay=by_replay)


@pytest.mark.slow
@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("id", IDS)
def test_every_environment_of_gymnasium_is_rebuilt_in_workers(id, n_envs):
    assert_continues(partial(made, id), n_envs, "async")


@pytest.mark.parametrize("id", ["CartPole-v1", "Taxi-v4"])
def test_registered_environments_are_rebuilt_under_their_own_time_limit(id):
    one, two = vector_of(id, 2), vector_of(id, 2)
    steps, states = uninterrupted(one, (190,), n_steps=260)  # Taxi's limit is 200
    assert two.load_state_dict(states[190]) == {}
    assert [as_bytes(two.step(actions_at(two, t))) for t in range(190, 260)] == steps[190:]


@pytest.mark.parametrize("wrap", [
    lambda env: wrappers.FrameStackObservation(env, 3),
    lambda env: wrappers.DelayObservation(env, 2),
    lambda env: wrappers.TimeAwareObservation(env),
    lambda env: wrappers.RecordEpisodeStatistics(env),
    lambda env: wrappers.StickyAction(env, 0.5),
    lambda env: wrappers.MaxAndSkipObservation(env, 2),
], ids=["FrameStack", "Delay", "TimeAware", "RecordEpisodeStatistics", "StickyAction", "MaxAndSkip"])  # fmt: skip
def test_wrappers_are_rebuilt_with_the_environment(wrap):
    assert_continues(lambda: wrap(made("Pendulum-v1")), 2)


def test_wrapper_that_remembers_earlier_episodes_is_found_out():
    def make():
        return wrappers.NormalizeObservation(made("Pendulum-v1"))

    one, two = vector_of(make, 1), vector_of(make, 1)
    _, states = uninterrupted(one, (5, LIMIT + 5))
    assert two.load_state_dict(states[5]) == {}  # the first episode is all that it has seen
    reasons = vector_of(make, 1).load_state_dict(states[LIMIT + 5])
    assert reasons[0].startswith("played again, its episode comes to observation entry 0")


def test_return_that_is_not_the_same_is_found_out():
    class Grows(Noisy):
        sold = 0

        def step(self, action):
            Grows.sold += 1
            obs, reward, *rest = super().step(action)
            return obs, reward + Grows.sold, *rest

    one, two = vector_of(Grows, 1), vector_of(Grows, 1)
    _, states = uninterrupted(one, (4,), n_steps=5)
    assert two.load_state_dict(states[4])[0].startswith("played again, its episode has a return of ")
    assert two.returns == [0.0] and two.lengths == [0]


def test_episode_that_ends_earlier_is_found_out():
    class Shorter(Probe):
        limit = 9

        def step(self, action):
            self.t += 1
            return vector(0.0), 0.0, self.t >= self.limit, False, {}

    one, two = vector_of(Shorter, 1), vector_of(Shorter, 1)
    _, states = uninterrupted(one, (6,), n_steps=7)
    Shorter.limit = 4
    assert two.load_state_dict(states[6]) == {0: "played again, its episode ends after 4 steps, it had 6 and went on"}
    assert two.state_dict()["episodes"].tolist() == [1]


def test_number_of_steps_must_be_that_of_the_actions():
    one, two = vector_of(Noisy, 1), vector_of(Noisy, 1)
    _, states = uninterrupted(one, (6,), n_steps=7)
    states[6]["lengths"] = states[6]["lengths"] + 1
    assert two.load_state_dict(states[6]) == {0: "there are 6 actions of its episode of 7 steps"}


class DrawsNumpy(Probe):
    def step(self, action):
        return vector(np.random.uniform(-1, 1)), 0.0, False, False, {}


class DrawsPython(Probe):
    def start(self):
        return vector(random.random())


class DrawsUnseen(Probe):
    """Draws what no observation and no reward shows yet."""

    def start(self):
        self.goal = random.random()
        return vector(0.0)

    def step(self, action):
        return vector(0.0), 0.0, False, False, {}


@pytest.mark.parametrize("vec", ["sync", "async"])
@pytest.mark.parametrize("make, whose", [(DrawsNumpy, "NumPy's"), (DrawsPython, "Python's")])
def test_environment_that_draws_from_global_random_state_is_caught_and_named(make, whose, vec):
    with vector_of(make, 2, vec) as one, vector_of(make, 2, vec) as two:
        one.reset()
        if make is DrawsNumpy:
            one.step(np.zeros((2, 1)))
        state = one.state_dict()
        assert one.exact == f"environment 0 draws from {whose} global random state"
        reasons = two.load_state_dict(state)
        assert sorted(reasons) == [0, 1]
        for reason in reasons.values():
            assert reason.startswith("played again, its episode comes to observation entry 0 ")
            assert reason.endswith(f"; it draws from {whose} global random state")
        assert two.exact == one.exact


@pytest.mark.parametrize("vec", ["sync", "async"])
def test_draw_that_shows_in_nothing_yet_is_caught_too(vec):
    with vector_of(DrawsUnseen, 1, vec) as one, vector_of(DrawsUnseen, 1, vec) as two:
        one.reset()
        one.step(np.zeros((1, 1)))
        assert two.load_state_dict(one.state_dict()) == {}
        assert two.exact == one.exact == "environment 0 draws from Python's global random state"


def test_draw_from_torch_is_caught():
    torch = pytest.importorskip("torch")

    class DrawsTorch(Probe):
        def start(self):
            return vector(float(torch.rand(())))

    one = vector_of(DrawsTorch, 1)
    one.reset()
    one.state_dict()
    assert one.exact == "environment 0 draws from torch's global random state"


def test_environments_that_draw_nothing_global_are_not_suspected():
    random.random(), np.random.uniform()
    one = vector_of(Noisy, 2)
    one.reset()
    random.random(), np.random.uniform()
    one.state_dict()
    assert one.exact is None


@pytest.mark.parametrize("change, words", [
    ({"obs": np.zeros((2, 3), np.float32)}, r"'obs' in the state has shape \(2, 3\), must be \(2, 1\)"),
    ({"episodes": np.zeros(3, np.int64)}, r"'episodes' in the state has shape \(3,\), must be \(2,\)"),
    ({"actions": [np.zeros((1, 2), np.float32)] * 2}, r"0 in the state has shape \(1, 2\), must be \(-1, 1\)"),
    ({"actions": [None]}, "actions of 1 environments and 2 states, must be 2"),
    ({"own": [np.zeros((1, 1), np.uint8)] * 2}, r"0 in the state has shape \(1, 1\)"),
])  # fmt: skip
def test_state_of_another_form_is_refused(change, words):
    one = vector_of(DrawsUnseen, 2)
    one.reset()
    with pytest.raises(ValueError, match=words):
        vector_of(DrawsUnseen, 2).load_state_dict({**one.state_dict(), **change})
