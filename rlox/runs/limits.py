"""Callbacks that only a run needs: limits that the user set, and the link to its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from ..callbacks import Callback


class TimeLimit(Callback):
    """Stop at the first step after ``limit_s`` seconds of training."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.reached = False
        self._end: float | None = None

    def on_training_start(self, **kwargs: Any) -> None:
        self._end = monotonic() + self.limit_s

    def on_step(self, **kwargs: Any) -> bool:
        self.reached = self._end is not None and monotonic() >= self._end
        return not self.reached


class ReturnReached(Callback):
    """Stop once the mean return of a whole evaluation is ``target`` or higher."""

    def __init__(self, target: float) -> None:
        self.target = target
        self.reached = False

    def on_training_start(self, **kwargs: Any) -> None:
        self.reached = self.reached and getattr(kwargs.get("algo"), "continues", False)

    def state_dict(self) -> dict[str, Any]:
        return {"reached": self.reached}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reached = bool(state["reached"])

    def on_eval(self, **kwargs: Any) -> None:
        if kwargs["episode"] == kwargs["n_episodes"] and kwargs["return_mean"] >= self.target:
            self.reached = True

    def on_step(self, **kwargs: Any) -> bool:
        return not self.reached


class Once(Callback):
    """Call ``then()`` as soon as ``when()`` is true after a step, at the latest at the end; then never again."""

    def __init__(self, when: Callable[[], bool], then: Callable[[], object]) -> None:
        self.when, self.then = when, then
        self.done = False

    def on_step(self, **kwargs: Any) -> None:
        if not self.done and self.when():
            self.done = True
            self.then()

    def on_training_end(self, **kwargs: Any) -> None:
        self.on_step()
