"""The one sink: terminals, pipes, JSON."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from rlox.cli import _output
from rlox.cli._options import flag, table, typed
from rlox.cli._output import Out, to_json
from rlox.config.fields import options_of
from rlox.config.sac import SACConfig
from rlox.config.sections import EvalConfig
from rlox.errors import ConfigError

RECORD = {"path": Path("a/b.pt"), "mean": -157.23456789, "n": 10, "ok": True, "none": None, "empty": {}, "list": [1, 2.5],
          "config": {"gamma": 0.99, "net": {"pi": [64, 64]}}}  # fmt: skip


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "RLOX_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def terminal(monkeypatch):
    """Put a terminal in stdout's place; called in the test, since pytest sets its own stdout after the fixtures."""

    def install(columns="80", encoding="utf-8"):
        stream = Terminal()
        stream.encoding = encoding
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", columns)
        return stream

    return install


def test_a_record_in_a_pipe_is_key_tab_value_at_full_precision(capsys):
    Out().record(RECORD)
    assert capsys.readouterr().out.splitlines() == [
        "path\ta/b.pt", "mean\t-157.23456789", "n\t10", "ok\tyes", "none\t-", "empty\t-", "list\t1, 2.5",
        "config.gamma\t0.99", "config.net.pi\t64, 64",
    ]  # fmt: skip


