import math
import warnings

import numpy as np
import pytest

from rlox.callbacks import Callback
from rlox.errors import ConfigError, WriteError
from rlox.logging import LoggerCallback, LoggerList, prefixed
from rlox.logging.base import NEVER, as_json, as_number
from rlox.logging.period import Period, check_period


class Memory(LoggerCallback):
    def __init__(self, log_interval=10, fail=()):
        self.log_interval = log_interval
        self.fail = fail
        self.calls = []

    def _note(self, *call):
        self.calls.append(call)
        if call[0] in self.fail:
            raise OSError("no space\nleft")

    def open(self, run=None):
        self._note("open", run)

    def set_total(self, total_timesteps):
        self._note("total", total_timesteps)

    def on_train_step(self, step, metrics):
        self._note("train", step)

    def on_rollout_end(self, step, metrics):
        self._note("rollout", step)

    def on_eval(self, step, metrics):
        self._note("eval", step)

    def on_event(self, step, kind, fields):
        self._note(kind, step)

    def flush(self):
        self._note("flush")

    def close(self):
        self._note("close")

    def steps(self, kind="train"):
        return [call[1] for call in self.calls if call[0] == kind]


def test_every_hook_of_the_base_does_nothing():
    logger = LoggerCallback()
    logger.open()
    logger.set_total(10)
    logger.on_train_step(1, {})
    logger.on_rollout_end(1, {})
    logger.on_eval(1, {})
    logger.on_event(1, "warning", {})
    logger.flush()
    logger.close()
    assert not isinstance(logger, Callback)


def test_intervals_fire_when_crossed_and_each_logger_has_its_own():
    often, seldom = Memory(10), Memory(25)
    loggers = LoggerList([often, seldom])
    for step in range(4, 60, 4):
        loggers.on_train_step(step, {})
    assert often.steps() == [12, 20, 32, 40, 52]
    assert seldom.steps() == [28, 52]


def test_nothing_is_due_before_next_due():
    loggers = LoggerList([Memory(10), Memory(25)])
    assert loggers.next_due == 10
    loggers.on_train_step(12, {})
    assert loggers.next_due == 20
    loggers.on_train_step(24, {})
    assert loggers.next_due == 25
    assert LoggerList().next_due == NEVER


def test_skipping_calls_before_next_due_changes_nothing():
    every, skipping = Memory(7), Memory(7)
    full, sparse = LoggerList(every), LoggerList(skipping)
    for step in range(3, 100, 3):
        full.on_train_step(step, {})
        if step >= sparse.next_due:
            sparse.on_train_step(step, {})
    assert every.steps() == skipping.steps() != []


def test_a_step_count_that_starts_again_is_followed():
    logger = Memory(10)
    loggers = LoggerList(logger)
    for step in (10, 20, 30, 1, 2, 10, 11, 20):
        loggers.on_train_step(step, {})
    assert logger.steps() == [10, 20, 30, 10, 20]


def test_rollouts_are_passed_on_once_per_interval():
    logger = Memory(10)
    loggers = LoggerList(logger)
    for step in range(1, 26):
        loggers.on_rollout_end(step, {})
    assert logger.steps("rollout") == [10, 20]


def test_a_logger_that_wants_no_rollouts_gets_none():
    class Rows(Memory):
        wants_rollouts = False

    rows, other = Rows(10), Memory(10)
    loggers = LoggerList([rows, other])
    for step in range(1, 26):
        loggers.on_rollout_end(step, {})
    assert rows.steps("rollout") == [] and other.steps("rollout") == [10, 20]


def test_everything_else_goes_to_all_loggers():
    a, b = Memory(), Memory()
    loggers = LoggerList([a, b])
    loggers.open("run")
    loggers.set_total(50)
    loggers.on_eval(3, {})
    loggers.on_event(4, "checkpoint", {})
    loggers.flush()
    loggers.close()
    expected = [("open", "run"), ("total", 50), ("eval", 3), ("checkpoint", 4), ("flush",), ("close",)]
    assert a.calls == b.calls == expected
    assert list(loggers) == [a, b] and len(loggers) == 2


