"""Where the time of a training goes, from marks that the loop sets when it changes from one phase to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from ..errors import ConfigError
from .base import Callback

PHASES = ("env", "inference", "buffer", "update", "eval", "log", "save", "other")


class PhaseTimer:
    """A stopwatch with one hand per phase, of which exactly one runs.

    ``switch(name)`` gives the time since the last switch to the phase that ran until now and starts another; None
    stops the watch. Costs a fraction of a microsecond, so it can stand around every call in a loop.

    Attributes
    ----------
    seconds : dict of str to float
        Seconds per phase up to the last switch.
    phase : str or None
        The phase that runs now.
    """

    __slots__ = ("_since", "phase", "seconds")

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.phase: str | None = None
        self._since = 0.0

    def switch(self, name: str | None) -> str | None:
        """Start the phase ``name`` (None: stop) and return the one that ran until now.

        Raises
        ------
        ConfigError
            When there is no such phase.
        """
        seconds = self.seconds
        if name is not None and name not in seconds:
            raise ConfigError(f"phase is {name!r}, must be one of {', '.join(PHASES)}")
        now = perf_counter()
        previous = self.phase
        if previous is not None:
            seconds[previous] += now - self._since
        self.phase = name
        self._since = now
        return previous

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Run the body of a ``with`` as the phase ``name``, then go back to the phase before."""
        previous = self.switch(name)
        try:
            yield
        finally:
            self.switch(previous)

    def elapsed(self) -> dict[str, float]:
        """Return the seconds per phase up to now."""
        self.switch(self.phase)
        return dict(self.seconds)

    def shares(self) -> dict[str, float]:
        """Return each phase's share of the time up to now; they sum to 1 (before any time is taken, all is other)."""
        seconds = self.elapsed()
        total = sum(seconds.values())
        if total <= 0.0:
            return {name: float(name == "other") for name in seconds}
        return {name: value / total for name, value in seconds.items()}

    def metrics(self) -> dict[str, float]:
        """Return the shares by the names that loggers know, ``share_env`` and so on."""
        return {f"share_{name}": share for name, share in self.shares().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds per phase up to now."""
        return {"seconds": self.elapsed()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from saved seconds."""
        self.seconds.update({name: float(state["seconds"].get(name, 0.0)) for name in PHASES})


class TimingCallback(Callback):
    """Tell how long training spent in each phase.

    In a training it reads the marks of the loop; alone, all time from the first hook to ``on_training_end`` is
    ``other``.
    """

    def __init__(self) -> None:
        self._phases = PhaseTimer()
        self._shared = False

    def on_attach(self, algo: Any) -> None:
        phases = getattr(algo, "phases", None)
        if isinstance(phases, PhaseTimer):
            self._phases = phases
            self._shared = True

    def on_training_start(self, **kwargs: Any) -> None:
        self._run(kwargs)

    def on_step(self, **kwargs: Any) -> None:
        if not self._shared and self._phases.phase is None:
            self._run(kwargs)

    def on_training_end(self, **kwargs: Any) -> None:
        if not self._shared:
            self._phases.switch(None)

    def summary(self) -> dict[str, dict[str, float]]:
        """Return ``{phase: {"seconds", "share"}}`` up to now; the shares sum to 1."""
        shares = self._phases.shares()
        return {name: {"seconds": self._phases.seconds[name], "share": share} for name, share in shares.items()}

    def _run(self, kwargs: Mapping[str, Any]) -> None:
        if "algo" in kwargs:
            self.on_attach(kwargs["algo"])
        if not self._shared:
            self._phases.switch("other")
