"""What the shipped callbacks share: where they are, what the algorithm offers, and where they may write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ..errors import ConfigError, WriteError, printable
from ..logging import ConsoleLogger
from ..logging.terminal import say
from .timing import PhaseTimer


class StepCount:
    """The step that a hook is at: the one that it is given, else one more than before."""

    def __init__(self) -> None:
        self.step = 0

    def advance(self, kwargs: Mapping[str, Any]) -> int:
        """Return the step of an ``on_step`` call."""
        given = kwargs.get("step")
        self.step = self.step + 1 if given is None else int(given)
        return self.step

    def stay(self, kwargs: Mapping[str, Any]) -> int:
        """Return the step of any other hook's call."""
        given = kwargs.get("step")
        if given is not None:
            self.step = int(given)
        return self.step


def require(algo: Any, method: str, who: str) -> None:
    """Raise ConfigError unless the algorithm has a method."""
    if not callable(getattr(algo, method, None)):
        raise ConfigError(
            f"{who} needs an algorithm with {method}(), {type(algo).__name__} has none", param="callbacks"
        )


def check_finite(algo: Any) -> None:
    """Let the algorithm raise DivergedError before anything is made of a model that is no longer finite."""
    check = getattr(algo, "check_finite", None)
    if callable(check):
        check()


def at_boundary(algo: Any, call: Callable[[], object]) -> None:
    """Call once no step of the algorithm's training is half done: now, where none is under way."""
    boundary = getattr(algo, "boundary", None)
    if boundary is None:
        call()
    else:
        boundary.call(call)


def flush(algo: Any) -> None:
    """Bring what was logged to where it can be read, where there are loggers."""
    loggers = getattr(algo, "loggers", None)
    if loggers is not None:
        loggers.flush()


def during(algo: Any, phase: str) -> AbstractContextManager[None]:
    """Give the time of a ``with`` body to a phase of the algorithm's timer, where it has one."""
    phases = getattr(algo, "phases", None)
    return phases.during(phase) if isinstance(phases, PhaseTimer) else nullcontext()


def tell(algo: Any, text: str) -> None:
    """Write a line on stderr, unless a ConsoleLogger tells the user already."""
    loggers = getattr(algo, "loggers", None) or ()
    if not any(isinstance(logger, ConsoleLogger) for logger in loggers):
        say(text)


def log_event(algo: Any, step: int, kind: str, **fields: Any) -> None:
    """Give an event to the algorithm's loggers, where it has any."""
    loggers = getattr(algo, "loggers", None)
    if loggers is not None:
        with during(algo, "log"):
            loggers.on_event(step, kind, fields)


def own_folder(folder: Path, default: str, algo: Any, inside: str) -> Path:
    """Return the folder to write to.

    Inside a run directory the run's own folder replaces the default one. ``./checkpoints`` may be a link to the newest
    run's: nothing is written through it, because that run is another one.

    Parameters
    ----------
    folder : Path
        As the user gave it.
    default : str
        The constructor's default.
    algo : object
        Its ``run`` is the run, or None.
    inside : str
        The run's attribute or subfolder that replaces the default.

    Raises
    ------
    WriteError
        When the folder is a link into a run and there is no run of our own to write to.
    """
    run = getattr(algo, "run", None)
    linked = _is_link_into_run(folder)
    if run is not None and (linked or folder == Path(default)):
        return Path(getattr(run, inside, None) or run.path / inside)
    if linked:
        raise WriteError(
            f"{printable(folder)} is a link to {printable(folder.resolve())}, which belongs to another run",
            hint="give the callback another folder, or remove the link",
            value=str(folder),
        )
    return folder


def _is_link_into_run(folder: Path) -> bool:
    """Return whether a folder is a symbolic link to a folder of a run directory."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    return any((target.parent / name).exists() for name in ("config.toml", "meta.json", "status.json"))
