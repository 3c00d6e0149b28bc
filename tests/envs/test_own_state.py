"""Environments that say and take their own state: used where it is whole, and where it is not the episode is replayed."""

import threading

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box
from probes import Echo, Noisy, Probe, vector

from rlox.checkpoint.tensors import plain
from rlox.envs import EnvFailure, EnvSource, vectorize
from rlox.envs.watchdog import no_hanging


class OwnNoisy(Noisy):
    """Noisy, which says where it stands but nothing of its generator."""

    def state_dict(self):
        return {"x": self.x, "t": self.t}

    def load_state_dict(self, state):
        self.x, self.t = state["x"], state["t"]


class OwnEcho(Echo):
    """Echo, whose count of episodes no replay in a new instance reproduces."""

    def state_dict(self):
        return {"episode": self.episode, "t": self.t}

    def load_state_dict(self, state):
        self.episode, self.t = state["episode"], state["t"]


class SpaceNoisy(OwnEcho):
    """Draws from the generators of its spaces."""

    action_space = Box(-1.0, 1.0, (1,), np.float32)
    observation_space = Box(-1e9, 1e9, (2,), np.float32)

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, float(self.observation_space.sample()[1]) * float(self.action_space.sample()[0]), *rest


def random_actions(envs, n, seed=3):
    low, high = envs.act_space.low, envs.act_space.high
    return np.random.default_rng(seed).uniform(low, high, (n, envs.n_envs, envs.act_space.dim)).astype(np.float32)


def played(source, n_steps, n_envs=2, vec="sync"):
    envs = vectorize(EnvSource.of(source), n_envs, seed=4, vec=vec)
    envs.reset()
    for action in random_actions(envs, n_steps):
        envs.step(action)
    return envs


def without_actions(state):
    """Return the state with nothing that an episode could be replayed from."""
    return {**state, "actions": [None] * state["n_envs"]}


def assert_goes_on_alike(one, two, n_steps=50):
    for action in random_actions(one, n_steps, seed=9):
        for x, y in zip(one.step(action), two.step(action), strict=True):
            assert x == y if isinstance(x, list) else x.tobytes() == y.tobytes()


@pytest.mark.parametrize("vec", ["sync", "async"])
@pytest.mark.parametrize("make", [OwnNoisy, OwnEcho])
def test_own_state_goes_on_bit_for_bit_without_a_replay(make, vec):
    one = played(make, 17, vec=vec)
    with one, vectorize(EnvSource.of(make), 2, seed=4, vec=vec) as two:
        assert two.load_state_dict(without_actions(one.state_dict())) == {}
        assert two.exact is None
        assert_goes_on_alike(one, two)


def test_state_of_every_layer_is_loaded_and_gymnasiums_counters_too():
    class Counts(gym.Wrapper):
        n = 0

        def step(self, action):
            self.n += 1
            obs, reward, *rest = super().step(action)
            return obs, reward + self.n, *rest

        def state_dict(self):
            return {"n": self.n}

        def load_state_dict(self, state):
            self.n = state["n"]

    def make():
        env = gym.wrappers.TimeLimit(Counts(OwnNoisy()), 7)
        return gym.wrappers.RescaleAction(gym.wrappers.RecordEpisodeStatistics(env), np.float32(-1), np.float32(1))

    one, two = played(make, 17), vectorize(EnvSource.of(make), 2, seed=4)
    assert two.load_state_dict(without_actions(one.state_dict())) == {}
    assert_goes_on_alike(one, two)


def test_generators_of_the_spaces_belong_to_the_state():
    one, two = played(SpaceNoisy, 2, n_envs=1), None
    state = without_actions(one.state_dict())
    expected = [one.step(action).rewards.tobytes() for action in random_actions(one, 9)]
    two = vectorize(EnvSource.of(SpaceNoisy), 1, seed=4)
    assert two.load_state_dict(state) == {}
    assert [two.step(action).rewards.tobytes() for action in random_actions(two, 9)] == expected


