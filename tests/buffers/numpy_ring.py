"""The replay ring as nobody would store it: two copies of every observation, plain NumPy, one row at a time."""

import numpy as np

KEYS = ("obs", "next_obs", "actions", "rewards", "terminated", "truncated")


class NumpyRing:
    def __init__(self, capacity, obs_shape=(2,), act_shape=(1,), obs_dtype=np.float32, act_dtype=np.float32):
        self.capacity, self.total = capacity, 0
        self.obs = np.zeros((capacity, *obs_shape), obs_dtype)
        self.next_obs = np.zeros((capacity, *obs_shape), obs_dtype)
        self.actions = np.zeros((capacity, *act_shape), act_dtype)
        self.rewards, self.terminated, self.truncated = np.zeros((3, capacity), np.float32)
        self.known = np.zeros(capacity, bool)
        self.waiting = {}  # env -> number of its push whose next observation is the env's next one

    def push(self, obs, action, reward, terminated, truncated, next_obs=None, env=0):
        before = self.waiting.pop(env, None)
        if before is not None and before > self.total - self.capacity:
            self.next_obs[before % self.capacity] = obs
            self.known[before % self.capacity] = True
        i = self.total % self.capacity
        self.obs[i], self.actions[i], self.rewards[i] = obs, action, reward
        self.terminated[i], self.truncated[i] = terminated, truncated and not terminated
        self.next_obs[i] = obs if next_obs is None else next_obs
        self.known[i] = next_obs is not None or terminated
        if not self.known[i]:
            self.waiting[env] = self.total
        self.total += 1

    def __len__(self):
        return min(self.total, self.capacity)

    def check(self, buffer):
        """Assert that a ReplayBuffer holds the same, row by row."""
        n = len(self)
        assert len(buffer) == n
        batch = buffer.take(np.arange(n))
        for key in KEYS:
            np.testing.assert_array_equal(batch[key], getattr(self, key)[:n], err_msg=key)


def stream(rng, n, obs_shape=(2,), n_envs=1, end=0.2, obs_dtype=np.float32, known=1.0):
    """Yield ``n`` pushes of environments in shuffled order; ``known`` is the share of steps that bring a next_obs."""
    current = [draw(rng, obs_shape, obs_dtype) for _ in range(n_envs)]
    for k in range(n):
        env = int(rng.integers(n_envs))
        following = draw(rng, obs_shape, obs_dtype)
        kind = rng.random()
        terminated, truncated = kind < end / 2, end / 2 <= kind < end
        given = following if truncated or rng.random() < known else None
        yield (current[env], rng.random(1, np.float32), float(k), terminated, truncated, given, env)
        current[env] = draw(rng, obs_shape, obs_dtype) if terminated or truncated else following


def draw(rng, shape, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)
