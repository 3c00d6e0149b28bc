"""Exact resume from a script: what goes on from a saved state does what the uninterrupted training would have done."""

from __future__ import annotations

import os
import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch
from resume_envs import OwnActor, RandomLengths
from run_digest import differing, generation_state

from rlox import OfflineDatasetBuffer, ReplayBuffer
from rlox.callbacks import Callback, CheckpointCallback, EarlyStoppingCallback, EvalCallback
from rlox.checkpoint import read_manifest
from rlox.checkpoint.generation import Generations
from rlox.errors import CheckpointError, CheckpointMismatchError, EnvError
from rlox.logging import JSONLLogger
from rlox.offline.base import OfflineAlgorithm
from rlox.registry import algorithm_names, get_algorithm

TINY = dict(net_arch=[8], batch_size=8, buffer_size=90, learning_starts=20)
N = 70


def data(seed=0, n=300):
    draw = np.random.default_rng(seed)
    return OfflineDatasetBuffer(
        draw.normal(size=(n, 3)).astype(np.float32),
        draw.normal(size=(n, 3)).astype(np.float32),
        draw.uniform(-1, 1, size=(n, 1)).astype(np.float32),
        draw.normal(size=n).astype(np.float32),
        np.zeros(n, bool),
        np.arange(n) % 20 == 19,
    )


def make(name, **kwargs):
    """Return a tiny algorithm of any registered kind."""
    spec = get_algorithm(name)
    cls = spec.load_class()
    if spec.kind == "offline":
        kwargs = {"batch_size": 8, "net_arch": [8], **kwargs}
        return cls(data(), **kwargs)
    return cls(kwargs.pop("env", "Pendulum-v1"), **{**TINY, **kwargs})


def load(name, path, **kwargs):
    spec = get_algorithm(name)
    parts = {"dataset": data()} if spec.kind == "offline" else {}
    return spec.load_class().from_checkpoint(path, **parts, **kwargs)


def whole_state(algo, tmp_path, label):
    """Return all that a generation holds of an algorithm."""
    algo.save(tmp_path / f"{label}.pt", resume=True)
    return generation_state(Generations(tmp_path / f"{label}.resume").newest())


def assert_same(a, b, tmp_path):
    one, other = whole_state(a, tmp_path, "one"), whole_state(b, tmp_path, "other")
    assert one["state"].pop("total_steps") and other["state"].pop("total_steps")
    assert differing(one, other) == []


@pytest.mark.parametrize("name", algorithm_names())
def test_twice_n_steps_are_n_steps_saved_and_n_more(name, tmp_path):
    whole, first = make(name), make(name)
    whole.train(N)
    whole.train(N)
    first.train(N)
    first.save(tmp_path / "half.pt", resume=True)
    assert read_manifest(tmp_path / "half.pt")["exact_resume"] == {"exact": True, "why": []}
    first.train(5)  # what the first one does afterwards is nobody's affair
    second = load(name, tmp_path / "half.pt")
    assert second.step == N
    second.train(N)
    assert_same(whole, second, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        dict(n_envs=3),
        dict(train_freq=4, gradient_steps=3),
        dict(normalize_obs=True, env=RandomLengths, n_envs=2),
        dict(dropout=0.2),
        dict(env=RandomLengths),
        dict(learning_starts=100),
    ],
)
def test_settings_that_keep_a_state_of_their_own(options, tmp_path):
    whole, first = make("sac", **options), make("sac", **options)
    whole.train(2 * N)
    first.train(N)
    first.save(tmp_path / "half.pt", resume=True)
    second = load("sac", tmp_path / "half.pt", env=options.get("env"))
    second.train(2 * N - second.step)
    assert second.exact == []
    assert_same(whole, second, tmp_path)


def test_an_actor_that_draws_from_the_global_generator(tmp_path):
    def actor():
        torch.manual_seed(1)
        return OwnActor()

    whole, first = make("sac", actor=actor()), make("sac", actor=actor())
    whole.train(2 * N)
    first.train(N)
    first.save(tmp_path / "half.pt", resume=True)
    torch.manual_seed(99)
    second = load("sac", tmp_path / "half.pt", actor=OwnActor())
    torch.rand(3)
    second.train(N)
    assert_same(whole, second, tmp_path)


