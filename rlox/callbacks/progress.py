"""A progress bar."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..logging import ConsoleLogger
from ..logging.terminal import can_animate, is_ascii, make_console, stop_quietly
from .base import Callback
from .context import StepCount

if TYPE_CHECKING:
    from rich.progress import Progress

MIN_REFRESH_S = 0.2


class ProgressBarCallback(Callback):
    """Show a progress bar with speed and time left on stderr.

    It appears on a terminal only, and not beside a ConsoleLogger, whose panel has a bar. It is drawn at most five
    times a second, by no thread of its own; a closed stderr makes it silent.
    """

    def __init__(self) -> None:
        self._count = StepCount()
        self._progress: Progress | None = None
        self._stop: Callable[[], Any] | None = None
        self._drawn_at = -MIN_REFRESH_S

    def on_training_start(self, **kwargs: Any) -> None:
        step = self._count.stay(kwargs)
        self._finish()
        if any(isinstance(logger, ConsoleLogger) for logger in getattr(kwargs.get("algo"), "loggers", None) or ()):
            return
        self._safely(self._start, step, kwargs.get("total_timesteps"))

    def on_step(self, **kwargs: Any) -> None:
        step = self._count.advance(kwargs)
        progress = self._progress
        if progress is None or monotonic() - self._drawn_at < MIN_REFRESH_S:
            return
        self._drawn_at = monotonic()
        self._safely(lambda: progress.update(progress.task_ids[0], completed=step, refresh=True))

    def on_training_end(self, **kwargs: Any) -> None:
        step = self._count.stay(kwargs)
        progress = self._progress
        if progress is not None:
            self._safely(lambda: progress.update(progress.task_ids[0], completed=step, refresh=True))
        self._finish()

    @property
    def is_shown(self) -> bool:
        """Whether a bar is on the screen."""
        return self._progress is not None

    def _start(self, step: int, total: int | None) -> None:
        console = make_console()
        if not can_animate(console):
            return
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        between = "-" if is_ascii(console) else "•"
        progress = Progress(
            BarColumn(bar_width=None),
            TaskProgressColumn(show_speed=True),
            TextColumn("{task.completed:,.0f} steps"),
            TextColumn(between),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            expand=True,
        )
        self._stop = weakref.finalize(
            self, stop_quietly, progress
        )  # also at exit, so that the cursor is never left hidden
        progress.add_task("train", total=total, completed=step)
        progress.start()
        self._progress = progress

    def _finish(self) -> None:
        stop, self._stop, self._progress = self._stop, None, None
        if stop is not None:
            stop()

    def _safely(self, action: Any, *arguments: Any) -> None:
        """Run something that writes to the terminal; give up when the terminal is gone."""
        try:
            action(*arguments)
        except (OSError, ValueError):  # ValueError: I/O operation on closed file
            self._progress = None
