"""Worker processes: the same results as in one process, and every way in which a worker can fail."""

import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from probes import Noisy, Probe, Reach, vector

from rlox.envs import EnvFailure, EnvSource, vectorize
from rlox.errors import ConfigError, EnvError, MissingDependencyError

TESTS = Path(__file__).parents[1]


class Faulty(Probe):
    """Does what it is told to at its second step."""

    def __init__(self, fault):
        self.fault = fault

    def step(self, action):
        self.t += 1
        if self.t == 2:
            if self.fault == "raise":
                raise ZeroDivisionError("inner trouble")
            if self.fault == "nan":
                return vector(float("nan")), 0.0, False, False, {}
            if self.fault == "die":
                os._exit(3)
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault in ("hang", "stuck"):
                print("on hold", flush=True)
            if self.fault == "hang":
                select.select([], [], [])
            if self.fault == "stuck":
                ctypes.PyDLL(None).pause()  # in C, and no other thread of the process ever runs again
        return vector(0.0), float(os.getpid()), False, False, {}


class Signalled(Probe):
    """Sends itself what a terminal or a scheduler sends to a whole group."""

    def step(self, action):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        return vector(0.0), float("torch" in sys.modules), True, False, {}


CUE = 0.5  # an action that makes an environment fail, so that a test chooses which one does, and when


class OnCue(Probe):
    """Does what it is told to when it is given the cue; tells its process by its reward."""

    def __init__(self, fault):
        self.fault = fault
        self.cue = False

    def reset(self, *, seed=None, options=None):
        if self.cue:
            self.fail()
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.cue = action[0] == CUE
        if self.cue and self.fault == "in reset":
            return vector(0.0), 0.0, True, False, {}
        obs, reward = (self.fail() or (vector(0.0), 0.0)) if self.cue else (vector(0.0), float(os.getpid()))
        return obs, reward, False, False, {}

    def fail(self):
        if self.fault in ("raise", "in reset"):
            raise ZeroDivisionError("inner trouble")
        if self.fault == "hang":
            select.select([], [], [])
        if self.fault == "segfault":
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            ctypes.string_at(0)
        shape = 2 if self.fault == "shape" else 1
        return np.full(
            shape, np.nan if self.fault == "obs" else 0, np.float32
        ), np.nan if self.fault == "reward" else 0.0


class Needs(Probe):
    def __init__(self, where):
        if os.getpid() != where:
            raise ImportError("No module named 'mujoco'")


def play(envs, n_steps):
    generator = np.random.default_rng(0)
    low, high = envs.act_space.low, envs.act_space.high
    steps = [envs.reset()]
    for _ in range(n_steps):
        step = envs.step(generator.uniform(low, high, (envs.n_envs, envs.act_space.dim)).astype(np.float32))
        steps.extend(step)
    return steps


@pytest.mark.parametrize("env", [Noisy, Reach, "Pendulum-v1"])
def test_workers_give_the_results_of_one_process_bit_for_bit(env):
    source = EnvSource.of(env)
    with vectorize(source, 2, seed=3) as sync, vectorize(source, 2, seed=3, vec="async") as workers:
        for a, b in zip(play(sync, 50), play(workers, 50), strict=True):
            assert a == b if isinstance(a, list) else (a.tobytes(), a.dtype, a.shape) == (b.tobytes(), b.dtype, b.shape)


def test_state_moves_between_workers_and_one_process():
    source = EnvSource.of(Noisy)
    with vectorize(source, 2, seed=3) as sync, vectorize(source, 2, seed=3, vec="async") as workers:
        play(workers, 17)
        assert sync.load_state_dict(workers.state_dict()) == {}
        assert workers.load_state_dict(sync.state_dict()) == {}
        actions = np.zeros((2, 2), np.float32)
        for _ in range(30):
            a, b = sync.step(actions), workers.step(actions)
            assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_discrete_actions_reach_workers():
    source = EnvSource.of("CartPole-v1")
    with vectorize(source, 1, seed=3) as sync, vectorize(source, 1, seed=3, vec="async") as workers:
        sync.reset()
        workers.reset()
        for t in range(30):
            a, b = sync.step(np.array([t % 2])), workers.step(np.array([t % 2]))
            assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_factory_that_cannot_be_sent_to_a_worker_is_refused():
    with pytest.raises(ConfigError, match="cannot be sent to worker processes") as caught:
        vectorize(EnvSource.of(lambda: Noisy()), 1, seed=0, vec="async")
    assert "pass a named class or function" in caught.value.hint


