"""Metrics for the person at the terminal."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..errors import printable
from ..files import shortest
from .base import LoggerCallback, as_number, prefixed
from .period import check_period
from .terminal import can_animate, encodable, is_ascii, make_console, stop_quietly, write_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from .panel import Snapshot

MIN_REFRESH_S = 0.2
_MIN_LIVE_WIDTH = 20
_MOSTLY_UPDATES = 0.9  # updates per step at which the speed so far holds for what follows
# What a training that is gone on with still shows
_KEPT = ("step", "elapsed_s", "return_mean", "length_mean", "n_episodes", "eval_step", "eval_mean", "eval_std", "best")
_NO_LOSS = frozenset({"n_updates", "phase"})


class ConsoleLogger(LoggerCallback):
    """Show progress on stderr: a live panel on a terminal, one plain line per interval elsewhere.

    The panel has a progress bar, speed and time left, the mean return of the last 100 episodes with its history, the
    last evaluation and the best one, losses, and where the time goes by phase. It is drawn when something is logged,
    at most five times a second, by no thread of its own. ``NO_COLOR``, ``TERM=dumb``, encodings other than UTF-8 and
    narrow terminals (below 60 columns: stacked lines) are respected; a closed stderr makes it silent.

    Parameters
    ----------
    log_interval : int
        Steps between two updates, ≥ 1.
    console : rich.console.Console, optional
        Where to write instead of stderr.
    """

    def __init__(self, log_interval: int = 1000, *, console: Console | None = None) -> None:
        self.log_interval = check_period(log_interval, "log_interval", minimum=1)
        self.console = console
        self._console: Console | None = None
        self._live: Live | None = None
        self._stop: Callable[[], Any] | None = None
        self._shot: Snapshot | None = None
        self._history: deque[float] = deque(maxlen=24)
        self._total: int | None = None
        self._title = "rlox"
        self._elapsed_before = 0.0  # of the training that is gone on with
        self._started: tuple[float, int] | None = None
        self._updating: tuple[float, int] | None = None
        self._drawn_at = -MIN_REFRESH_S
        self._skipped: Mapping[str, Any] | None = None

    def open(self, run: Any = None) -> None:
        """Find out what the terminal can do, and start the panel on it."""
        self._title = _title(run)
        self._started = self._updating = None
        self._prepare().title = self._title

    def set_total(self, total_timesteps: int) -> None:
        self._total = int(total_timesteps)
        if self._shot is not None:
            self._shot.total = self._total

    def on_train_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        shot = self._prepare()
        shot.step = int(step)
        if self._live is not None and monotonic() - self._drawn_at < MIN_REFRESH_S:
            self._skipped = metrics  # nothing is read, so skipping costs no synchronisation
            return
        self._skipped = None
        self._read(shot, metrics)
        self._show("train")

    def on_eval(self, step: int, metrics: Mapping[str, Any]) -> None:
        shot = self._prepare()
        shot.step = shot.eval_step = int(step)
        shot.eval_mean = as_number(metrics.get("return_mean"))
        shot.eval_std = as_number(metrics.get("return_std"))
        if shot.eval_mean is not None and shot.eval_mean == shot.eval_mean:  # NaN is never best
            shot.best = shot.eval_mean if shot.best is None else max(shot.best, shot.eval_mean)
        self._show("eval")

    def on_event(self, step: int, kind: str, fields: Mapping[str, Any]) -> None:
        shot = self._prepare()
        if kind == "checkpoint":
            shot.saved = printable(shortest(str(fields.get("path") or "?")))
            if self._live is None:
                self._line(f"step={step} saved={shot.saved}")
        else:
            message = fields.get("message") or ", ".join(f"{name}={value}" for name, value in fields.items())
            self._line(f"step={step} {kind}: {printable(message)}")

    def close(self) -> None:
        """Draw the last state and give the terminal back."""
        skipped, self._skipped = self._skipped, None
        if self._live is not None:
            if skipped is not None and self._shot is not None:
                self._read(self._shot, skipped)
            self._draw()
        stop, self._stop, self._live = self._stop, None, None
        if stop is not None and self._console is not None:
            stop()
            self._safely(_clear_line, self._console)
        self._console = None

    def state_dict(self) -> dict[str, Any]:
        """Return what is shown of the past: evaluations, returns, time; {} before there is any."""
        shot = self._shot
        if shot is None:
            return {}
        return {**{name: getattr(shot, name) for name in _KEPT}, "history": list(self._history)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Show the past of the training that is gone on with."""
        from .panel import Snapshot

        self._history.clear()
        self._history.extend(state.get("history", ()))
        known = {name: state[name] for name in _KEPT if name in state}
        self._shot = Snapshot(title=self._title, total=self._total, history=tuple(self._history), **known)
        self._elapsed_before = self._shot.elapsed_s or 0.0

    @property
    def is_live(self) -> bool:
        """Whether a panel is on the screen."""
        return self._live is not None

    def _prepare(self) -> Snapshot:
        """Return the snapshot to fill, with the terminal ready."""
        if self._shot is None:
            from .panel import Snapshot

            self._shot = Snapshot(title=self._title, total=self._total)
        if self._console is None:
            self._console = self.console if self.console is not None else make_console()
            if can_animate(self._console) and self._console.width >= _MIN_LIVE_WIDTH:
                self._safely(self._start_live, self._console)
        return self._shot

    def _start_live(self, console: Console) -> None:
        import sys

        from rich.live import Live

        # Redirected, so that what a program prints appears above the panel; a stdout that is a file stays untouched
        both = sys.stdout is not None and sys.stdout.isatty()
        live = Live(console=console, auto_refresh=False, redirect_stdout=both, redirect_stderr=True)
        self._stop = weakref.finalize(self, stop_quietly, live)  # also at exit, so that the cursor is never left hidden
        live.start()
        self._live = live

    def _read(self, shot: Snapshot, metrics: Mapping[str, Any]) -> None:
        numbers = {name: as_number(value) for name, value in metrics.items()}
        values = {name: value for name, value in numbers.items() if value is not None}
        now = monotonic()
        if self._started is None:
            self._started = now, shot.step
        since, first = self._started
        own_rate = (shot.step - first) / (now - since) if now > since and shot.step > first else None
        shot.elapsed_s = values.get("time_elapsed_s", self._elapsed_before + now - since)
        shot.per_second = values.get("steps_per_second", own_rate)
        own_left = max(shot.total - shot.step, 0) / shot.per_second if shot.total and shot.per_second else None
        shot.left_s = values.get("time_left_s", own_left)
        if "n_updates" in values:
            self._correct_speed(shot, values["n_updates"], now)
        if "return_mean" in values:
            shot.return_mean = values["return_mean"]
            self._history.append(shot.return_mean)
            shot.history = tuple(self._history)
        shot.length_mean = values.get("length_mean", shot.length_mean)
        shot.n_episodes = int(values["n_episodes"]) if "n_episodes" in values else shot.n_episodes
        shot.shares = {name[6:]: value for name, value in values.items() if name.startswith("share_")}
        losses = {n: v for n, v in values.items() if prefixed(n).startswith("train/") and n not in _NO_LOSS}
        shot.losses = {name.removeprefix("train/"): value for name, value in losses.items()}

    def _correct_speed(self, shot: Snapshot, n_updates: float, now: float) -> None:
        """Measure speed since updates began: the steps before are faster, and say nothing of those to come."""
        if n_updates >= _MOSTLY_UPDATES * shot.step:
            return
        if self._updating is None or n_updates == 0:
            self._updating = (now, shot.step) if n_updates else None
            shot.per_second = shot.left_s = None
            return
        since, first = self._updating
        if now > since and shot.step > first:
            shot.per_second = (shot.step - first) / (now - since)
            shot.left_s = None if shot.total is None else max(shot.total - shot.step, 0) / shot.per_second

    def _show(self, kind: str) -> None:
        if self._live is not None:
            self._draw()
        elif self._shot is not None:
            from .panel import plain_eval, plain_train

            self._line(plain_train(self._shot) if kind == "train" else plain_eval(self._shot))

    def _draw(self) -> None:
        live, console, shot = self._live, self._console, self._shot
        if live is None or console is None or shot is None:
            return
        from .panel import render

        color = console.color_system is not None and not console.no_color
        self._drawn_at = monotonic()
        panel = render(shot, console.width, ascii_only=is_ascii(console), color=color)
        self._safely(lambda: live.update(panel, refresh=True))

    def _line(self, text: str) -> None:
        console = self._console
        if console is None or console.quiet:
            return
        if self._live is not None:
            shown = encodable(text, console.encoding)
            self._safely(lambda: console.print(shown, markup=False, highlight=False))
        elif not write_line(text, console.file):
            console.quiet = True

    def _safely(self, action: Any, *arguments: Any) -> None:
        """Run something that writes to the terminal; a terminal that is gone makes the logger silent."""
        try:
            action(*arguments)
        except (OSError, ValueError):  # ValueError: I/O operation on closed file
            if self._console is not None:
                self._console.quiet = True


def _clear_line(console: Console) -> None:
    """Clear what stands below the panel: a signal handler may have written a line there."""
    from rich.control import Control
    from rich.segment import ControlType

    console.control(Control((ControlType.ERASE_IN_LINE, 0)))


def _title(run: Any) -> str:
    """Return ``sac · Pendulum-v1`` from ``runs/sac/Pendulum-v1/<run>``."""
    parts = () if run is None else run.path.parts[-3:-1]
    return " · ".join(printable(part) for part in parts) if len(parts) == 2 else "rlox"
