"""What a logger is, the list that feeds several of them, and the names that metrics have outside the package."""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..checkpoint.tensors import plain
from ..errors import ConfigError, RloxError, printable
from .period import Period, check_period

NEVER = sys.maxsize


class LoggerCallback:
    """Base of every logger: all hooks do nothing, so a logger overrides only what it needs.

    Metrics arrive with plain names (``critic_loss``); :func:`prefixed` gives the name to show outside. A metric is
    turned into a float when it is read, so a logger pays only for those that it reads. A logger that raises is
    switched off with one warning and never stops training. It is not a :class:`rlox.callbacks.Callback`.

    Attributes
    ----------
    log_interval : int
        Environment transitions (offline: gradient steps) between two calls of ``on_train_step``, ≥ 1.
    wants_rollouts : bool
        Whether a LoggerList passes ``on_rollout_end`` on. The shipped loggers do without: the training metrics of the
        same step have the same figures.
    """

    log_interval: int = 1000
    wants_rollouts: bool = True

    def open(self, run: Any = None) -> None:
        """Get ready to log; ``run`` has ``path`` and ``checkpoints``, or is None outside a run directory."""

    def set_total(self, total_timesteps: int) -> None:
        """Say at which step training will end."""

    def on_train_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Log the newest training metrics."""

    def on_rollout_end(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Log what the collection phase that ends at ``step`` gave."""

    def on_eval(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Log one evaluation."""

    def on_event(self, step: int, kind: str, fields: Mapping[str, Any]) -> None:
        """Log something that is not a measurement: ``kind`` is ``checkpoint`` or ``warning``."""

    def flush(self) -> None:
        """Bring everything logged so far to where it can be read."""

    def close(self) -> None:
        """Release files, threads and the terminal; logging again opens again."""

    def state_dict(self) -> dict[str, Any]:
        """Return, as plain values, where the log stands; asked for with every checkpoint that can be resumed."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where the log stood, before :meth:`open`: what was logged after that will be logged again."""


class LoggerList:
    """The loggers of one algorithm, each with its own interval.

    Parameters
    ----------
    loggers : LoggerCallback, iterable of them, or None

    Raises
    ------
    ConfigError
        When a member is no LoggerCallback or its ``log_interval`` is below 1.

    Notes
    -----
    An interval fires when it is crossed. ``next_due`` is the first step at which ``on_train_step`` would reach
    anybody, so that a loop can leave the call out until then. Errors that rlox raises on purpose in :meth:`open`
    (no permission, a missing package) go to the caller, because nothing has been trained yet; any other failure, then
    or later, switches that logger off with one RuntimeWarning.
    """

    def __init__(self, loggers: LoggerCallback | Iterable[LoggerCallback] | None = None) -> None:
        given = [loggers] if isinstance(loggers, LoggerCallback) else _iterate(loggers)
        self.loggers: list[LoggerCallback] = []
        # By rank in the list
        self._train: list[Period] = []
        self._rollout: list[Period] = []
        self._rows: list[int | None] = []  # the step of the newest row that each logger had
        self._off: set[int] = set()
        self._last = {"train": 0, "rollout": 0}
        self.next_due: int = NEVER
        self._next_rollout: int = NEVER
        for logger in given:
            self.append(logger)

    def append(self, logger: LoggerCallback) -> None:
        """Add a logger; its first interval ends at the next multiple of its ``log_interval``."""
        if not isinstance(logger, LoggerCallback):
            what = logger.__name__ if isinstance(logger, type) else type(logger).__name__
            raise ConfigError(
                f"logger is {printable(what)}, must be a LoggerCallback, a list of them, or None", param="logger"
            )
        every = check_period(logger.log_interval, "log_interval", minimum=1)
        self.loggers.append(logger)
        self._train.append(Period(every, self._last["train"]))
        self._rollout.append(Period(every if logger.wants_rollouts else 0, self._last["rollout"]))
        self._rows.append(None)
        self._find_due()

    def __iter__(self) -> Iterator[LoggerCallback]:
        return iter(tuple(self.loggers))

    def __len__(self) -> int:
        return len(self.loggers)

    @property
    def active(self) -> list[LoggerCallback]:
        """The loggers that have not been switched off."""
        return [self.loggers[rank] for rank in self._ranks()]

    def open(self, run: Any = None) -> None:
        """Open every logger; when one refuses, close those already open and raise its error."""
        for rank in self._ranks():
            try:
                self.loggers[rank].open(run)
            except RloxError:
                self.close()
                raise
            except Exception as error:
                self._switch_off(rank, error)

    def set_total(self, total_timesteps: int) -> None:
        """Tell every logger at which step training will end."""
        self._each(lambda logger: logger.set_total(total_timesteps))

    def on_train_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Give the metrics to every logger whose interval was crossed."""
        if step < self.next_due and step >= self._last["train"]:
            return
        self._last["train"] = step
        self._log_rows([rank for rank in self._ranks() if self._train[rank].crossed(step)], step, metrics)
        self._find_due()

    def finish(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Give the last metrics of a training to every logger that has not had those of this step."""
        self._log_rows(self._ranks(), step, metrics)

    def _log_rows(self, ranks: Iterable[int], step: int, metrics: Mapping[str, Any]) -> None:
        for rank in ranks:
            if self._rows[rank] != step:
                self._rows[rank] = step
                self._call(rank, lambda logger: logger.on_train_step(step, metrics))

    def on_rollout_end(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Give a rollout's metrics to every logger that wants them, at most once per interval of it."""
        if step < self._next_rollout and step >= self._last["rollout"]:
            return
        self._last["rollout"] = step
        for rank in self._ranks():
            if self._rollout[rank].crossed(step):
                self._call(rank, lambda logger: logger.on_rollout_end(step, metrics))
        self._find_due()

    def on_eval(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Give an evaluation to every logger."""
        self._each(lambda logger: logger.on_eval(step, metrics))

    def on_event(self, step: int, kind: str, fields: Mapping[str, Any]) -> None:
        """Give an event to every logger."""
        self._each(lambda logger: logger.on_event(step, kind, fields))

    def flush(self) -> None:
        """Flush every logger."""
        self._each(lambda logger: logger.flush())

    def close(self) -> None:
        """Close every logger."""
        self._each(lambda logger: logger.close())

    def state_dict(self) -> dict[str, Any]:
        """Return the steps from which each next interval follows, and where each logger stands."""
        loggers = [
            {"type": type(logger).__name__, "row": self._rows[rank], "state": self._state_of(rank)}
            for rank, logger in enumerate(self.loggers)
        ]
        return {**self._last, "loggers": loggers}

    def _state_of(self, rank: int) -> dict[str, Any]:
        """Return a logger's state; {} where it has none that can be kept, which must not cost the checkpoint."""
        state: dict[str, Any] = {}

        def ask(logger: LoggerCallback) -> None:
            given = logger.state_dict()
            plain(given)
            state.update(given)

        if rank not in self._off:
            self._call(rank, ask)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting intervals from a saved state, and give each logger that of the same class and rank.

        Loggers and intervals may differ from then: a logger without a state starts afresh, a state without a logger
        is left out.
        """
        self._last = {name: int(state[name]) for name in ("train", "rollout")}
        for periods, name in ((self._train, "train"), (self._rollout, "rollout")):
            for period in periods:
                period.last = self._last[name]
        waiting = self._ranks()
        for entry in state["loggers"]:
            rank = next((rank for rank in waiting if type(self.loggers[rank]).__name__ == entry["type"]), None)
            if rank is not None:
                waiting.remove(rank)
                self._rows[rank] = entry["row"]
                self._load(rank, entry["state"])
        self._find_due()

    def _load(self, rank: int, state: Mapping[str, Any]) -> None:
        if state:
            self._call(rank, lambda logger: logger.load_state_dict(state))

    def _ranks(self) -> list[int]:
        """Return the places of the loggers that have not been switched off."""
        return [rank for rank in range(len(self.loggers)) if rank not in self._off]

    def _each(self, call: Callable[[LoggerCallback], None]) -> None:
        for rank in self._ranks():
            self._call(rank, call)

    def _call(self, rank: int, call: Callable[[LoggerCallback], None]) -> None:
        try:
            call(self.loggers[rank])
        except Exception as error:
            self._switch_off(rank, error)

    def _switch_off(self, rank: int, error: Exception) -> None:
        logger = self.loggers[rank]
        self._off.add(rank)
        self._find_due()
        with contextlib.suppress(Exception):  # it is broken already: what close says would hide the cause
            logger.close()
        reason = f"{type(error).__name__}: {printable(error)}"
        warnings.warn(f"{type(logger).__name__} is switched off, it raised {reason}", RuntimeWarning, stacklevel=5)

    def _find_due(self) -> None:
        active = self._ranks()
        self.next_due = min((self._train[key].next_due for key in active), default=NEVER)
        rollouts = [self._rollout[key] for key in active]
        self._next_rollout = min((period.next_due for period in rollouts if period.every), default=NEVER)


def _iterate(loggers: Iterable[LoggerCallback] | None) -> list[LoggerCallback]:
    if loggers is None:
        return []
    if isinstance(loggers, Iterable) and not isinstance(loggers, str | bytes):
        return list(loggers)
    return [loggers]  # refused by name in append


def prefixed(name: str, category: str | None = None) -> str:
    """Return the outside name of a metric.

    ``return_*``, ``length_*`` and ``n_episodes`` belong to ``rollout/``; ``steps_per_second``, ``time_*`` and
    ``share_*`` to ``time/``; everything else to ``train/``. A category given (``eval``) wins; a name that has a
    slash already stays as it is.

    >>> prefixed("critic_loss"), prefixed("return_mean"), prefixed("return_mean", "eval")
    ('train/critic_loss', 'rollout/return_mean', 'eval/return_mean')
    """
    if "/" in name:
        return name
    if category is None:
        if name.startswith(("return_", "length_")) or name == "n_episodes":
            category = "rollout"
        elif name.startswith(("time_", "share_")) or name == "steps_per_second":
            category = "time"
        else:
            category = "train"
    return f"{category}/{name}"


def as_number(value: object) -> float | None:
    """Return a metric as a float, NaN and infinities included, or None when it is not a number."""
    if isinstance(value, str | bytes) or value is None:
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # numbers, NumPy scalars, tensors of one element
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def as_json(value: object) -> object:
    """Return a metric as a JSON value: integers and texts stay, NaN and infinities become None."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return printable(value)
    number = as_number(value)
    if number is None:
        return printable(value)
    return number if math.isfinite(number) else None
