"""The tree of commands: help, typos, exit codes, streams, signals."""

import json
import os
import signal
import subprocess
import sys
import warnings

import pytest
from cli_run import environment, refused, run, spawn, spawn_on_terminal

import rlox
from rlox.cli import main as main_module
from rlox.cli._commands import Command, Group
from rlox.cli._errors import EXIT_CODES
from rlox.cli._options import Argument, Flag
from rlox.cli._output import current
from rlox.errors import ConfigError, EnvError, RloxError


@pytest.fixture
def command(monkeypatch):
    """Make ``rlox`` a tree with one command, ``do``, that runs the given function."""

    def install(function, *params):
        def tree():
            commands = {"do": ("Do it", lambda: Command("do", help="Do it", callback=function, params=list(params)))}
            return Group("rlox", commands, help="A tree")

        monkeypatch.setattr(main_module, "build", tree)

    return install


def test_no_command_prints_the_help_on_stdout_and_returns_2(capsys):
    ran = run(capsys)
    assert ran.code == 2 and ran.out.startswith("Usage: rlox") and ran.err == ""
    ran = run(capsys, "checkpoint")
    assert ran.code == 2 and "verify" in ran.out and ran.err == ""


def test_help_lists_every_command_with_its_one_line(capsys):
    ran = run(capsys, "-h")
    assert ran.code == 0
    for name, (summary, _) in main_module._COMMANDS.items():
        assert f"  {name}" in ran.out and summary in ran.out


@pytest.mark.parametrize("argv", [["eval"], ["checkpoint", "info"], ["checkpoint", "verify"], ["checkpoint", "diff"], ["checkpoint", "prune"], ["dataset", "info"], ["dataset", "collect"]])
def test_help_has_a_purpose_examples_and_exit_codes_in_that_order(capsys, argv):
    out = run(capsys, *argv, "--help").out
    places = [out.index(word) for word in ("Usage:", "Examples:", f"  rlox {' '.join(argv)} ", "Common:", "Exit codes: 0 done")]
    assert places == sorted(places)


def test_version_is_that_of_the_package(capsys):
    assert run(capsys, "--version").out == f"rlox {rlox.__version__}\n"
    lines = run(capsys, "--version", "-v").out.splitlines()
    assert lines[0] == f"rlox {rlox.__version__}" and lines[1].startswith("python 3.")
    assert any(line.startswith("torch 2.") for line in lines)
    document = run(capsys, "--version", "--json").json
    assert document["schema"] == "rlox.version/1" and document["result"]["rlox"] == rlox.__version__


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], ["'trian'", "'train'"]),
        (["checkpoint", "inof"], ["'inof'", "'info'"]),
        (["dataset", "colect"], ["'colect'", "'collect'"]),
        (["eval", "--episode", "3", "x"], ["'--episode'", "'--episodes'"]),
        (["--versoin"], ["'--versoin'", "'--version'"]),
        (["zzz"], ["'zzz'", "train, offline, eval"]),
        (["eval"], ["CKPT", "rlox eval --help"]),
        (["checkpoint", "info", "a", "b"], ["(b)"]),
        (["--color", "mauve", "--version"], ["'mauve'", "auto, always, never"]),
        (["dataset", "collect", "--env", "Pendulum-v1", "--steps", "10"], ["--out"]),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_usage_errors_name_the_value_and_what_was_meant(capsys, argv, words):
    refused(run(capsys, *argv), 2, *words)
    document = run(capsys, *argv, "--json").json
    assert document["schema"] == "rlox.error/1" and document["ok"] is False and document["exit_code"] == 2
    assert document["error"]["kind"] == "usage"


def test_suggestions_are_in_the_json_document(capsys):
    error = run(capsys, "trian", "--json").json["error"]
    assert error["value"] == "trian" and error["suggestions"] == ["train"] and "train" in error["hint"]


def test_words_after_a_double_dash_are_no_options(capsys):
    ran = run(capsys, "checkpoint", "info", "--", "--json")
    refused(ran, 3, "--json")
    assert ran.out == ""


