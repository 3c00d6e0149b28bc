"""Stopping when training no longer gets better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..logging.base import as_number
from ..logging.period import check_period
from .base import Callback, CallbackList
from .context import StepCount, log_event
from .evaluate import EvalCallback

WINDOW_EPISODES = 10


class EarlyStoppingCallback(Callback):
    """Stop training after ``patience`` observations in a row without an improvement.

    In a training where evaluations are made, an observation is the mean return of an evaluation; in another one, the
    mean return of 10 finished episodes in a row. Alone, without an algorithm, it is the ``reward`` of each ``on_step``
    or the ``return_mean`` of each evaluation.

    Parameters
    ----------
    patience : int
        Observations, ≥ 1.
    min_delta : float
        An improvement is more than this above the best, ≥ 0, in units of return.

    Attributes
    ----------
    best : float
        Best observation, −inf before the first; NaN is never the best.
    wait : int
        Observations since the best one.
    reason : str or None
        Why training was stopped, in words.

    Raises
    ------
    ConfigError
        For a value out of range.
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0) -> None:
        self.patience = check_period(patience, "patience", minimum=1)
        delta = as_number(min_delta)
        if delta is None or not 0 <= delta < math.inf:
            raise ConfigError(f"min_delta is {min_delta!r}, must be a number of at least 0", param="min_delta")
        self.min_delta = min_delta
        self.best = -math.inf
        self.wait = 0
        self.reason: str | None = None
        self._watch = ""  # nothing seen yet; then "evaluations", "episodes" or "rewards"
        self._returns: list[float] = []
        self._count = StepCount()
        self._algo: Any = None

    def on_attach(self, algo: Any) -> None:
        self._algo = algo

    def on_training_start(self, **kwargs: Any) -> None:
        self._algo = kwargs.get("algo", self._algo)
        self._count.stay(kwargs)
        if self.reason is not None and not getattr(self._algo, "continues", False):
            self.wait, self.reason = 0, None  # another training after the one that was stopped gets its own patience
        if self._algo is not None and self._evaluates():
            self._watch_only("evaluations")

    def on_step(self, **kwargs: Any) -> bool:
        """Return False once patience is exhausted."""
        self._algo = kwargs.get("algo", self._algo)
        step = self._count.advance(kwargs)
        if self._algo is not None:
            if self._watch != "evaluations":
                self._watch_episodes(step, kwargs.get("episodes") or ())
        elif kwargs.get("reward") is not None:
            self._watch_only("rewards")
            self._observe(step, kwargs["reward"])
        return self.reason is None

    def on_eval(self, **kwargs: Any) -> None:
        if self.reason is not None or kwargs.get("return_mean") is None:
            return
        n = kwargs.get("n_episodes")
        if n is not None and kwargs.get("episode", n) < n:
            return  # the mean of a part of the episodes is no observation
        self._watch_only("evaluations")
        self._observe(self._count.stay(kwargs), kwargs["return_mean"])

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "wait": self.wait,
            "reason": self.reason,
            "watch": self._watch,
            "returns": list(self._returns),
            "step": self._count.step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.wait, self.reason = state["best"], state["wait"], state["reason"]
        self._watch, self._returns, self._count.step = state["watch"], list(state["returns"]), state["step"]

    def _evaluates(self) -> bool:
        callbacks = getattr(self._algo, "callbacks", None)
        members = callbacks.walk() if isinstance(callbacks, CallbackList) else ()
        return any(isinstance(member, EvalCallback) and member.eval_freq > 0 for member in members)

    def _watch_only(self, what: str) -> None:
        """Forget what was seen when the kind of observation changes: their scales need not agree."""
        if self._watch not in ("", what):
            self.best, self.wait, self._returns = -math.inf, 0, []
        self._watch = what

    def _watch_episodes(self, step: int, episodes: Any) -> None:
        self._watch = "episodes"
        for episode in episodes:
            self._returns.append(float(episode["return"]))
            if len(self._returns) == WINDOW_EPISODES:
                self._observe(step, sum(self._returns) / WINDOW_EPISODES)
                self._returns = []

    def _observe(self, step: int, value: Any) -> None:
        if self.reason is not None:
            return
        score = as_number(value)
        if score is not None and score > (self.best if self.best == -math.inf else self.best + self.min_delta):
            self.best, self.wait = score, 0
            return
        self.wait += 1
        if self.wait >= self.patience:
            unit = f"windows of {WINDOW_EPISODES} episodes" if self._watch == "episodes" else self._watch
            self.reason = f"no improvement over {self.best:.6g} in {self.wait} {unit}"
            log_event(self._algo, step, "warning", message=f"stopped early: {self.reason}")
