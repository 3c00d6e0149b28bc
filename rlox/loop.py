"""The one training loop: the clock, the hooks, signals, the NaN guard and the end, whatever way training advances.

What differs between off-policy, on-policy and offline training is only ``algo.advance()``: an iterator over what
happens, in order, until the next point at which training may stop. The loop turns it into steps and hooks.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, ClassVar, NoReturn

from .envs import Episode
from .envs.watchdog import no_hanging
from .errors import ConfigError, DivergedError, EnvError, printable
from .learner import Metrics
from .signals import EXIT_CODES


@dataclass(slots=True)
class Stepped:
    """Progress by ``steps`` of the clock: transitions consumed (online) or gradient steps (offline)."""

    steps: int
    reward: float | None = None
    episodes: list[Episode] = field(default_factory=list)


@dataclass(slots=True)
class Collected:
    """A rollout, or a collection phase of ``train_freq`` transitions, is complete."""


@dataclass(slots=True)
class Updated:
    """One gradient update was made; ``metrics`` maps names to tensors or floats."""

    metrics: Mapping[str, Any]


Progress = Stepped | Collected | Updated


class EpisodeWindow:
    """Returns and lengths of the last 100 finished episodes, and how many there were."""

    SIZE: ClassVar[int] = 100

    def __init__(self) -> None:
        self.n_episodes = 0
        self._last: deque[tuple[float, int]] = deque(maxlen=self.SIZE)

    def add(self, episodes: list[Episode]) -> None:
        for e in episodes:
            self._last.append((float(e["return"]), int(e["length"])))
        self.n_episodes += len(episodes)

    def summary(self) -> dict[str, float]:
        """Return return_mean, length_mean and n_episodes; empty before the first episode ends."""
        n = len(self._last)
        if not n:
            return {}
        return {
            "return_mean": sum(r for r, _ in self._last) / n,
            "length_mean": sum(length for _, length in self._last) / n,
            "n_episodes": float(self.n_episodes),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"n_episodes": self.n_episodes, "last": [list(e) for e in self._last]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.n_episodes = int(state["n_episodes"])
        self._last = deque(((r, n) for r, n in state["last"]), maxlen=self.SIZE)


class Boundary:
    """The point between two steps: all hooks, updates and log rows of one are done, nothing of the next has begun.

    What is saved there can be gone on from exactly.
    """

    def __init__(self) -> None:
        self.is_here = True
        self.is_untouched = True  # nothing of the step under way is kept yet
        self._waiting: list[Callable[[], object]] = []

    def call(self, call: Callable[[], object]) -> None:
        """Call now, where this is a boundary; else at the next one."""
        if self.is_here:
            call()
        else:
            self._waiting.append(call)

    def inside(self) -> None:
        """A step begins."""
        self.is_here, self.is_untouched = False, True

    def reach(self) -> None:
        """A step is over: make the calls that waited."""
        self.is_here = self.is_untouched = True
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def outside(self) -> None:
        """Training is over, however it ended: a call that still waits belongs to a step that was torn."""
        self.is_here = True
        self._waiting.clear()


class Terminated(SystemExit):
    """A second signal: leave at once, wherever training is, with the exit code of that signal."""

    def __init__(self, number: int) -> None:
        self.exit_code = EXIT_CODES[number]
        super().__init__(self.exit_code)


class Interrupt:
    """Remembers a signal until the loop reaches a step boundary; the handlers are restored afterwards.

    A second one leaves at once, also out of an environment that hangs: SIGINT raises KeyboardInterrupt, the others
    :class:`Terminated`.

    Parameters
    ----------
    announce : bool
        Say on stderr that the signal has been heard.
    leave : callable, optional
        Ends the process with an exit code, without any of the interpreter's own clearing up, in place of those
        exceptions.
    panel : callable
        Whether a live panel is on the terminal: what is said then goes below it, and the cursor back into it.
    """

    SIGNALS: ClassVar[tuple[str, ...]] = tuple(signal.Signals(number).name for number in EXIT_CODES)
    # `timeout` and schedulers signal a process and then its group: what follows that soon is the same request.
    TOGETHER_S: ClassVar[float] = 0.2

    def __init__(
        self,
        announce: bool = False,
        leave: Callable[[int], object] | None = None,
        panel: Callable[[], bool] = lambda: False,
    ) -> None:
        self.signal: int | None = None
        self._since = 0.0
        self.announce, self.leave, self.panel = announce, leave, panel

    @contextmanager
    def watch(self) -> Iterator[Interrupt]:
        """Install the handlers; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        # A parent that ignores SIGHUP (nohup) keeps it ignored.
        old = {n: signal.getsignal(n) for n in EXIT_CODES if signal.getsignal(n) is not signal.SIG_IGN}
        for number in old:
            signal.signal(number, self._note)
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            if number != signal.SIGINT and monotonic() - self._since < self.TOGETHER_S:
                return
            self._leave(number)
        self.signal, self._since = number, monotonic()
        if self.announce:  # the handler may have interrupted a write to sys.stderr itself
            text = f"{signal.Signals(number).name}: stopping after this step; a second signal ends at once"
            _tell(f"\r\n{text}\x1b[K\x1b[A" if self.panel() else f"{text}\n")

    def _leave(self, number: int) -> NoReturn:
        terminated = Terminated(number)
        if self.leave is not None:
            if self.panel():
                _tell("\r\n\x1b[?25h")  # the panel hides the cursor
            self.leave(terminated.exit_code)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise terminated