@pytest.mark.parametrize("text", ["[/obs]", "[red]x", "a\x1b[31mb", "a\nb", "\udcff", "\u202egnp", "é" * 65536])
@pytest.mark.parametrize("argv", [["%"], ["eval", "%"], ["checkpoint", "verify", "%"], ["dataset", "info", "%"], ["dataset", "collect", "-o", "o", "--steps", "1", "--env", "%"]])
def test_foreign_text_is_shown_escaped_and_cut(capsys, tmp_path, monkeypatch, argv, text):
    monkeypatch.chdir(tmp_path)
    ran = run(capsys, *[word.replace("%", text) for word in argv])
    assert ran.code in (2, 3, 4)
    assert "\x1b" not in ran.err and "\u202e" not in ran.err and "Traceback" not in ran.err
    assert len(ran.err.splitlines()) <= 6 and len(ran.err) < 3000
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_library_carry_their_code_hint_and_fields(capsys, command):
    def fail():
        raise EnvError("environment 3 raised at step 17", hint="look at it", param="--env", value="X-v0")

    command(fail)
    ran = run(capsys, "do")
    assert (ran.code, ran.out) == (7, "")
    assert ran.err == "error: environment 3 raised at step 17\n\nhint: look at it\n"
    assert run(capsys, "do", "--json").json["error"] == {
        "kind": "env_failed", "message": "environment 3 raised at step 17", "hint": "look at it", "param": "--env",
        "value": "X-v0",
    }  # fmt: skip


def test_every_error_class_has_a_code_of_the_table():
    def classes(cls):
        return [cls, *(sub for direct in cls.__subclasses__() for sub in classes(direct))]

    assert {cls.exit_code for cls in classes(RloxError)} <= set(EXIT_CODES)


def test_a_bug_is_code_1_with_its_traceback_in_a_file(capsys, command, tmp_path):
    def fail():
        current().run = tmp_path
        raise ZeroDivisionError("odd")

    command(fail)
    ran = run(capsys, "do")
    refused(ran, 1, "ZeroDivisionError: odd", str(tmp_path / "crash.log"))
    assert "Traceback" in (tmp_path / "crash.log").read_text()
    assert run(capsys, "do", "--json").json["error"]["kind"] == "internal"


def test_a_bug_without_a_run_directory_leaves_its_traceback_in_a_temporary_file(capsys, command, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    command(lambda: [][0])
    refused(run(capsys, "do"), 1, "IndexError", str(tmp_path))
    (log,) = tmp_path.iterdir()
    assert "IndexError" in log.read_text()


def test_an_environment_that_fails_in_a_run_leaves_its_traceback_there(capsys, command, tmp_path):
    def fail():
        current().run = tmp_path
        try:
            raise RuntimeError("the arm fell off")
        except RuntimeError as error:
            raise EnvError("environment 0 raised") from error

    command(fail)
    refused(run(capsys, "do"), 7, "environment 0 raised", str(tmp_path / "crash.log"))
    assert "the arm fell off" in (tmp_path / "crash.log").read_text()


def test_debug_shows_the_traceback(capsys, command, monkeypatch):
    def fail():
        raise ConfigError("no")

    command(fail)
    assert "Traceback" not in run(capsys, "do").err
    assert "Traceback" in run(capsys, "do", "--debug").err
    monkeypatch.setenv("RLOX_DEBUG", "1")
    assert "Traceback" in run(capsys, "do").err


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (OSError(28, "No space left on device", "out.h5"), 6, "out.h5: No space left"),
        (MemoryError(), 2, "memory"),
        (ModuleNotFoundError("No module named 'h5py'", name="h5py"), 8, "'h5py'"),
        (ModuleNotFoundError("No module named 'zzz'", name="zzz"), 1, "zzz"),
    ],
)
def test_errors_of_the_system_become_codes(capsys, command, tmp_path, monkeypatch, error, code, word):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail():
        raise error

    command(fail)
    refused(run(capsys, "do"), code, word)