def test_error_in_a_worker_comes_with_its_own_traceback():
    with pytest.raises(EnvFailure, match=r"environment [01], episode 0, step 1: step raised ZeroDivision") as caught:
        play(vectorize(EnvSource.of(Faulty, {"fault": "raise"}), 2, seed=0, vec="async"), 3)
    assert caught.value.env in (0, 1)  # both fail in this step; the first to answer is named
    assert 'raise ZeroDivisionError("inner trouble")' in caught.value.details
    assert "inner trouble" in str(caught.value.__cause__)


def test_bad_output_in_a_worker_reads_as_in_one_process():
    messages = []
    for vec in ("sync", "async"):
        with pytest.raises(EnvFailure) as caught:
            play(vectorize(EnvSource.of(Faulty, {"fault": "nan"}), 1, seed=0, vec=vec), 3)
        messages.append(caught.value.message)
    assert messages[0] == messages[1]


@pytest.mark.parametrize("vec, fault, step, words", [
    *((vec, *case) for vec in ("sync", "async") for case in [
        ("raise", 6, "step raised ZeroDivisionError: inner trouble"),
        ("in reset", 0, "reset raised ZeroDivisionError: inner trouble"),
        ("obs", 7, "observation entry 0 is nan, must be finite"),
        ("reward", 7, "reward is nan, must be finite"),
        ("shape", 7, r"observation has shape \(2,\), must be \(1,\)"),
    ]),
    ("async", "hang", 6, r"step gave no answer within 0\.5 s, its worker was killed"),
    ("async", "segfault", 6, r"its worker process died \(signal SIGSEGV\)"),
])  # fmt: skip
def test_environment_that_fails_at_any_step_is_named_with_it(vec, fault, step, words):
    envs = vectorize(EnvSource.of(OnCue, {"fault": fault}), 3, seed=0, vec=vec, timeout_s=0.5)
    envs.reset()
    pids = {int(pid) for _ in range(6) for pid in envs.step(np.zeros((3, 1))).rewards}
    episode = int(fault == "in reset")
    with pytest.raises(EnvFailure, match=f"^environment 2, episode {episode}, step {step}: {words}") as caught:
        envs.step(np.array([[0.0], [0.0], [CUE]]))
    assert (caught.value.env, caught.value.exit_code) == (2, 7)
    for pid in pids - {os.getpid()}:  # nobody is left who could hang
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("fault, how", [("die", "exit code 3"), ("kill", "signal SIGKILL")])
def test_worker_that_dies_is_named_with_its_exit(fault, how):
    envs = vectorize(EnvSource.of(Faulty, {"fault": fault}), 1, seed=0, vec="async")
    with pytest.raises(EnvFailure, match="environment 0, episode 0, step 1: its worker process died") as caught:
        play(envs, 3)
    assert how in caught.value.message and caught.value.exit_code == 7
    with pytest.raises(EnvError, match="before reset"):
        envs.step(np.zeros((1, 1)))
    with pytest.raises(EnvError, match="closed"):
        envs.reset()


def test_worker_that_hangs_is_killed():
    envs = vectorize(EnvSource.of(Faulty, {"fault": "hang"}), 1, seed=0, vec="async", timeout_s=0.5)
    pid = int(play(envs, 1)[2][0])
    with pytest.raises(EnvFailure, match=r"step 1: step gave no answer within 0\.5 s") as caught:
        envs.step(np.zeros((1, 1)))
    assert "--env-timeout" in caught.value.hint
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_environment_that_cannot_be_made_in_a_worker_keeps_its_kind_of_error():
    source = EnvSource.of(Needs, {"where": os.getpid()})
    with pytest.raises(MissingDependencyError, match="mujoco") as caught:
        vectorize(source, 1, seed=0, vec="async")
    assert caught.value.hint == "`pip install 'rlox[mujoco]'`"