def _tell(text: str) -> None:
    with suppress(OSError):
        os.write(2, text.encode())


def run_loop(algo: Any, total_steps: int) -> dict[str, Any]:
    """Advance ``algo`` by ``total_steps`` steps of its clock, or until something ends it.

    Parameters
    ----------
    algo : Algorithm
        Supplies ``advance()``; its ``step`` and ``n_updates`` are moved here and nowhere else.
    total_steps : int
        Steps to make, more than are asked for where one advance makes several.

    Returns
    -------
    dict
        Metrics of the last update, the episode window, ``n_updates`` and ``reason``.

    Raises
    ------
    DivergedError
        When a loss or a parameter becomes NaN or infinite; names the step and the figure.
    """
    if total_steps == 0 and not algo.continues:
        return _result(algo, "finished")
    interrupt = Interrupt(algo.run is not None, getattr(algo.run, "leave", None), partial(_has_panel, algo))
    algo.signal, algo.torn, algo.reason = None, False, None
    algo.stopping = algo.stopping and algo.continues
    reason, error = "failed", None
    end = algo.step + total_steps
    with interrupt.watch(), no_hanging(getattr(algo.config, "env_timeout", None)):
        algo.phases.switch("other")
        try:
            algo.loggers.set_total(end)
            algo.loggers.open(algo.run)
            algo.callbacks.on_training_start(algo=algo, step=algo.step, total_timesteps=end)
            algo.continues = False
            reason = _advance_until(algo, end, interrupt)
            algo.check_finite()
        except BaseException as raised:
            reason, error = _reason_for(raised), raised
            # An environment that training steps in fails before anything of the step is kept; one of a callback's does not.
            algo.torn = not (isinstance(raised, EnvError) and algo.boundary.is_untouched)
            raise
        finally:
            algo.signal = interrupt.signal
            algo.boundary.outside()
            _end(algo, reason, error)
    if interrupt.signal is not None and algo.run is None:
        signal.raise_signal(interrupt.signal)  # a script's own handlers decide what the signal means to it
    return _result(algo, reason)


def _has_panel(algo: Any) -> bool:
    """Whether a live panel is on the terminal."""
    return any(getattr(one, "is_live", False) for one in algo.loggers)


def _reason_for(error: BaseException) -> str:
    if isinstance(error, DivergedError):
        return "diverged"
    return "interrupted" if isinstance(error, KeyboardInterrupt | Terminated) else "failed"


def _end(algo: Any, reason: str, error: BaseException | None) -> None:
    """Tell callbacks and loggers that training is over; what they raise then does not hide what ended it."""
    algo.reason = reason
    try:
        algo.callbacks.on_training_end(algo=algo, step=algo.step, metrics=algo.metrics, reason=reason)
    except Exception as late:
        if error is None:
            raise
        error.add_note(f"then on_training_end raised {type(late).__name__}: {printable(late)}")
    finally:
        algo.loggers.flush()
        algo.loggers.close()
        algo.phases.switch(None)


