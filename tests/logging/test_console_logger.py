import errno
import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from rich.console import Console

from rlox.errors import ConfigError
from rlox.logging import ConsoleLogger, LoggerList, console, panel
from rlox.logging.terminal import make_console, say, write_line

METRICS = {
    "critic_loss": 0.1234,
    "actor_loss": 34.25,
    "n_updates": 9000,
    "phase": "online",
    "return_mean": -157.23,
    "length_mean": 200.0,
    "n_episodes": 50,
    "steps_per_second": 212.3,
    "time_elapsed_s": 47.2,
    "time_left_s": 46.6,
    "share_env": 0.25,
    "share_update": 0.75,
}


class Stream(io.StringIO):
    def __init__(self, encoding="utf-8"):
        super().__init__(newline="")
        self._encoding = encoding

    encoding = property(lambda self: self._encoding)


class Run:
    def __init__(self, path):
        self.path = Path(path)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(console, "MIN_REFRESH_S", 0.0)


def terminal(width=80, encoding="utf-8", color=None):
    """Return a console that takes itself for a terminal, on a stream that is kept."""
    return Console(
        file=Stream(encoding), width=width, height=40, force_terminal=True, color_system=color, legacy_windows=False
    )


def pipe():
    return Console(file=Stream(), force_terminal=False)


def snapshot(**changes):
    figures = {
        "title": "sac · Pendulum-v1",
        "step": 10000,
        "total": 20000,
        "per_second": 212.3,
        "elapsed_s": 47.0,
        "left_s": 46.6,
        "return_mean": -157.23,
        "length_mean": 200.0,
        "n_episodes": 50,
        "history": (-1200.0, -900.0, -400.0, -157.0),
        "eval_step": 10000,
        "eval_mean": -143.9,
        "eval_std": 12.31,
        "best": -143.9,
        "saved": "step_000010000.pt",
        "losses": {"critic_loss": 0.1234, "actor_loss": 34.25},
        "shares": {"env": 0.25, "update": 0.5, "eval": 0.249, "log": 0.001},
    }
    return panel.Snapshot(**{**figures, **changes})


def rendered(shot, width=80, ascii_only=False, color=False):
    out = terminal(width)
    out.print(panel.render(shot, width, ascii_only=ascii_only, color=color))
    return out.file.getvalue()


def test_constructor_arguments_are_attributes():
    out = pipe()
    logger = ConsoleLogger(7, console=out)
    assert (logger.log_interval, logger.console) == (7, out)
    assert ConsoleLogger().log_interval == 1000
    with pytest.raises(ConfigError, match="log_interval is 0"):
        ConsoleLogger(0)


def test_speed_and_time_left_wait_for_updates_and_forget_the_steps_before_them(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console, "monotonic", lambda: now[0])
    out = pipe()
    logger = ConsoleLogger(console=out)
    logger.set_total(4000)
    logger.open()
    # 1000 steps in a second without updates, then 100 steps a second
    for step, n_updates, now[0] in ((1000, 0, 1.0), (2000, 1000, 11.0), (3000, 2000, 21.0)):
        figures = {"n_updates": n_updates, "steps_per_second": step / now[0], "time_left_s": (4000 - step) * now[0] / step}
        logger.on_train_step(step, figures)
    logger.close()
    assert out.file.getvalue().splitlines() == ["step=1000/4000", "step=2000/4000", "step=3000/4000 sps=100 eta=10s"]


def test_the_panel_as_text():
    assert rendered(snapshot()) == textwrap.dedent("""\
        ╭─ sac · Pendulum-v1 ──────────────────────────────────────────────────────────╮
        │ ━━━━━━━━━━━━━━━━━━━━━━━━━━───────────────────────────  10,000 / 20,000   50% │
        │ 212 steps/s · 47s elapsed · 47s left                                         │
        │                                                                              │
        │ return   -157.2    ▁▃▆█  50 episodes, length 200                             │
        │ eval     -143.9 ± 12.31  at 10,000  best -143.9                              │
        │ train    critic_loss 0.1234  actor_loss 34.25                                │
        │ time     █████████████████▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓ │
        │          █ env 25%  ▒ update 50%  ▓ eval 25%                                 │
        │ saved    step_000010000.pt                                                   │
        ╰──────────────────────────────────────────────────────────────────────────────╯
        """)