def test_workers_import_no_torch_and_ignore_the_groups_signals():
    with vectorize(EnvSource.of(Signalled), 1, seed=0, vec="async") as envs:
        envs.reset()
        assert [envs.step(np.zeros((1, 1))).rewards[0] for _ in range(3)] == [0, 0, 0]


def test_signal_mask_of_the_parent_is_as_before():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    vectorize(EnvSource.of(Probe), 1, seed=0, vec="async").close()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_id_that_only_the_parent_registered_works_in_workers():
    gym.register("OnlyHere-v0", entry_point=Reach)
    try:
        with vectorize(EnvSource.of("OnlyHere-v0"), 1, seed=0, vec="async") as envs:
            assert envs.reset().shape == (1, 6)
    finally:
        gym.registry.pop("OnlyHere-v0")


PARENT = """
import sys
sys.path[:0] = [{tests!r}, {here!r}]
import numpy as np
from rlox.envs import EnvSource, vectorize
from test_workers import Faulty
if __name__ == "__main__":
    envs = vectorize(EnvSource.of(Faulty, {{"fault": {fault!r}}}), 2, seed=0, vec="async")
    envs.reset()
    pids = envs.step(np.zeros((2, 1))).rewards.tolist()
    print(*[w.pid for w in envs._workers], flush=True)
    {then}
"""


def run_parent(tmp_path, fault, then):
    """Start a script that starts two workers; return it and file descriptors that are readable once those left."""
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(PARENT).format(tests=str(TESTS), here=str(TESTS / "envs"), fault=fault, then=then)
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), *sys.path])}
    pipe = subprocess.PIPE
    command = [sys.executable, "-W", "error", script]
    parent = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environ, start_new_session=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    return parent, [os.pidfd_open(pid) for pid in pids]


def all_left(fds):
    poll, left = select.poll(), set()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    while len(left) < len(fds):
        ready = poll.poll(30_000)
        if not ready:
            for fd in set(fds) - left:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            return False
        for fd, _ in ready:
            poll.unregister(fd)
            os.close(fd)
            left.add(fd)
    return True


@pytest.mark.parametrize("fault, then", [
    ("none", "sys.stdin.read()"),
    ("hang", "envs.step(np.zeros((2, 1)))"),
    ("stuck", "envs.step(np.zeros((2, 1)))"),
])  # fmt: skip
def test_workers_leave_when_their_parent_is_killed(tmp_path, fault, then):
    parent, fds = run_parent(tmp_path, fault, then)
    if fault != "none":
        assert [parent.stdout.readline() for _ in fds] == ["on hold\n"] * 2
    parent.kill()
    parent.wait()
    assert all_left(fds)
    parent.communicate()


@pytest.mark.parametrize("then", ["pass", "raise SystemExit(0)", "del envs; sys.exit(0)"])
def test_parent_that_ends_without_close_takes_its_workers_along(tmp_path, then):
    parent, fds = run_parent(tmp_path, "none", then)
    parent.communicate()
    assert parent.returncode == 0
    assert all_left(fds)


def test_workers_outlive_the_thread_that_started_them():
    made = []
    starter = threading.Thread(target=lambda: made.append(vectorize(EnvSource.of(Noisy), 1, seed=0, vec="async")))
    starter.start()
    starter.join()
    with made[0] as envs:
        play(envs, 3)


SERVES = """
    import signal
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    print("ready", flush=True)
    sys.stdin.read()
    assert envs.step(np.zeros((2, 1))).rewards.tolist() == pids
    vectorize(EnvSource.of(Faulty, {"fault": "none"}), 1, seed=0, vec="async").close()
    envs.close()
    print("served", flush=True)
"""


def test_signals_to_the_whole_group_leave_workers_serving_until_the_parent_closes(tmp_path):
    parent, fds = run_parent(tmp_path, "none", SERVES.strip())
    assert parent.stdout.readline() == "ready\n"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        os.killpg(parent.pid, number)
    out, _ = parent.communicate()
    assert (out, parent.returncode) == ("served\n", 0)
    assert all_left(fds)