class Wave:
    """Exploration with a state."""

    def __init__(self):
        self.t = 0

    def select_action(self, action, step, total_steps):
        self.t += 1
        return action + 0.3 * np.sin(self.t)

    def reset(self):
        self.t = 0

    def state_dict(self):
        return {"t": self.t}

    def load_state_dict(self, state):
        self.t = state["t"]


class ListBuffer:
    """A buffer of the user's own, with or without a state."""

    def __init__(self):
        self.rows = []

    def push(self, *row):
        self.rows.append([np.array(value, np.float32) for value in row])

    def sample(self, batch_size, seed):
        chosen = np.random.default_rng(seed).integers(len(self.rows), size=batch_size)
        names = ("obs", "actions", "rewards", "terminated", "truncated", "next_obs")
        return {name: np.stack([self.rows[i][k] for i in chosen]) for k, name in enumerate(names)}

    def __len__(self):
        return len(self.rows)


class StatefulListBuffer(ListBuffer):
    def state_dict(self):
        return {"rows": self.rows}

    def load_state_dict(self, state):
        assert all(isinstance(value, np.ndarray) for row in state["rows"] for value in row)
        self.rows = state["rows"]


@pytest.mark.parametrize(("name", "part"), [("exploration", Wave), ("buffer", StatefulListBuffer)])
def test_a_part_of_the_users_own_is_saved_by_its_state(name, part, tmp_path):
    whole, first = make("sac", **{name: part()}), make("sac", **{name: part()})
    whole.train(2 * N)
    first.train(N)
    first.save(tmp_path / "half.pt", resume=True)
    second = load("sac", tmp_path / "half.pt", **{name: part()})
    second.train(N)
    assert_same(whole, second, tmp_path)


def test_a_buffer_without_a_state_is_said_not_to_be_exact(tmp_path):
    algo = make("sac", buffer=ListBuffer())
    algo.train(N)
    algo.save(tmp_path / "half.pt", resume=True)
    assert read_manifest(tmp_path / "half.pt")["exact_resume"]["why"] == ["the buffer has no state_dict"]
    exact = pytest.warns(UserWarning, match="exact_resume: no: the buffer has no state_dict")
    with exact, pytest.warns(UserWarning, match="empty replay buffer"):
        load("sac", tmp_path / "half.pt", buffer=ListBuffer()).train(N)


def test_a_ring_given_by_the_user_is_saved_in_blocks(tmp_path):
    algo = make("sac", buffer=ReplayBuffer(200, 3, 1))
    algo.train(N)
    algo.save(tmp_path / "half.pt", resume=True)
    assert list((tmp_path / "half.resume").glob("*rows*"))
    second = load("sac", tmp_path / "half.pt", buffer=ReplayBuffer(200, 3, 1))
    assert len(second.buffer) == N


def test_the_bytes_of_a_save_grow_with_the_rows_that_came_and_not_with_the_ring(tmp_path):
    algo = make("sac", buffer_size=1_000_000, learning_starts=10**6)
    draw = np.random.default_rng(0)
    n = 300_000

    def push(k):
        obs = draw.normal(size=(k + 1, 3)).astype(np.float32)
        algo.buffer.push_many(obs[:-1], np.zeros((k, 1)), np.zeros(k), np.zeros(k), np.zeros(k), obs[1:])

    def written():
        algo.save(tmp_path / "a.pt", resume=True)
        newest = Generations(tmp_path / "a.resume").newest()
        return sum(p.size for p in newest.parts.values() if f"{newest.number:09d}" in p.file)

    push(n)
    first = written()
    push(1000)
    second = written()
    assert first > 6_000_000
    assert second < 300_000


def test_a_folder_that_was_deleted_in_mid_run_is_written_whole_again(tmp_path):
    algo = make("sac")
    algo.train(N)
    algo.save(tmp_path / "a.pt", resume=True)
    shutil.rmtree(tmp_path / "a.resume")
    algo.train(5)
    algo.save(tmp_path / "a.pt", resume=True)
    second = load("sac", tmp_path / "a.pt")
    assert len(second.buffer) == N + 5
    algo.train(N)
    second.train(N)
    assert_same(algo, second, tmp_path)