def test_the_panel_in_ascii():
    text = rendered(snapshot(), ascii_only=True)
    assert text.isascii()
    assert text == textwrap.dedent("""\
        +- sac - Pendulum-v1 ----------------------------------------------------------+
        | ##########################---------------------------  10,000 / 20,000   50% |
        | 212 steps/s | 47s elapsed | 47s left                                         |
        |                                                                              |
        | return   -157.2    _-*#  50 episodes, length 200                             |
        | eval     -143.9 +- 12.31  at 10,000  best -143.9                             |
        | train    critic_loss 0.1234  actor_loss 34.25                                |
        | time     eeeeeeeeeeeeeeeeeuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuEEEEEEEEEEEEEEEEE |
        |          e env 25%  u update 50%  E eval 25%                                 |
        | saved    step_000010000.pt                                                   |
        +------------------------------------------------------------------------------+
        """)


def test_a_narrow_terminal_gets_stacked_lines():
    assert rendered(snapshot(), width=40) == textwrap.dedent("""\
        step            10000/20000
        steps/s         212
        elapsed         47s
        left            47s
        return          -157.2
        eval            -143.9 at 10000
        best            -143.9
        critic_loss     0.1234
        actor_loss      34.25
        time env        25%
        time update     50%
        time eval       25%
        """)


@pytest.mark.parametrize("width", [60, 61, 80, 133, 200])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_every_line_of_the_panel_has_the_width_of_the_terminal(width, ascii_only):
    shot = snapshot(
        losses={f"loss_number_{i}": -1.2345e-7 * i for i in range(30)},
        title="an algorithm · " + "x" * 300,
        saved="y" * 300,
        step=10**12,
        total=10**12,
        return_mean=-1e30,
    )
    assert {len(line) for line in rendered(shot, width, ascii_only).splitlines()} == {width}


@pytest.mark.parametrize("width", [0, 1, 5, 20, 59])
def test_no_width_breaks_the_stacked_lines(width):
    assert rendered(snapshot(), max(width, 1)).count("\n") == 12


def test_figures_that_are_not_there_are_left_out():
    lines = rendered(panel.Snapshot(step=5)).splitlines()
    assert [line.strip("│ ") for line in lines[1:-1]] == ["5 steps", "", ""]
    assert panel.plain_train(panel.Snapshot(step=5)) == "step=5"


def test_an_end_that_was_passed_or_is_zero_is_full():
    assert "100%" in rendered(snapshot(step=30000)) and "─  30" not in rendered(snapshot(step=30000))
    assert "100%" in rendered(snapshot(step=0, total=0))


def test_a_part_is_not_called_whole():
    assert " 99%" in rendered(snapshot(step=19999))


def test_colours_tell_phases_apart_where_there_are_any():
    out = terminal(color="truecolor")
    out.print(panel.render(snapshot(), 80, ascii_only=False, color=True))
    assert "\x1b[35m█" in out.file.getvalue() and "▒" not in out.file.getvalue()


def test_plain_lines_are_those_of_the_contract():
    assert panel.plain_train(snapshot()) == "step=10000/20000 sps=212 return=-157.2 eta=47s"
    assert panel.plain_eval(snapshot()) == "step=10000 eval_return=-143.9 eval_std=12.31 best=-143.9"


def test_offline_plain_lines_show_losses():
    assert panel.plain_train(snapshot(return_mean=None)) == (
        "step=10000/20000 sps=212 critic_loss=0.1234 actor_loss=34.25 eta=47s"
    )


def test_shares_are_given_out_to_the_last_cell():
    assert panel._apportion([1 / 3, 1 / 3, 1 / 3], 10) == [4, 3, 3]
    assert panel._apportion([0.0, 0.0], 10) == [0, 0] and panel._apportion([], 10) == []


def test_numbers_times_and_small_bars():
    assert [panel.number(x) for x in (float("nan"), float("-inf"), 99.996, 0, 123456.78)] == [
        "nan",
        "-inf",
        "100",
        "0",
        "123456.8",
    ]
    assert [panel.duration(x) for x in (59.6, float("inf"), 3599.7)] == ["1m00s", "-", "1h00m"]
    assert panel.sparkline([1.0]) == "" and panel.sparkline([2.0, 2.0]) == "▁▁"
    assert panel.sparkline([float("nan"), 0.0, 1.0]) == "▁█"
    assert panel.rate(3.456) == "3.5"


def test_a_pipe_gets_one_plain_line_per_interval():
    logger = ConsoleLogger(100, console=pipe())
    loggers = LoggerList(logger)
    loggers.set_total(400)
    loggers.open()
    for step in range(50, 401, 50):
        loggers.on_train_step(step, METRICS)
    loggers.on_eval(400, {"return_mean": -100.0, "return_std": 5.0})
    loggers.on_event(400, "checkpoint", {"path": "a/step.pt"})
    loggers.on_event(400, "warning", {"message": "odd\nthing"})
    loggers.close()
    assert not logger.is_live
    assert logger.console.file.getvalue().splitlines() == [
        "step=100/400 sps=212 return=-157.2 eta=47s",
        "step=200/400 sps=212 return=-157.2 eta=47s",
        "step=300/400 sps=212 return=-157.2 eta=47s",
        "step=400/400 sps=212 return=-157.2 eta=47s",
        "step=400 eval_return=-100.0 eval_std=5 best=-100.0",
        "step=400 saved=a/step.pt",
        "step=400 warning: odd\\nthing",
    ]