def test_a_table_in_a_pipe_is_tab_separated_with_a_header_and_never_cut(capsys):
    Out().table(["path", "mean"], [["x" * 300, 0.1234567891], ["a\tb", float("nan")]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["path\tmean", "x" * 300 + "\t0.1234567891", "a\\tb\tnan"] or lines[1].endswith("\t0.1234567891")
    assert all(line.count("\t") == 1 for line in lines)
    assert "x" * 300 in lines[1]


def test_a_record_on_a_terminal_is_aligned_and_short(terminal):
    stream = terminal()
    Out().record({"a": -157.23456789, "longer": "x"})
    assert stream.getvalue() == "a       -157.235\nlonger  x\n"


def test_a_table_on_a_terminal_has_a_frame_and_aligned_numbers(terminal):
    stream = terminal()
    Out().table(["name", "mean"], [["a", 1.5], ["b[red]", -100.25]])
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("╭") and lines[-1].startswith("╰")
    assert "b[red]" in lines[4] and lines[3].index("1.5") > lines[4].index("-100.25")


def test_a_table_breaks_no_number_and_is_stacked_where_it_does_not_fit(terminal):
    names = [f"return_number_{i}" for i in range(4)]
    stream = terminal(columns="100")
    Out().table(["path", *names], [["a/" * 40, *[-1234.5] * 4]])
    assert "╭" in stream.getvalue() and stream.getvalue().count("-1234.5") == 4
    stream = terminal(columns="70")
    Out().table(["path", *names], [["a/" * 40, *[-1234.5] * 4]])
    assert "╭" not in stream.getvalue() and stream.getvalue().startswith("path             a/a/")


def test_optional_columns_make_room_where_the_terminal_is_narrow(terminal):
    columns = ["first", "second", *(f"figure_{i}" for i in range(6))]
    shown = {}
    for width in ("60", "200"):
        stream = terminal(width)
        Out().table(columns, [["a" * 16, 1.23456789, *range(6)]], optional=[f"figure_{i}" for i in range(4)])
        shown[width] = stream.getvalue()
    assert "figure_5" in shown["60"] and "figure_0" not in shown["60"] and "│" in shown["60"] and "1.23457" in shown["60"]
    assert all(name in shown["200"] for name in columns)


@pytest.mark.parametrize("columns", ["0", "1", "40", "59"])
def test_a_narrow_terminal_gets_stacked_lines(terminal, columns):
    stream = terminal(columns)
    Out().table(["name", "mean"], [["a", 1.5], ["b", 2.5]])
    Out().record({"key": "value", "k": 1})
    assert stream.getvalue() == "name  a\nmean  1.5\n\nname  b\nmean  2.5\nkey  value\nk  1\n"


def test_frames_are_ascii_where_the_encoding_is(terminal):
    stream = terminal(encoding="ascii")
    Out().table(["name", "mean"], [["a", 1.5]])
    Out().record({"a": "≤ é…"})
    assert stream.getvalue().isascii() and "<= \\xe9..." in stream.getvalue()


def test_colour_is_decided_by_option_then_variables_then_terminal(monkeypatch):
    out, pipe, tty = Out(), io.StringIO(), Terminal()
    assert out.use_color(tty) and not out.use_color(pipe)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert out.use_color(pipe)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not out.use_color(tty)
    out.color = "always"
    assert out.use_color(pipe)
    out.color = "never"
    monkeypatch.delenv("NO_COLOR")
    assert not out.use_color(tty)
    out.color = "auto"
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not out.use_color(tty)


def test_foreign_keys_and_values_are_shown_escaped(capsys):
    Out().record({"a\x1b[1m": "b\x1b[2m\nc"})
    Out().line("x\x1b]0;title\x07")
    assert capsys.readouterr().out == "a\\x1b[1m\tb\\x1b[2m\\nc\nx\\x1b]0;title\\x07\n"


def test_json_is_one_document_with_every_part(capsys):
    out = Out(json=True)
    out.schema = "rlox.eval/1"
    out.record(RECORD)
    out.table(["a", "b"], [[1, 2]], name="rows")
    out.line("not shown")
    out.data(extra=np.float32(1.5))
    out.warn("careful")
    out.finish(0)
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert captured.out.count("\n") == 1
    assert document["schema"] == "rlox.eval/1" and document["ok"] is True and document["exit_code"] == 0
    assert document["warnings"] == ["careful"] and "nonfinite" not in document
    assert document["result"]["rows"] == [{"a": 1, "b": 2}] and document["result"]["extra"] == 1.5
    assert document["result"]["config"] == {"gamma": 0.99, "net": {"pi": [64, 64]}}
    assert document["result"]["path"] == "a/b.pt" and document["result"]["none"] is None


def test_numbers_that_are_not_finite_become_null_and_are_named():
    value = {"a/b": [1.0, float("nan")], "c~": {"d": np.array([np.inf, 2.0])}, "e": np.float32("-inf"), "n": np.int64(3)}
    plain, nonfinite = to_json(value)
    assert plain == {"a/b": [1.0, None], "c~": {"d": [None, 2.0]}, "e": None, "n": 3}
    assert nonfinite == ["/a~1b/1", "/c~0/d/0", "/e"]


def test_an_error_document_keeps_the_result(capsys):
    out = Out(json=True)
    out.record({"return_mean": -300.0})
    out.finish(9, {"kind": "check_failed", "message": "too low"})
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "rlox.error/1" and document["ok"] is False and document["exit_code"] == 9
    assert document["error"]["message"] == "too low" and document["result"] == {"return_mean": -300.0}


def test_quiet_silences_notes_and_warnings_but_no_failure(capsys):
    out = Out()
    out.quiet = True
    out.note("a")
    out.warn("b")
    out.failure("c", "d")
    assert capsys.readouterr().err == "error: c\n\nhint: d\n"
    assert out.warnings == ["b"]


def test_details_need_verbose(capsys):
    out = Out()
    out.detail("a")
    out.verbose = True
    out.detail("b")
    assert capsys.readouterr().err == "b\n"


def test_progress_draws_on_a_terminal_only(monkeypatch, capsys):
    with Out().progress("p") as update:
        update(1, 2)
    assert capsys.readouterr().err == ""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with Out().progress("p[/x]") as update:
        update(1, 2)
    assert "p[/x]" in stream.getvalue() and "1/2" in stream.getvalue()
    dumb = Terminal()
    monkeypatch.setattr("sys.stderr", dumb)
    monkeypatch.setenv("TERM", "dumb")
    with Out().progress("p") as update:
        update(1, 2)
    assert dumb.getvalue() == ""


def test_start_reads_json_and_color_before_anything_is_parsed():
    assert _output.start(["x", "--json"]).json
    assert not _output.start(["x", "--", "--json"]).json
    assert _output.start(["--color=never"]).color == "never"
    assert _output.start(["--color", "always"]).color == "always"
    assert _output.start(["--color", "mauve"]).color == "auto"
    assert _output.current() is not _output.start([])


# --- flags from config fields ---


def options(cls):
    return {o.name: o for o in options_of(cls)}


def test_a_flag_shows_range_default_and_panel():
    gamma = flag(options(SACConfig)["gamma"])
    assert gamma.opts == ["--gamma"] and "[0, 1]" in gamma.help and gamma.shown_default == "0.99"
    steps = flag(options(EvalConfig)["eval_episodes"])
    assert "--n-eval-episodes" in steps.opts and steps.rich_help_panel == "Eval"


def test_a_bool_option_is_a_switch_with_two_sides():
    deterministic = flag(options(EvalConfig)["deterministic"])
    assert deterministic.is_flag and deterministic.secondary_opts and deterministic.shown_default == "deterministic"


def test_typed_texts_become_a_checked_config():
    config = typed(EvalConfig, {"eval_freq": "1e4", "eval_env_kwarg": ("g=9.81", "name=x"), "deterministic": False, "eval_episodes": None})
    assert (config.eval_freq, config.eval_episodes, config.deterministic) == (10_000, 5, False)
    assert config.eval_env_kwarg == {"g": 9.81, "name": "x"}
    with pytest.raises(ConfigError, match=r"eval_freq is 1\.5"):
        typed(EvalConfig, {"eval_freq": "1.5"})


@pytest.mark.parametrize(("items", "word"), [(["g"], "KEY=VALUE"), (["=1"], "KEY=VALUE"), (["g=1", "g=2"], "twice")])
def test_key_value_texts_are_checked(items, word):
    with pytest.raises(ConfigError, match=word):
        table("--env-kwarg", items)


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "[1, nan]", "{a = inf}"])
def test_a_number_that_is_not_finite_is_refused_by_its_name_and_text_can_be_quoted(word):
    with pytest.raises(ConfigError, match=r"--env-kwarg size is .*, must be finite") as refused:
        table("--env-kwarg", [f"size={word}"])
    assert "quote it" in (refused.value.hint or "")
    assert table("--env-kwarg", [f'mode="{word}"']) == {"mode": word}


def test_key_value_texts_are_data_never_code():
    assert table("--env-kwarg", ["a=__import__('os')", "b=[1, 2]", "c=true"]) == {"a": "__import__('os')", "b": [1, 2], "c": True}