class Moody(gym.Env):
    """Draws from where no seed reaches, so that no replay gives the same."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return self._obs(), {}

    def step(self, action):
        return self._obs(), 0.0, False, False, {}

    def _obs(self):
        return (np.frombuffer(os.urandom(6), np.uint16).astype(np.float32) / 65536).clip(-1, 1)


def test_an_environment_that_cannot_be_rebuilt_is_said(tmp_path):
    algo = make("sac", env=Moody)
    algo.train(N)
    algo.save(tmp_path / "half.pt", resume=True)
    second = load("sac", tmp_path / "half.pt", env=Moody)
    with pytest.warns(UserWarning, match="exact_resume: no: environment 0 starts a new episode"):
        second.train(N)
    second.save(tmp_path / "more.pt", resume=True)
    assert read_manifest(tmp_path / "more.pt")["exact_resume"]["exact"] is False


class Failing(gym.Env):
    """Fails once, in step 50 of its life, where a file tells it to."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, fails):
        self.fails, self.n = fails, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action):
        self.n += 1
        if self.n == 50 and self.fails:
            raise OSError("the simulator is gone")
        return self._obs(), float(action[0]), False, False, {}

    def _obs(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_step_that_an_environment_failed_in_is_made_again(n_envs, tmp_path):
    whole = make("sac", env=lambda: Failing(False), n_envs=n_envs)
    whole.train(2 * N)
    broken = make("sac", env=lambda: Failing(True), n_envs=n_envs,
                  callbacks=CheckpointCallback(0, tmp_path / "run", verbose=False, resume=True))  # fmt: skip
    with pytest.raises(EnvError, match="the simulator is gone"):
        broken.train(2 * N)
    second = load("sac", tmp_path / "run" / "last.pt", env=lambda: Failing(False))
    assert second.step == 49 * n_envs
    second.train(2 * N - second.step)
    assert_same(whole, second, tmp_path)


def test_a_save_in_the_middle_of_a_step_says_so(tmp_path):
    class Eager(Callback):
        def on_step(self, *, algo, step, **kwargs):
            if step == 50:
                algo.save(tmp_path / "eager.pt", resume=True)

    make("sac", callbacks=Eager()).train(N)
    why = read_manifest(tmp_path / "eager.pt")["exact_resume"]["why"]
    assert why == ["it was saved by a callback in the middle of a step"]


def test_a_model_alone_has_nothing_to_go_on_from(tmp_path):
    algo = make("sac")
    algo.train(N)
    algo.save(tmp_path / "model.pt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt"]
    with pytest.warns(UserWarning, match="empty replay buffer"):
        load("sac", tmp_path / "model.pt").train(30)


def test_an_offline_model_alone_loses_callbacks_and_loggers_only(tmp_path):
    whole, first = make("bc"), make("bc")
    whole.train(2 * N)
    first.train(N)
    first.save(tmp_path / "model.pt")
    watched = load("bc", tmp_path / "model.pt", logger=JSONLLogger(tmp_path / "metrics.jsonl"))
    with pytest.warns(UserWarning, match="the model was saved alone, callbacks and loggers start afresh"):
        watched.train(N)
    plain = load("bc", tmp_path / "model.pt")
    plain.train(N)  # nothing is lost, and nothing is said
    for second in (watched, plain):
        assert differing(whole.state_dict(), second.state_dict()) == []


def test_numbers_of_another_type_are_refused(tmp_path):
    from rlox import checkpoint

    algo = make("sac")
    algo.save(tmp_path / "a.pt")
    state, manifest = checkpoint.load(tmp_path / "a.pt")
    name = next(iter(state["learner"]["actor"]))
    state["learner"]["actor"][name] = state["learner"]["actor"][name].double()
    checkpoint.save(tmp_path / "b.pt", state, manifest)
    with pytest.raises(CheckpointError, match=f"actor.{name} has dtype torch.float64, must be torch.float32"):
        load("sac", tmp_path / "b.pt")


def test_a_state_belongs_to_its_model_only(tmp_path):
    algo = make("sac")
    for step in (30, 30, 30):
        algo.train(step)
        algo.save(tmp_path / "a.pt", resume=True)
        (tmp_path / f"step{algo.step}.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    assert len(load("sac", tmp_path / "a.pt").buffer) == 90
    older = tmp_path / "a.pt"
    older.write_bytes((tmp_path / "step60.pt").read_bytes())
    assert load("sac", older).step == 60 and len(load("sac", older).buffer) == 60
    older.write_bytes((tmp_path / "step30.pt").read_bytes())
    assert len(load("sac", older).buffer) == 0


def test_callbacks_and_loggers_go_on(tmp_path):
    def watchers(folder):
        return dict(
            callbacks=[
                EvalCallback(eval_freq=60, n_eval_episodes=1, verbose=False, best_model_path=folder / "best.pt"),
                EarlyStoppingCallback(patience=50),
                CheckpointCallback(30, folder, verbose=False, resume=True),
            ],
            logger=JSONLLogger(folder / "metrics.jsonl", log_interval=25),
        )

    from run_digest import digest

    whole = make("sac", **watchers(tmp_path / "whole"))
    whole.train(2 * N)

    class Stop(Callback):
        def on_step(self, *, step, **kwargs):
            if step == 77:
                raise KeyboardInterrupt

    given = watchers(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        make("sac", callbacks=[*given["callbacks"], Stop()], logger=given["logger"]).train(2 * N)
    second = load("sac", tmp_path / "cut" / "last.pt", **watchers(tmp_path / "cut"))
    assert second.step == 60
    second.train(2 * N - second.step)
    assert second.callbacks.callbacks[0].eval_results == whole.callbacks.callbacks[0].eval_results
    digests = {digest(tmp_path / n / "last.resume", tmp_path / n / "metrics.jsonl") for n in ("whole", "cut")}
    assert len(digests) == 1


class OwnOffline(OfflineAlgorithm):
    """A user's algorithm that says nothing about saving."""

    def __init__(self, dataset, **kwargs):
        super().__init__(dataset, **kwargs)
        self.actor = torch.nn.Sequential(torch.nn.Linear(self.obs_dim, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, self.act_dim))
        self.optimizer = torch.optim.Adam(self.actor.parameters(), lr=1e-2)

    def _update(self, batch):
        noise = torch.randn(batch["actions"].shape, generator=self.generator)
        loss = (self.actor(batch["obs"]) - batch["actions"] + 0.1 * noise).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss}


def test_an_offline_algorithm_of_the_users_own_goes_on(tmp_path):
    whole, first = OwnOffline(data(), batch_size=8), OwnOffline(data(), batch_size=8)
    whole.train(2 * N)
    first.train(N)
    first.save(tmp_path / "half.pt", resume=True)
    second = OwnOffline.from_checkpoint(tmp_path / "half.pt", dataset=data())
    second.train(N)
    assert_same(whole, second, tmp_path)


class Everything(OfflineAlgorithm):
    """Keeps its state in all the ways that a user may think of."""

    def __init__(self, dataset, **kwargs):
        self.beta = 1.0
        super().__init__(dataset, **kwargs)
        self.heads = [torch.nn.Linear(self.obs_dim, self.act_dim) for _ in range(2)]
        self.by_name = {"extra": torch.nn.Linear(self.obs_dim, self.act_dim)}
        self.log_scale = torch.nn.Parameter(torch.zeros(()))
        self.ema = torch.zeros(())
        self.count = np.zeros(2)
        heads = [*self.heads, *self.by_name.values()]
        self.optimizer = torch.optim.Adam([self.log_scale, *(p for h in heads for p in h.parameters())], lr=1e-2)

    def _update(self, batch):
        self.beta *= 0.99
        outputs = [h(batch["obs"]) for h in (*self.heads, *self.by_name.values())]
        loss = sum((o * self.log_scale.exp() - batch["actions"]).square().mean() for o in outputs) * self.beta
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.ema = 0.9 * self.ema + 0.1 * loss.detach()
        self.count[1] += self.ema.item()
        return {"loss": loss}


def test_an_offline_algorithm_may_keep_its_state_in_numbers_arrays_and_lists(tmp_path):
    whole, first = Everything(data(), batch_size=8), Everything(data(), batch_size=8)
    whole.train(2 * N)
    first.train(N)
    first.save(tmp_path / "half.pt", resume=True)
    second = Everything.from_checkpoint(tmp_path / "half.pt", dataset=data())
    second.train(N)
    assert second.beta == whole.beta and second.ema == whole.ema and (second.count == whole.count).all()
    assert second.log_scale.item() == whole.log_scale.item() != 0
    assert_same(whole, second, tmp_path)


def test_an_evaluation_that_fails_leaves_the_state_before_its_step(tmp_path):
    class Fragile(gym.Wrapper):
        def step(self, action):
            raise OSError("the display is gone")

    watchers = [CheckpointCallback(20, tmp_path, verbose=False, resume=True)]
    algo = make("sac", callbacks=[EvalCallback(lambda: Fragile(gym.make("Pendulum-v1")), 50, 1, verbose=False), *watchers])
    with pytest.raises(EnvError, match="the display is gone"):
        algo.train(N)
    second = load("sac", tmp_path / "last.pt")
    assert second.step == 40  # not 50: the updates of that step are missing in what is there
    whole = make("sac")
    whole.train(N)
    second.train(N - 40)
    one, other = (whole_state(a, tmp_path, name) for a, name in ((whole, "w"), (second, "s")))
    assert differing(one["model"], other["model"]) == []


def test_a_callback_starts_its_periods_where_the_model_is(tmp_path):
    make("sac").save(tmp_path / "m.pt")
    algo = make("sac")
    algo.train(55)
    algo.save(tmp_path / "m.pt")
    watcher = EvalCallback(eval_freq=50, n_eval_episodes=1, verbose=False)
    alone = pytest.warns(UserWarning, match="exact_resume: no: the model was saved alone, callbacks and loggers start afresh")
    with alone, pytest.warns(UserWarning, match="empty replay buffer"):
        load("sac", tmp_path / "m.pt", callbacks=watcher).train(50)
    assert [step for step, _ in watcher.eval_results] == [100, 105]


def test_sampled_predictions_go_on_too(tmp_path):
    algo = make("sac")
    algo.train(30)
    algo.predict(np.zeros(3), deterministic=False)
    algo.save(tmp_path / "a.pt", resume=True)
    next_one = algo.predict(np.zeros(3), deterministic=False)
    assert load("sac", tmp_path / "a.pt").predict(np.zeros(3), deterministic=False) == next_one


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("envs",), "text"), (("envs", "obs"), np.zeros((1, 9), np.float32)), (("envs", "seed"), 9),
        (("actions",), "text"), (("total_steps",), float("inf")), (("callbacks",), 3), (("metrics",), [1]),
        (("explorers",), 3), (("stored",), None),
    ],
)  # fmt: skip
def test_a_state_that_makes_no_sense_is_a_bad_checkpoint(where, value, tmp_path):
    algo = make("sac")
    algo.train(30)
    state = algo.resume_state() | {"ring": None}
    inner = state
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    algo.resume_state = lambda: state
    algo._ring = lambda make=False: None
    algo.save(tmp_path / "a.pt", resume=True)
    with pytest.raises(CheckpointError, match="does not fit SAC"):
        load("sac", tmp_path / "a.pt")


def test_a_saved_list_of_other_files_is_refused(tmp_path):
    saver = CheckpointCallback(20, tmp_path, verbose=False, keep_last=1, resume=True)
    for name in ("thesis.docx", "../step_000000020.pt", "best.pt"):
        with pytest.raises(ValueError, match="must be names of checkpoints"):
            saver.load_state_dict({**saver.state_dict(), "saved": [name]})


def test_another_dataset_is_refused(tmp_path):
    algo = make("bc")
    algo.train(5)
    algo.save(tmp_path / "a.pt", resume=True)
    with pytest.raises(CheckpointMismatchError, match="sha256"):
        get_algorithm("bc").load_class().from_checkpoint(tmp_path / "a.pt", dataset=data(seed=1))