def test_a_checkpoint_inside_the_working_folder_is_shown_from_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = ConsoleLogger(console=pipe())
    logger.on_event(4, "checkpoint", {"path": str(tmp_path / "runs" / "a.pt")})
    logger.on_event(5, "checkpoint", {"path": "/elsewhere/b.pt"})
    assert logger.console.file.getvalue().splitlines() == ["step=4 saved=runs/a.pt", "step=5 saved=/elsewhere/b.pt"]


def test_the_default_console_is_stderr(capsys):
    logger = ConsoleLogger()
    logger.on_train_step(5, {"return_mean": 1.0})
    assert capsys.readouterr() == ("", "step=5 return=1\n")


def test_speed_and_time_left_are_its_own_where_the_metrics_have_none(monkeypatch):
    now = [50.0]
    monkeypatch.setattr(console, "monotonic", lambda: now[0])
    logger = ConsoleLogger(console=pipe())
    logger.set_total(400)
    logger.open()
    for step in (100, 200):
        logger.on_train_step(step, {})
        now[0] += 5.0
    assert logger.console.file.getvalue().splitlines() == ["step=100/400", "step=200/400 sps=20 eta=10s"]


def test_a_terminal_gets_a_live_panel_that_ends_with_the_last_state():
    logger = ConsoleLogger(console=terminal())
    logger.set_total(20000)
    logger.open(Run("/x/runs/sac/Pendulum-v1/20260101-s0-abcd"))
    assert logger.is_live
    logger.on_train_step(10000, METRICS)
    logger.on_eval(20000, {"return_mean": -100.0, "return_std": 5.0})
    logger.on_event(20000, "checkpoint", {"path": "best.pt"})
    logger.close()
    text = logger.console.file.getvalue()
    final = text[text.rindex("╭") :]
    assert "sac · Pendulum-v1" in final and "20,000 / 20,000  100%" in final and "critic_loss 0.1234" in final
    assert "-100.0 ± 5" in final and "best.pt" in final and "update 75%" in final
    assert "n_updates" not in final and "phase" not in final
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert not logger.is_live


def test_a_narrow_terminal_gets_live_stacked_lines_and_a_tiny_one_plain_lines():
    narrow, tiny = ConsoleLogger(console=terminal(40)), ConsoleLogger(console=terminal(5))
    for logger in (narrow, tiny):
        logger.on_train_step(10, METRICS)
    assert narrow.is_live and "critic_loss     0.1234" in narrow.console.file.getvalue()
    assert not tiny.is_live and tiny.console.file.getvalue() == "step=10 sps=212 return=-157.2 eta=47s\n"
    narrow.close()


def test_an_encoding_other_than_utf8_gets_ascii():
    logger = ConsoleLogger(console=terminal(encoding="latin-1"))
    logger.set_total(20)
    logger.open(Run("runs/sac/Ünv-v1/x"))
    logger.on_train_step(10, METRICS)
    logger.on_eval(10, {"return_mean": 1.0, "return_std": 2.0})
    logger.on_event(10, "checkpoint", {"path": "Ün/best.pt"})
    logger.close()
    assert logger.console.file.getvalue().isascii() and "| #####" in logger.console.file.getvalue()