def test_state_holds_types_that_a_calculation_depends_on():
    seen = []

    class Typed(OwnNoisy):
        def state_dict(self):
            kept = {
                7: np.float32(0.1),
                "big": 2**100,
                "n": np.uint64(2**63),
                "nan": float("nan"),
                "pair": (1, "a", None),
            }
            return {**super().state_dict(), "kept": kept}

        def load_state_dict(self, state):
            seen.append(state["kept"])
            super().load_state_dict(state)

    state = without_actions(played(Typed, 5, n_envs=1).state_dict())
    assert vectorize(EnvSource.of(Typed), 1, seed=4).load_state_dict(state) == {}
    kept = seen[-1]
    assert type(kept[7]) is np.float32 and kept["big"] == 2**100 and type(kept["n"]) is np.uint64
    assert kept["nan"] != kept["nan"] and kept["pair"] == (1, "a", None)


@pytest.mark.parametrize("vec", ["sync", "async"])
def test_state_of_a_vector_is_what_a_checkpoint_holds(vec):
    one = played(OwnNoisy, 9, vec=vec)
    with one, vectorize(EnvSource.of(OwnNoisy), 2, seed=4, vec=vec) as two:
        assert two.load_state_dict(plain(one.state_dict())) == {}
        assert_goes_on_alike(one, two)


def test_episode_too_long_to_replay_goes_on_by_its_own_state(monkeypatch):
    monkeypatch.setattr("rlox.envs.vector.MAX_REPLAY", 3)
    one = played(OwnNoisy, 9, n_envs=1)
    assert one.state_dict()["actions"] == [None]
    two = vectorize(EnvSource.of(OwnNoisy), 1, seed=4)
    assert two.load_state_dict(one.state_dict()) == {}
    assert two.state_dict()["actions"] == [None]  # and not those since then, as if they were all
    assert_goes_on_alike(one, two)


class Broken(Noisy):
    """Says what it is told to say."""

    says = None

    def state_dict(self):
        return self.says(self)

    def load_state_dict(self, state):
        self.x, self.t = state["x"], state["t"]


def broken(says, loads=None):
    members = {"says": staticmethod(says), **({"load_state_dict": loads} if loads else {})}
    return type("Broken", (Broken,), members)


def refuse(env):
    raise NotImplementedError("ask the wrapper")


def good(env):
    return {"x": env.x, "t": env.t}


@pytest.mark.parametrize("make, words", [
    (broken(lambda env: {"x": env.x, "rng": env.np_random}), "['state']['rng'] is a Generator"),
    (broken(lambda env: env), "is a Broken, a state holds"),
    (broken(refuse), "its state_dict cannot be used: NotImplementedError: ask the wrapper"),
    (broken(good, lambda env, state: None), "does not return what load_state_dict was given"),
    (broken(lambda env: [1]), "its own state cannot be loaded: TypeError"),
    (lambda: gym.wrappers.FrameStackObservation(OwnNoisy(), 2), "wrapper FrameStackObservation has none"),
])  # fmt: skip
def test_state_that_cannot_be_used_leaves_the_replay_and_is_named_when_that_fails_too(make, words):
    one, two = played(make, 9, n_envs=1), vectorize(EnvSource.of(make), 1, seed=4)
    assert two.load_state_dict(one.state_dict()) == {}
    assert_goes_on_alike(one, two)
    reasons = vectorize(EnvSource.of(make), 1, seed=4).load_state_dict(without_actions(one.state_dict()))
    assert list(reasons) == [0] and reasons[0].endswith("is too long to be played again")
    assert words in reasons[0]


class Scales(gym.ObservationWrapper):
    """Divides by the largest observation ever, and says that; not where the environment inside stands."""

    largest = 1.0

    def observation(self, observation):
        self.largest = max(self.largest, float(np.abs(observation).max()))
        return observation / self.largest

    def state_dict(self):
        return {"largest": self.largest}

    def load_state_dict(self, state):
        self.largest = state["largest"]