def test_a_command_may_return_a_code(capsys, command):
    command(lambda: 143)
    assert run(capsys, "do").code == 143
    document = run(capsys, "do", "--json").json
    assert document["schema"] == "rlox.do/1" and document["ok"] is False and document["exit_code"] == 143


def test_usage_names_arguments_without_braces(capsys):
    assert "Usage: rlox eval [OPTIONS] CKPT...\n" in run(capsys, "eval", "--help").out
    assert "Usage: rlox dataset info [OPTIONS] FILE\n" in run(capsys, "dataset", "info", "--help").out


def test_ctrl_c_is_130(capsys, command):
    def interrupt():
        raise KeyboardInterrupt

    command(interrupt)
    ran = run(capsys, "do")
    assert ran.code == 130 and ran.err == "stopped\n"


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 143)])
def test_signals_unwind_the_command_and_handlers_come_back(capsys, command, name, code):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    cleaned = []

    def wait():
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(True)

    command(wait)
    assert run(capsys, "do").code == code
    assert cleaned == [True] and signal.getsignal(number) == before


def test_warnings_are_one_line_each_and_listed_in_json(capsys, command):
    def warn():
        warnings.warn("\x1b[33mthe first\nof two\x1b[0m", UserWarning, stacklevel=1)
        warnings.warn("the second", RuntimeWarning, stacklevel=1)

    command(warn)
    ran = run(capsys, "do")
    assert ran.err == "warning: the first\\nof two\nwarning: the second\n" and ran.out == ""
    assert run(capsys, "do", "--json").json["warnings"] == ["the first\\nof two", "the second"]
    assert run(capsys, "do", "--quiet").err == ""


def test_quiet_keeps_errors(capsys):
    assert run(capsys, "trian", "-q").code == 2
    assert "'trian'" in run(capsys, "-q", "trian").err


def test_flags_hand_their_text_through(capsys, command):
    seen = {}
    params = [Argument("paths", many=True), Flag("--name"), Flag("--on/--off", switch=True), Flag("--many", multiple=True)]
    command(lambda **given: seen.update(given), *params)
    assert run(capsys, "do", "a", "b", "--name", "1e6", "--off", "--many", "x=1", "--many", "y=2").code == 0
    assert seen == {"paths": ("a", "b"), "name": "1e6", "on": False, "many": ("x=1", "y=2")}
    assert run(capsys, "do", "a").code == 0
    assert seen == {"paths": ("a",), "name": None, "on": None, "many": ()}
    assert run(capsys, "do", "a", "--name", "1", "--name", "2").code == 0  # wrappers append
    assert seen["name"] == "2"


# --- real processes ---


def test_python_dash_m_is_rlox():
    ran = spawn("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"rlox {rlox.__version__}\n", "")


def test_help_on_a_terminal_has_panels_and_in_a_pipe_none():
    assert "╭" in spawn_on_terminal("--help").out
    assert "\x1b[" in spawn_on_terminal("--help").out
    piped = spawn("--help").out
    assert "╭" not in piped and "\x1b" not in piped


@pytest.mark.parametrize(
    ("argv", "extra"),
    [([], {"TERM": "dumb"}), ([], {"NO_COLOR": "1"}), (["--color", "never"], {}), (["--color=never"], {"FORCE_COLOR": "1"}),
     ([], {"TERM": ""}), ([], {"NO_COLOR": "1", "FORCE_COLOR": "1"})],
)  # fmt: skip
def test_no_colour_where_none_is_wanted(argv, extra):
    for command in (["--help"], ["trian"], ["--version"]):
        assert "\x1b" not in spawn_on_terminal(*argv, *command, **extra).out


def test_colour_always_colours_a_pipe_but_draws_no_panels():
    assert spawn("--color", "always", "trian").err.startswith("\x1b[1;31merror:\x1b[0m unknown command")
    assert spawn("trian", FORCE_COLOR="1").err.startswith("\x1b[1;31merror:")
    assert "╭" not in spawn("--color", "always", "--help").out


@pytest.mark.parametrize("columns", ["0", "1", "40", "59", "200"])
def test_help_reads_at_every_width(columns):
    out = spawn_on_terminal("eval", "--help", COLUMNS=columns, NO_COLOR="1").out
    assert "--episodes" in out and "Exit codes" in out
    assert ("╭" in out) == (int(columns) >= 60)


def test_ascii_terminals_get_ascii():
    ran = spawn("eval", "é…\u2264.pt", PYTHONIOENCODING="ascii")
    assert ran.code == 3 and ran.err.isascii() and "\\xe9..." in ran.err
    assert spawn("--help", PYTHONIOENCODING="ascii").out.isascii()


def shell(line, **extra):
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment(PY=sys.executable, **extra), timeout=60)
    return done.stdout, done.stderr