def test_no_color_and_a_dumb_terminal_are_respected(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    plain = ConsoleLogger(console=terminal(color="truecolor"))
    plain.on_train_step(10, METRICS)
    plain.close()
    assert "\x1b[3" not in plain.console.file.getvalue() and "█" in plain.console.file.getvalue()
    for dumb in ("dumb", ""):
        monkeypatch.setenv("TERM", dumb)
        logger = ConsoleLogger(console=terminal())
        logger.on_train_step(10, METRICS)
        assert logger.console.file.getvalue() == "step=10 sps=212 return=-157.2 eta=47s\n"


def test_what_a_program_prints_appears_above_the_panel(monkeypatch):
    logger = ConsoleLogger(console=terminal())
    stderr = Stream()
    monkeypatch.setattr(sys, "stderr", stderr)
    logger.on_train_step(10, METRICS)
    say("a word")
    logger.on_event(10, "warning", {"message": "[bold]odd"})
    logger.close()
    assert sys.stderr is stderr
    text = logger.console.file.getvalue()
    assert "a word\n" in text and "step=10 warning: [bold]odd" in text and stderr.getvalue() == ""


def test_refreshes_are_limited_and_skipped_ones_read_no_metric(monkeypatch):
    now = [50.0]
    monkeypatch.setattr(console, "monotonic", lambda: now[0])
    monkeypatch.setattr(console, "MIN_REFRESH_S", 0.2)

    class Costly(dict):
        reads = 0

        def items(self):
            type(self).reads += 1
            return super().items()

    logger = ConsoleLogger(console=terminal())
    for step in range(1, 41):  # every 10 ms
        logger.on_train_step(step, Costly(METRICS, return_mean=step))
        now[0] += 0.01
    assert Costly.reads == 2
    logger.close()
    assert Costly.reads == 3
    final = logger.console.file.getvalue().rpartition("╭")[2]
    assert "40 steps" in final and "return   40 " in final


def test_a_second_training_gets_a_new_panel_with_the_history():
    logger = ConsoleLogger(console=terminal())
    for step, mean in ((10, 1.0), (20, 2.0)):
        logger.open()
        logger.on_train_step(step, {"return_mean": mean})
        logger.close()
    assert logger.console.file.getvalue().count("\x1b[?25l") == 2
    assert "▁█" in logger.console.file.getvalue()


def test_the_best_is_the_highest_evaluation_and_never_nan():
    logger = ConsoleLogger(console=pipe())
    for value in (1.0, float("nan"), 3.0, 2.0):
        logger.on_eval(1, {"return_mean": value})
    assert logger.console.file.getvalue().splitlines()[-1] == "step=1 eval_return=2 best=3"


def test_values_that_are_no_numbers_are_tolerated():
    logger = ConsoleLogger(console=pipe())
    logger.on_train_step(1, {"return_mean": "much", "phase": "online", "n_episodes": None})
    logger.on_eval(1, {"return_mean": None})
    assert logger.console.file.getvalue().splitlines() == ["step=1", "step=1 eval_return=-"]


@pytest.mark.parametrize("make", [terminal, pipe])
def test_a_stream_that_is_closed_in_mid_run_makes_it_silent(make):
    logger = ConsoleLogger(console=make())
    logger.on_train_step(1, METRICS)
    logger.console.file.close()
    logger.on_train_step(2, METRICS)
    logger.on_eval(2, {"return_mean": 1.0})
    logger.on_event(2, "warning", {"message": "x"})
    logger.close()
    assert logger.console.quiet


def test_a_broken_stderr_is_silence_and_stdout_stays_open(monkeypatch, capsys):
    class Broken(Stream):
        def isatty(self):
            return True

        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Broken())
    assert make_console().is_terminal
    logger = ConsoleLogger()
    logger.open()
    logger.on_train_step(1, METRICS)
    logger.close()
    say("nothing")
    print("still here")
    assert capsys.readouterr().out == "still here\n"


def test_no_stderr_at_all_is_silence(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    logger = ConsoleLogger()
    logger.on_train_step(1, METRICS)
    logger.close()
    say("nothing")
    assert write_line("nothing", None) is False


def test_lines_that_the_stream_cannot_encode_are_escaped():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert write_line("step=1 ± é", stream)
    assert stream.buffer.getvalue() == b"step=1 \\xb1 \\xe9\n"


def test_texts_that_an_ascii_terminal_does_not_have_are_escaped():
    buffer = io.BytesIO()
    out = Console(file=io.TextIOWrapper(buffer, encoding="ascii"), width=80, force_terminal=True, color_system=None)
    logger = ConsoleLogger(console=out)
    logger.on_train_step(1, {"verlust_ü": 1.0})
    logger.on_event(1, "checkpoint", {"path": "ö.pt"})
    logger.on_event(1, "warning", {"message": "ä"})
    logger.on_train_step(2, {})
    logger.close()
    assert not out.quiet
    assert all(text in buffer.getvalue() for text in (rb"verlust_\xfc 1", rb"\xf6.pt", rb"warning: \xe4"))


def test_a_program_that_ends_without_close_gives_the_cursor_back():
    code = """
        import sys
        from rich.console import Console
        from rlox.logging import ConsoleLogger
        logger = ConsoleLogger(console=Console(file=sys.stdout, force_terminal=True, width=80))
        logger.on_train_step(1, {"return_mean": 1.0})
        raise ValueError("the user's own")
    """
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.stdout.rindex("\x1b[?25h") > done.stdout.rindex("\x1b[?25l")
    assert "the user's own" in done.stderr + done.stdout