@pytest.mark.parametrize("hook", ["open", "train", "rollout", "eval", "flush", "total", "warning"])
def test_a_failing_logger_is_closed_and_switched_off_with_one_warning(hook):
    bad, good = Memory(1, fail=(hook, "close")), Memory(1)
    loggers = LoggerList([bad, good])

    def drive():
        loggers.open()
        loggers.set_total(5)
        loggers.on_train_step(loggers.next_due, {})
        loggers.on_rollout_end(loggers.next_due, {})
        loggers.on_eval(1, {})
        loggers.on_event(1, "warning", {})
        loggers.flush()

    with pytest.warns(RuntimeWarning, match=r"Memory is switched off, it raised OSError: no space\\nleft") as caught:
        drive()
    assert len(caught) == 1
    assert [call[0] for call in bad.calls[-2:]] == [hook, "close"]
    silent = len(bad.calls)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drive()
    assert len(bad.calls) == silent
    assert loggers.active == [good]
    assert len(good.calls) == 14


def test_a_refusal_of_our_own_at_open_is_raised_and_closes_the_others():
    class Refusing(LoggerCallback):
        def open(self, run=None):
            raise WriteError("cannot write metrics.jsonl: Permission denied")

    first = Memory()
    with pytest.raises(WriteError, match="Permission denied"):
        LoggerList([first, Refusing()]).open()
    assert [call[0] for call in first.calls] == ["open", "close"]


@pytest.mark.parametrize("bad", [Callback(), 3, "console", LoggerCallback, [None]])
def test_what_is_no_logger_is_refused(bad):
    with pytest.raises(ConfigError, match="must be a LoggerCallback"):
        LoggerList(bad)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "often"])
def test_an_interval_below_one_is_refused(bad):
    with pytest.raises(ConfigError, match="log_interval is"):
        LoggerList(Memory(bad))


def test_a_saved_state_goes_on_with_the_same_marks():
    logger = Memory(10)
    loggers = LoggerList(logger)
    loggers.on_train_step(14, {})
    again = Memory(10)
    resumed = LoggerList(again)
    resumed.load_state_dict(loggers.state_dict())
    for step in (15, 19, 20, 21):
        resumed.on_train_step(step, {})
    assert again.steps() == [20]


def test_names_get_the_prefix_of_their_category():
    names = ["critic_loss", "n_updates", "return_mean", "length_mean", "n_episodes", "steps_per_second", "time_left_s"]
    assert [prefixed(name) for name in [*names, "share_env", "eval/x"]] == [
        "train/critic_loss",
        "train/n_updates",
        "rollout/return_mean",
        "rollout/length_mean",
        "rollout/n_episodes",
        "time/steps_per_second",
        "time/time_left_s",
        "time/share_env",
        "eval/x",
    ]
    assert prefixed("return_mean", "eval") == "eval/return_mean"


def test_values_that_are_no_numbers_are_tolerated():
    assert as_number("3.5") is None and as_number(None) is None and as_number(np.zeros(3)) is None
    assert as_number(np.float32(2.5)) == 2.5 and as_number(True) == 1.0 and as_number(10**400) is None
    assert as_json(3) == 3 and as_json(True) is True and as_json("a\nb") == "a\\nb" and as_json(None) is None
    assert as_json(math.nan) is None and as_json(-math.inf) is None and as_json(np.int64(4)) == 4.0
    assert as_json([1, 2]) == "[1, 2]"


def test_a_period_of_zero_never_fires():
    period = Period(0)
    assert not any(period.crossed(step) for step in range(5))


def test_periods_are_checked():
    assert check_period(np.int64(3), "eval_freq") == 3
    with pytest.raises(ConfigError, match="eval_freq is -1, must be at least 0"):
        check_period(-1, "eval_freq")


def test_finish_gives_the_last_row_once_to_loggers_that_have_not_had_it():
    rows = {"a": [], "b": []}

    class Keeps(LoggerCallback):
        def __init__(self, name, log_interval):
            self.name, self.log_interval = name, log_interval

        def on_train_step(self, step, metrics):
            rows[self.name].append(step)

    loggers = LoggerList([Keeps("a", 10), Keeps("b", 100)])
    loggers.on_train_step(10, {})
    loggers.finish(10, {})
    assert rows == {"a": [10], "b": [10]}
