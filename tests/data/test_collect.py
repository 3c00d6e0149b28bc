"""Collecting: whole episodes, true next observations, adjacent rows, and what the file says about itself."""

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium import spaces

from rlox.data.collect import RandomPolicy, collect
from rlox.envs import ActionSpace, EnvSource
from rlox.errors import ConfigError, EnvError


class Walk(gym.Env):
    """Counts steps from a start drawn at reset; ends after ``length`` of them, by termination or by its limit."""

    observation_space = spaces.Box(-1e6, 1e6, (2,), np.float32)
    action_space = spaces.Box(np.float32([-1, 0]), np.float32([3, 2]))

    def __init__(self, length=5, terminates=True, fails_at=None):
        self.length, self.terminates, self.fails_at = length, terminates, fails_at

    def _obs(self):
        return np.array([self.start, self.t], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start, self.t = float(self.np_random.integers(1000)), 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        if self.t == self.fails_at:
            raise RuntimeError("broken")
        over = self.t >= self.length
        return self._obs(), float(self.t), over and self.terminates, over and not self.terminates, {}


def read(path):
    with h5py.File(path) as file:
        data = {key: file[key][()] for key in file if key != "infos"}
        data["log_probs"] = file["infos/action_log_probs"][()] if "infos" in file else None
        return data, dict(file.attrs)


def check_chain(data):
    """Inside an episode each row starts where the one before it led to; after an end a new start comes."""
    over = data["terminals"] | data["timeouts"]
    inner = ~over[:-1]
    np.testing.assert_array_equal(data["next_observations"][:-1][inner], data["observations"][1:][inner])
    assert (data["observations"][1:][~inner, 1] == 0).all()
    assert over[-1]


@pytest.mark.parametrize("n_envs", [1, 3])
def test_n_episodes_gives_whole_episodes_with_adjacent_rows(tmp_path, n_envs):
    seen = []
    source, out = EnvSource.of(Walk), tmp_path / "a.h5"
    done = collect(source, None, n_episodes=7, n_envs=n_envs, out=out, on_progress=lambda *x: seen.append(x))
    data, attributes = read(tmp_path / "a.h5")
    assert (done.n_rows, done.n_episodes) == (35, 7)
    assert done.returns.tolist() == [15.0] * 7
    assert data["terminals"].sum() == 7
    assert not data["timeouts"].any()
    check_chain(data)
    assert attributes["return_mean"] == 15
    assert seen[-1] == (7, 7)


@pytest.mark.parametrize(("n_envs", "n_cut"), [(1, 1), (3, 2)])
def test_n_steps_cuts_with_a_timeout_and_the_true_next_observation(tmp_path, n_envs, n_cut):
    done = collect(EnvSource.of(Walk), None, n_steps=13, n_envs=n_envs, out=tmp_path / "a.h5")
    data, _ = read(tmp_path / "a.h5")
    assert done.n_rows == len(data["rewards"]) == 13
    check_chain(data)
    cut = data["timeouts"]
    assert cut.sum() == n_cut
    np.testing.assert_array_equal(data["next_observations"][cut, 1], data["observations"][cut, 1] + 1)


def test_time_limit_is_a_timeout_with_its_final_observation(tmp_path):
    collect(EnvSource.of(Walk, {"terminates": False}), None, n_episodes=3, out=tmp_path / "a.h5")
    data, _ = read(tmp_path / "a.h5")
    assert data["timeouts"].nonzero()[0].tolist() == [4, 9, 14]
    assert not data["terminals"].any()
    assert (data["next_observations"][data["timeouts"], 1] == 5).all()


def test_same_seed_gives_the_same_file_and_another_seed_another(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        collect(EnvSource.of("Pendulum-v1"), None, n_steps=30, n_envs=2, seed=seed, out=tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_worker_processes_give_the_same_file(tmp_path):
    for vec in ("sync", "async"):
        collect(EnvSource.of("Pendulum-v1"), None, n_steps=20, n_envs=2, vec=vec, out=tmp_path / vec)
    assert (tmp_path / "sync").read_bytes() == (tmp_path / "async").read_bytes()


def test_compression_is_passed_on(tmp_path):
    collect(EnvSource.of("Pendulum-v1"), None, n_steps=20, out=tmp_path / "a.h5", compression="gzip")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["observations"].compression == "gzip"


def test_file_tells_where_it_comes_from(tmp_path):
    source = EnvSource.of("Pendulum-v1", {"g": 9.0})
    collect(source, None, n_steps=5, seed=9, out=tmp_path / "a.h5", behaviour="random")
    data, attributes = read(tmp_path / "a.h5")
    assert attributes["env_id"] == "Pendulum-v1"
    assert attributes["env_kwargs"] == '{"g": 9.0}'
    assert attributes["seed"] == 9
    assert attributes["behaviour"] == "random"
    assert attributes["policy_digest"] == "random"
    assert '"Box"' in attributes["action_space"]
    np.testing.assert_allclose(data["log_probs"], -np.log(4.0), rtol=1e-6)
    assert data["actions"].min() >= -2
    assert data["actions"].max() <= 2
    assert np.abs(data["actions"]).max() > 1


def test_policy_is_told_about_episode_ends_and_its_log_probs_are_stored(tmp_path):
    class Policy:
        digest = "abc"

        def __init__(self):
            self.masks, self.calls = [], 0

        def reset(self, mask):
            self.masks.append(mask.tolist())

        def act(self, obs, deterministic):
            assert deterministic
            self.calls += 1
            self.last_log_probs = np.float32([self.calls])
            return np.float32([[self.calls, 0.5]])

    policy = Policy()
    collect(EnvSource.of(Walk), policy, n_episodes=2, out=tmp_path / "a.h5", behaviour="mine", deterministic=True)
    data, attributes = read(tmp_path / "a.h5")
    assert policy.masks == [[True], [True], [True]]
    assert data["actions"][:, 0].tolist() == list(range(1, 11))
    assert data["log_probs"].tolist() == list(range(1, 11))
    assert attributes["policy_digest"] == "abc"


def test_discrete_actions_are_int64_without_a_second_dimension(tmp_path):
    collect(EnvSource.of("CartPole-v1"), None, n_episodes=2, n_envs=2, out=tmp_path / "a.h5")
    data, _ = read(tmp_path / "a.h5")
    assert data["actions"].dtype == np.int64
    assert data["actions"].ndim == 1
    assert set(data["actions"].tolist()) == {0, 1}
    assert data["terminals"].sum() == 2


def test_random_policy_covers_asymmetric_bounds_evenly():
    policy = RandomPolicy(ActionSpace(Walk.action_space), seed=0, n_envs=4000)
    actions = policy.act(np.zeros((4000, 2)))
    assert actions.shape == (4000, 2)
    np.testing.assert_allclose(actions.mean(axis=0), [1, 1], atol=0.1)
    np.testing.assert_allclose(actions.min(axis=0), [-1, 0], atol=0.01)
    np.testing.assert_allclose(actions.max(axis=0), [3, 2], atol=0.01)
    np.testing.assert_allclose(policy.last_log_probs, -np.log(8.0), rtol=1e-6)


def test_random_policy_respects_the_start_of_discrete_actions():
    policy = RandomPolicy(ActionSpace(spaces.Discrete(3, start=5)), seed=0, n_envs=100)
    assert set(policy.act(np.zeros((100, 1))).tolist()) == {5, 6, 7}
    np.testing.assert_allclose(policy.last_log_probs, -np.log(3.0), rtol=1e-6)


def test_failing_environment_leaves_no_file(tmp_path):
    with pytest.raises(EnvError):
        collect(EnvSource.of(Walk, {"fails_at": 3}), None, n_steps=10, out=tmp_path / "a.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "counts",
    [{}, {"n_steps": 5, "n_episodes": 1}, {"n_steps": 0}, {"n_episodes": -1}, {"n_steps": 2.5}, {"n_steps": True}],
)
def test_counts_that_make_no_sense_are_usage_errors(tmp_path, counts):
    with pytest.raises(ConfigError):
        collect(EnvSource.of(Walk), None, out=tmp_path / "a.h5", **counts)
    assert list(tmp_path.iterdir()) == []
