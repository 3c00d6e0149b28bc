import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy_ring import KEYS, NumpyRing

from rlox.buffers import ReplayBuffer

SMALL = st.integers(0, 3)  # few values: consecutive observations are often equal by chance, too


class Ring(RuleBasedStateMachine):
    """Any sequence of pushes, samples, saves and loads leaves the ring equal to the two-copy one."""

    @initialize(capacity=st.integers(1, 40), n_envs=st.integers(1, 4))
    def start(self, capacity, n_envs):
        self.n_envs = n_envs
        self.make = lambda: ReplayBuffer(capacity, 1, 1, n_envs=n_envs, obs_dtype="int16")
        self.buffer, self.model = self.make(), NumpyRing(capacity, (1,), obs_dtype=np.int16)

    @rule(obs=SMALL, after=st.none() | SMALL, end=st.sampled_from(["no", "terminated", "truncated", "both"]), env=SMALL)
    def push(self, obs, after, end, env):
        terminated, truncated = end in ("terminated", "both"), end in ("truncated", "both")
        if truncated and not terminated and after is None:
            after = 7
        row = ([obs], [obs / 2], obs, terminated, truncated, None if after is None else [after])
        self.buffer.push(*row, env=env % self.n_envs)
        self.model.push(*row, env % self.n_envs)

    @rule(rows=st.lists(st.tuples(SMALL, SMALL, st.booleans(), st.booleans(), SMALL), max_size=60))
    def push_many(self, rows):
        obs, after, terminated, truncated, envs = np.array(rows, int).reshape(-1, 5).T
        envs = envs % self.n_envs
        self.buffer.push_many(obs[:, None], obs[:, None], obs, terminated, truncated, after[:, None], envs=envs)
        for k in range(len(rows)):
            self.model.push(obs[k], obs[k], obs[k], terminated[k], truncated[k], after[k], envs[k])

    @precondition(lambda self: self.model.known[: len(self.model)].any())
    @rule(size=st.integers(1, 50), seed=st.integers(0, 2**64 - 1))
    def sample(self, size, seed):
        batch = self.buffer.sample(size, seed)
        index = batch["indices"]
        assert (index >= 0).all() and (index < len(self.model)).all() and self.model.known[index].all()
        for key in KEYS:
            np.testing.assert_array_equal(batch[key], getattr(self.model, key)[index])

    @rule()
    def save_and_load(self):
        state = self.buffer.state_dict()
        self.buffer = self.make()
        self.buffer.load_state_dict(state)

    @invariant()
    def equal(self):
        if hasattr(self, "model"):
            self.model.check(self.buffer)
            assert self.buffer._store.n_unknown == (~self.model.known[: len(self.model)]).sum()


TestRing = Ring.TestCase
TestRing.settings = settings(
    max_examples=50,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