class Knows(Scales):
    """Says where the environment inside stands as well."""

    def state_dict(self):
        return {"largest": self.largest, "x": self.unwrapped.x, "t": self.unwrapped.t}

    def load_state_dict(self, state):
        self.largest = state["largest"]
        self.unwrapped.x, self.unwrapped.t = state["x"], state["t"]


def test_wrapper_that_says_only_its_own_state_is_not_taken_for_the_environments():
    one = played(lambda: Scales(Noisy()), 30)
    state = without_actions(one.state_dict())
    reasons = vectorize(EnvSource.of(lambda: Scales(Noisy())), 2, seed=4).load_state_dict(state)
    assert sorted(reasons) == [0, 1]
    assert all("wrapper does not hold the environment's own state" in reason for reason in reasons.values())


def test_wrapper_that_says_the_environments_state_too_is_believed():
    def make():
        return gym.wrappers.TimeLimit(Knows(Noisy()), 12)

    one, two = played(make, 30), vectorize(EnvSource.of(make), 2, seed=4)
    assert two.load_state_dict(without_actions(one.state_dict())) == {}
    assert_goes_on_alike(one, two)


def test_state_of_other_wrappers_is_not_loaded():
    state = without_actions(played(lambda: Knows(OwnNoisy()), 5, n_envs=1).state_dict())
    reasons = vectorize(EnvSource.of(OwnNoisy), 1, seed=4).load_state_dict(state)
    assert "its own state cannot be loaded: ValueError: it was of Knows<OwnNoisy" in reasons[0]


def test_damaged_state_starts_a_fresh_episode():
    state = without_actions(played(OwnNoisy, 5, n_envs=1).state_dict())
    state["own"][0] = state["own"][0][:-1]
    reasons = vectorize(EnvSource.of(OwnNoisy), 1, seed=4).load_state_dict(state)
    assert "its own state cannot be loaded: ValueError" in reasons[0]


class SlowToSay(Probe):
    def state_dict(self):
        threading.Event().wait()

    def load_state_dict(self, state):
        pass


def test_state_dict_that_hangs_in_a_worker_is_ended_and_named():
    envs = vectorize(EnvSource.of(SlowToSay), 1, seed=4, vec="async", timeout_s=0.5)
    envs.reset()
    with pytest.raises(EnvFailure, match=r"environment 0, episode 0, step 0: state_dict gave no answer within 0\.5 s"):
        envs.state_dict()


def test_state_dict_that_hangs_in_this_process_is_ended_and_named():
    envs = vectorize(EnvSource.of(SlowToSay), 1, seed=4)
    envs.reset()
    with (
        no_hanging(0.2),
        pytest.raises(EnvFailure, match=r"step 0: state_dict gave no answer within 0\.2 s"),
    ):
        envs.state_dict()


class FailsWhenReplayed(Probe):
    """Raises in its third step, in every instance but the first."""

    made = 0

    def __init__(self):
        FailsWhenReplayed.made += 1
        self.first = FailsWhenReplayed.made <= 2  # one for the spaces

    def step(self, action):
        self.t += 1
        if self.t == 3 and not self.first:
            raise OSError("socket is gone")
        return vector(0.0), 0.0, False, False, {}


def test_environment_that_fails_in_its_replay_starts_a_fresh_episode():
    one = played(FailsWhenReplayed, 5, n_envs=1)
    two = vectorize(EnvSource.of(FailsWhenReplayed), 1, seed=4)
    assert two.load_state_dict(one.state_dict()) == {
        0: "it failed while its episode was played again: environment 0, episode 0, step 2: step raised OSError: socket is gone"
    }
    two.step(np.zeros((1, 1)))
    assert two.lengths == [1]