@pytest.mark.parametrize("command", ["--help", "--version", "checkpoint", "checkpoint verify a b", "trian --json"])
def test_a_closed_pipe_is_141_and_silent(command):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "rlox", *command.split()], stdout=write, stderr=subprocess.PIPE, env=environment(), timeout=60)
    os.close(write)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr and b"Broken" not in done.stderr and b"Exception" not in done.stderr


def test_a_full_device_is_a_write_error():
    out, err = shell("$PY -m rlox --version >/dev/full; echo $?")
    assert out == "6\n" and "No space left" in err and "Traceback" not in err


def test_a_closed_stderr_stops_nothing():
    assert shell("$PY -m rlox --version 2>&-; echo $?")[0] == f"rlox {rlox.__version__}\n0\n"
    assert shell("$PY -m rlox trian 2>&-; echo $?")[0] == "2\n"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "rlox", "trian", "--json"], stderr=write, stdout=subprocess.PIPE, env=environment(), timeout=60)
    os.close(write)
    assert done.returncode == 2 and json.loads(done.stdout)["exit_code"] == 2


def test_a_closed_stdout_or_stdin_stops_nothing():
    assert shell("$PY -m rlox trian >&- <&-; echo $? >&2")[1].endswith("2\n")
    assert shell("$PY -m rlox --version >&-; echo $? >&2")[1] == "0\n"


def test_no_home_and_no_working_directory(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {gone} && rmdir {gone} && env -u HOME $PY -m rlox --version; echo $?"
    assert shell(line)[0] == f"rlox {rlox.__version__}\n0\n"
    line = f"mkdir {gone}; cd {gone} && rmdir {gone} && env -u HOME $PY -m rlox checkpoint info x.pt; echo $?"
    out, err = shell(line)
    assert out == "3\n" and "x.pt" in err


def complete(line):
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_RLOX_COMPLETE": "complete_bash"}
    return spawn(**words).out.split()


def test_completion_offers_commands_options_and_values():
    assert complete("rlox ") == list(main_module._COMMANDS)
    assert complete("rlox che") == ["checkpoint"]
    assert "--episodes" in complete("rlox eval --")
    assert complete("rlox eval --color ") == ["auto", "always", "never"]
    assert complete("rlox dataset ") == ["info", "collect"]
    assert "Pendulum-v1" in complete("rlox eval --env Pen")


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_the_completion_script_names_the_variable_that_main_looks_for(shell_name):
    ran = spawn(_RLOX_COMPLETE=f"source_{shell_name}")
    assert ran.code == 0 and "_RLOX_COMPLETE" in ran.out


def test_completion_is_installed_for_the_shell_in_use(tmp_path):
    line = f"HOME={tmp_path} $PY -m rlox --install-completion; echo $?"
    out, _ = shell(line)
    assert out.splitlines()[-1] == "0" and "bash completion installed" in out
    assert [p for p in tmp_path.rglob("*") if p.is_file()]
    assert "_RLOX_COMPLETE" in shell("$PY -m rlox --show-completion; true")[0]
