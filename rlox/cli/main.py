"""The command ``rlox``: the tree of commands, and the one place where errors become exit codes.

Commands are imported when they are run, so that help, completion and ``--version`` stay fast.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import typer
from typer._click.exceptions import NoArgsIsHelpError

from .. import __version__
from ..errors import WriteError
from ..files import shortest
from ..signals import EXIT_CODES
from ..user_code import UserCodeError
from ._commands import Builder, Group
from ._errors import BROKEN_PIPE, Failure, failure_of, save_traceback
from ._options import Flag
from ._output import Out, current, start

_HELP = """Reinforcement learning from the shell: train online, train offline, evaluate, look after checkpoints and datasets.

Examples:
  rlox train sac --env Pendulum-v1 --eval-freq 10000
  rlox eval checkpoints/best.pt
  rlox offline cql --dataset pendulum.h5 --env Pendulum-v1 --steps 20000
"""
_COMMANDS = {
    "train": ("Train in an environment", "rlox.cli.train"),
    "offline": ("Train from a dataset file", "rlox.cli.offline"),
    "eval": ("Evaluate checkpoints", "rlox.cli.eval"),
    "checkpoint": ("Look at checkpoints and check them", "rlox.cli.checkpoint"),
    "dataset": ("Look at datasets and collect them", "rlox.cli.dataset"),
    "runs": ("Look at runs, compare and plot them", "rlox.cli.runs"),
}


class _Stopped(BaseException):
    """A signal asked the command to end."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The words after ``rlox``; default: those of the process.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    out = start(args)
    with _streams(), _warnings(out), _signals():
        try:
            return _run(args, out)
        except BrokenPipeError:
            _abandon_stdout()
            return BROKEN_PIPE
        except _Stopped as stopped:  # outside the command itself: while results or an error are written
            return stopped.exit_code
        except KeyboardInterrupt:
            return 130


def build() -> Group:
    """Return the tree of commands."""
    commands = {name: (summary, _builder(module)) for name, (summary, module) in _COMMANDS.items()}
    params = [
        Flag("version", "--version", help="Show the version and exit; with -v those of its parts", switch=True,
             expose=False, callback=_show_version),
        Flag("install_completion", "--install-completion", help="Install completion for this shell and exit",
             switch=True, expose=False, callback=_completion("install_callback")),
        Flag("show_completion", "--show-completion", help="Show the completion script of this shell and exit",
             switch=True, expose=False, callback=_completion("show_callback")),
    ]  # fmt: skip
    return Group("rlox", commands, help=_HELP, params=params)


def _run(args: list[str], out: Out) -> int:
    try:
        code = _invoke(args)
        out.finish(code)
        return code
    except NoArgsIsHelpError as error:
        return _missing_command(error, out)
    except Exception as error:
        return _fail(error, out)


def _invoke(args: list[str]) -> int:
    """Run the command; typer's ways of saying "closed pipe" and "exit" come out as exceptions and codes."""
    if "_RLOX_COMPLETE" in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
    try:
        result = build().main(args=args, prog_name="rlox", standalone_mode=False)
    except _Stopped as stopped:
        return stopped.exit_code
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            raise error.__context__ from None
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _fail(error: Exception, out: Out) -> int:
    if isinstance(error, BrokenPipeError):
        raise error
    failure = failure_of(error)
    hint = failure.hint
    log = _crash_log(error, failure, out)
    if failure.bug or hint is None:
        hint = f"the traceback is in {shortest(log)}" if log else "`--debug` shows the traceback" if failure.bug else None
    failure = replace(failure, hint=hint)
    out.failure(failure.message, hint)
    if out.debug:
        out.trace("".join(t for t in traceback.format_exception(error) if not t.startswith("hint: ")))  # it is said
    try:
        out.finish(failure.exit_code, failure.to_json())
    except WriteError:  # said already, or less important than what went wrong first
        _abandon_stdout()
    return failure.exit_code


def _crash_log(error: Exception, failure: Failure, out: Out) -> Path | None:
    """Return where the traceback is: in the run's folder, without one in a file of its own for what needs looking into."""
    if out.run is not None and out.run.is_dir():
        log = out.run / "crash.log"
        return log if log.is_file() else save_traceback(error, out.run)  # a run that fails writes it itself
    needed = failure.bug or (isinstance(error, UserCodeError) and failure.hint is None)
    return save_traceback(error, None) if needed else None


def _missing_command(error: NoArgsIsHelpError, out: Out) -> int:
    """A group without a command: its help on stdout, and code 2."""
    if out.json:
        out.finish(2, {"kind": "usage", "message": f"{error.ctx.command_path} needs a command"})
        return 2
    sys.stdout.write(error.format_message() + "\n")
    sys.stdout.flush()
    return 2


def _builder(module: str) -> Builder:
    return lambda: import_module(module).build()


def _show_version(ctx: Any, param: Any, value: bool | None) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as read

    out = current()
    out.schema = "rlox.version/1"
    parts = {"rlox": __version__}
    if out.verbose or out.json:
        parts["python"] = ".".join(map(str, sys.version_info[:3]))
        for name in ("torch", "numpy", "gymnasium", "h5py", "typer", "rich"):
            try:
                parts[name] = read(name)
            except PackageNotFoundError:
                parts[name] = "not installed"
    out.data(**parts)
    for name, number in parts.items():
        out.line(f"{name} {number}")
    raise typer.Exit(0)


def _completion(callback: str) -> Callable[..., None]:
    """Typer's own way to install and show completion, imported when it is asked for."""

    def run(ctx: Any, param: Any, value: bool | None) -> None:
        if value and not ctx.resilient_parsing:
            from typer import completion
            from typer._completion_classes import completion_init

            completion_init()
            current().json = False
            getattr(completion, callback)(ctx, param, value)

    return run


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Give a command that was started with closed streams a place to write to."""
    saved = sys.stdout, sys.stderr
    sys.stdout = sys.stdout or _devnull()
    sys.stderr = sys.stderr or _devnull()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = saved[0] or sys.stdout, saved[1] or sys.stderr


def _devnull() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # lives as long as the process


def _abandon_stdout() -> None:
    """Nobody reads the results any more: let the interpreter's last flush go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextlib.contextmanager
def _warnings(out: Out) -> Iterator[None]:
    """Show Python's warnings as one line each, and list them in the JSON document."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        out.warn(str(message))

    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.filterwarnings("default", category=UserWarning)
            warnings.filterwarnings("default", category=RuntimeWarning)
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let the signals that end a process unwind it, so that nothing half written stays. Ignored ones stay ignored."""

    def stop(number: int, frame: Any) -> None:
        raise _Stopped(EXIT_CODES[number])

    saved = {}
    with contextlib.suppress(ValueError):  # not the main thread
        for number in EXIT_CODES:
            if signal.getsignal(number) is signal.SIG_DFL:
                saved[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
