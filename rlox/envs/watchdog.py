"""A limit on the time that an environment in this process takes for one call, at no cost per step.

An interval timer ticks a few times per ``timeout_s``. At each tick the frames of the main thread say whether it is inside
a call of an environment, and which. The same call at so many ticks in a row that ``timeout_s`` has passed is a hang. Ticks
are counted, not seconds, so that a process that was stopped and continued is not taken for one that hangs.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .failure import EnvFailure
from .slot import Slot

TICKS = 4  # per timeout_s: a hang is noticed between one and five quarters of it
CALLS = {
    Slot.step.__code__: "step",
    Slot.reset.__code__: "reset",
    Slot.own.__code__: "state_dict",
    Slot.restore.__code__: "load_state_dict",
}


class Hanging(BaseException):
    """Raised inside an environment that hangs; no Exception, since an environment may catch those."""

    def __init__(self, slot: Slot, call: str, timeout_s: float) -> None:
        super().__init__(call)
        self.slot, self.call, self.timeout_s = slot, call, timeout_s

    def failure(self) -> EnvFailure:
        """Return the error that names environment, episode and step."""
        slot = self.slot
        return EnvFailure(
            f"environment {slot.index}, episode {slot.episode}, step {slot.t}: "
            f"{self.call} gave no answer within {self.timeout_s:g} s",
            env=slot.index,
            hint="raise `--env-timeout` if the environment is only slow",
        )


@contextmanager
def no_hanging(timeout_s: float | None) -> Iterator[None]:
    """End a call of an environment in this process that takes longer than ``timeout_s`` with EnvFailure.

    Does nothing where ``timeout_s`` is None, outside the main thread, and where somebody else uses the alarm signal or its
    timer. Compiled code that never returns to Python cannot be ended this way: a worker process can.
    """
    free = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    free = free and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    if timeout_s is None or not free or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return
    watch = _Watch(timeout_s)
    tick = watch.tick  # one object: a bound method is made anew each time it is read
    signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, timeout_s / TICKS, timeout_s / TICKS)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGALRM) is tick:  # else it is the environment's own by now
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


class _Watch:
    """Which call of an environment was under way at the last tick, and at how many in a row."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._seen: tuple[Slot, str, int, int] | None = None
        self._ticks = 0

    def tick(self, number: int, frame: FrameType | None) -> None:
        now = None if sys.gettrace() is not None else _call_of(frame)  # a debugger's user may take his time
        if now is None or now != self._seen:
            self._seen, self._ticks = now, 0
            return
        self._ticks += 1
        if self._ticks >= TICKS:
            self._seen = None
            raise Hanging(now[0], now[1], self._timeout_s)


def _call_of(frame: FrameType | None) -> tuple[Slot, str, int, int] | None:
    """Return the slot whose environment is running, what was called, its episode and step."""
    while frame is not None:
        call = CALLS.get(frame.f_code)
        if call is not None:
            slot: Slot = frame.f_locals["self"]
            return slot, call, slot.episode, slot.t
        frame = frame.f_back
    return None
