import io
import sys

import pytest
from fake_algorithm import FakeAlgorithm

from rlox.callbacks import ProgressBarCallback, progress
from rlox.logging import ConsoleLogger


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True

    def fileno(self):
        raise OSError("not a real one")


@pytest.fixture
def terminal(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(progress, "MIN_REFRESH_S", 0.0)

    def use():  # called by the test itself: pytest sets stderr anew after the fixtures
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return use


def test_a_terminal_gets_a_bar_that_ends_full_and_gives_the_cursor_back(terminal):
    stderr = terminal()
    callback = ProgressBarCallback()
    callback.on_training_start(step=0, total_timesteps=4)
    assert callback.is_shown
    for _ in range(4):
        callback.on_step()
    callback.on_training_end()
    text = stderr.getvalue()
    assert "2 steps" in text and "4 steps" in text and "100%" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert not callback.is_shown and sys.stderr is stderr


def test_a_pipe_gets_nothing(capsys):
    FakeAlgorithm(ProgressBarCallback()).train(5)
    assert capsys.readouterr() == ("", "")


def test_beside_a_console_logger_there_is_no_second_bar(terminal):
    stderr = terminal()
    callback = ProgressBarCallback()
    FakeAlgorithm(callback, logger=ConsoleLogger()).train(5)
    assert stderr.getvalue() == ""


def test_a_dumb_terminal_gets_nothing(terminal, monkeypatch):
    stderr = terminal()
    monkeypatch.setenv("TERM", "dumb")
    callback = ProgressBarCallback()
    callback.on_training_start(total_timesteps=3)
    assert not callback.is_shown and stderr.getvalue() == ""


def test_refreshes_are_limited(terminal, monkeypatch):
    stderr = terminal()
    monkeypatch.setattr(progress, "MIN_REFRESH_S", 1e9)
    callback = ProgressBarCallback()
    callback.on_training_start(total_timesteps=5000)
    callback._drawn_at = progress.monotonic()
    before = len(stderr.getvalue())
    for _ in range(100):
        callback.on_step()
    assert len(stderr.getvalue()) == before
    callback.on_training_end()
    assert "100 steps" in stderr.getvalue()


def test_a_terminal_that_goes_away_does_not_stop_training(terminal):
    stderr = terminal()
    callback = ProgressBarCallback()
    callback.on_training_start(total_timesteps=3)
    stderr.close()
    callback.on_step()
    callback.on_step()
    callback.on_training_end()
    assert not callback.is_shown


def test_hooks_work_alone_in_any_order(terminal):
    stderr = terminal()
    callback = ProgressBarCallback()
    callback.on_step(reward=1.0)
    callback.on_training_end()
    callback.on_training_start()
    callback.on_step()
    callback.on_training_end()
    assert "1 steps" in stderr.getvalue()