def _advance_until(algo: Any, end: int, interrupt: Interrupt) -> str:
    """Fire the hooks for everything that happens until ``end``, a vote or a signal; return the reason."""
    callbacks, loggers, metrics, phases = algo.callbacks, algo.loggers, algo.metrics, algo.phases
    on_step = callbacks.on_step if callbacks.hook_members("on_step") else None
    on_train_batch = callbacks.on_train_batch if callbacks.hook_members("on_train_batch") else None
    on_rollout_end = callbacks.on_rollout_end if callbacks.hook_members("on_rollout_end") else None
    rate = _Rate(algo.step, end)
    while algo.step < end and not algo.stopping and interrupt.signal is None:
        algo.boundary.inside()
        for event in algo.advance():
            algo.boundary.is_untouched = False
            phases.switch("other")
            if isinstance(event, Stepped):
                algo.step += event.steps
                if event.episodes:
                    algo.episodes.add(event.episodes)
                    metrics.put(algo.episodes.summary())
                if on_step is not None:
                    known = {} if event.reward is None else {"reward": event.reward}
                    vote = on_step(algo=algo, step=algo.step, episodes=event.episodes, metrics=metrics, **known)
                    algo.stopping = algo.stopping or (vote is not None and not vote)
            elif isinstance(event, Updated):
                algo.n_updates += 1
                _check_names(event.metrics)
                metrics.put(event.metrics)
                _guard(algo, event.metrics)
                if on_train_batch is not None:
                    on_train_batch(algo=algo, step=algo.step, n_updates=algo.n_updates, metrics=metrics)
            else:
                if on_rollout_end is not None:
                    on_rollout_end(algo=algo, step=algo.step, metrics=metrics)
                loggers.on_rollout_end(algo.step, metrics)
        if algo.step >= loggers.next_due:
            previous = phases.switch("log")
            loggers.on_train_step(algo.step, rate.log_metrics(algo))
            phases.switch(previous)
        algo.boundary.reach()
    if interrupt.signal is not None:
        return "interrupted"  # without last rows of its own: what goes on from here writes those of the whole training
    loggers.finish(algo.step, rate.log_metrics(algo))
    return "stopped" if algo.stopping else "finished"


def _check_names(latest: Mapping[str, Any]) -> None:
    for name in ("step", "algo"):
        if name in latest:
            raise ConfigError(f"metrics has a figure named {name!r}, which hooks have as an argument of their own")


def _guard(algo: Any, latest: Mapping[str, Any]) -> None:
    """Stop before anything is saved or evaluated from a model that is no longer finite."""
    if algo.device.type != "cpu" and algo.n_updates % 100:
        return  # reading makes a GPU wait
    bad = algo.metrics.first_nonfinite(latest)
    if bad is not None:
        raise DivergedError(
            f"{bad} is {algo.metrics[bad]} at step {algo.step}, update {algo.n_updates}",
            hint="lower learning_rate, or look at the scale of rewards and observations",
            param=bad,
            value=algo.metrics[bad],
        )


class _Rate:
    """Steps per second and time left, from the monotonic clock."""

    def __init__(self, step: int, end: int) -> None:
        self.first_step, self.end, self.since = step, end, monotonic()
        self._counted = 0.0  # seconds that the algorithm's own count has already

    def log_metrics(self, algo: Any) -> Metrics:
        elapsed = max(monotonic() - self.since, 1e-9)
        per_second = (algo.step - self.first_step) / elapsed
        algo.elapsed_s += elapsed - self._counted
        self._counted = elapsed
        shown = Metrics(algo.metrics.values_by_name())
        shown.put({
            "n_updates": float(algo.n_updates),
            "steps_per_second": per_second,
            "time_elapsed_s": algo.elapsed_s,
            "time_left_s": max(self.end - algo.step, 0) / per_second if per_second else float("nan"),
            **algo.phases.metrics(),
        })  # fmt: skip
        return shown


def _result(algo: Any, reason: str) -> dict[str, Any]:
    return {**dict(algo.metrics), "n_updates": algo.n_updates, "reason": reason}

