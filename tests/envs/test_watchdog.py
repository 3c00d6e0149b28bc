"""Environments that hang in this process: noticed, named, and nobody else's alarm touched."""

import signal
import sys
import threading

import pytest
from probes import Probe, vector

from rlox import SAC
from rlox.envs import EnvFailure
from rlox.envs.watchdog import _Watch, no_hanging

TINY = dict(net_arch=[4], batch_size=4, buffer_size=200, learning_starts=100)


class Hangs(Probe):
    """Never returns from its fourth step, or from a reset, whatever is raised that is an Exception."""

    n_resets = 0

    def __init__(self, where="step"):
        self.where = where

    def reset(self, *, seed=None, options=None):
        self.n_resets += 1
        if self.where == "reset" and self.n_resets == 2:
            self.hang()
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.t += 1
        if self.where == "step" and self.t == 4:
            self.hang()
        return vector(0.0), 0.0, self.where == "reset" and self.t == 2, False, {}

    def hang(self):
        while True:
            try:
                threading.Event().wait()
            except Exception:  # what a careless environment does
                continue


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("step", r"environment 0, episode 0, step 3: step gave no answer within 0\.2 s"),
        ("reset", r"environment 0, episode 1, step 0: reset gave no answer within 0\.2 s"),
    ],
)
def test_an_environment_that_hangs_in_this_process_is_ended_and_named(where, said):
    algo = SAC(lambda: Hangs(where), env_timeout=0.2, **TINY)
    with pytest.raises(EnvFailure, match=said) as caught:
        algo.train(50)
    assert (caught.value.env, caught.value.exit_code) == (0, 7) and "--env-timeout" in caught.value.hint
    assert algo.reason == "failed" and algo.torn is False
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def ticks_inside(env, n):
    """Tick so often inside one step of an environment."""
    watch = _Watch(1.0)

    def step(action):
        for _ in range(n):
            watch.tick(signal.SIGALRM, sys._getframe())
        return vector(0.0), 0.0, False, False, {}

    env.step = step
    algo = SAC(lambda: env, **TINY)
    algo.train(3)


def test_a_step_has_its_whole_time_and_the_next_one_too():
    ticks_inside(Probe(), 4)
    with pytest.raises(EnvFailure, match="step 0: step gave no answer within 1 s"):
        ticks_inside(Probe(), 5)


def test_time_outside_of_environments_and_in_a_debugger_does_not_count():
    watch = _Watch(1.0)
    for _ in range(20):
        watch.tick(signal.SIGALRM, sys._getframe())
    before = sys.gettrace()
    sys.settrace(lambda *args: None)
    try:
        ticks_inside(Probe(), 20)
    finally:
        sys.settrace(before)


def test_somebody_elses_alarm_is_left_alone():
    mine = lambda number, frame: None  # noqa: E731
    before = signal.signal(signal.SIGALRM, mine)
    try:
        with no_hanging(1.0):
            assert signal.getsignal(signal.SIGALRM) is mine
            assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        signal.signal(signal.SIGALRM, before)
    with no_hanging(100.0):
        inner = signal.getsignal(signal.SIGALRM)
        with no_hanging(1.0):  # the outer one serves
            assert signal.getsignal(signal.SIGALRM) is inner
        assert signal.getsignal(signal.SIGALRM) is inner
        signal.signal(signal.SIGALRM, mine)
    assert signal.getsignal(signal.SIGALRM) is mine
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, 0)


def test_outside_the_main_thread_there_is_no_watch():
    seen = []

    def look():
        with no_hanging(1.0):
            seen.append(signal.getsignal(signal.SIGALRM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
