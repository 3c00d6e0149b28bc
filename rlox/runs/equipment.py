"""The callbacks and loggers of a run: the public ones, set as its config says."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ..callbacks import CheckpointCallback, EarlyStoppingCallback, EvalCallback, VideoRecordingCallback
from ..config.resolve import Resolved
from ..config.units import seconds
from ..logging import ConsoleLogger, JSONLLogger, TensorBoardLogger, WandbLogger
from ..logging.terminal import make_console
from ..seeding import derive
from .directory import Run
from .limits import Once, ReturnReached, TimeLimit
from .plan import Plan

EVAL_STREAM = "eval-callback"


@dataclass
class Equipment:
    """What is handed to the algorithm, and what is asked of it afterwards.

    ``evaluation`` is the EvalCallback, None where there is nothing to evaluate in; ``limits`` maps options to the
    callbacks that end training for them.
    """

    callbacks: list[Any] = field(default_factory=list)
    loggers: list[Any] = field(default_factory=list)
    evaluation: EvalCallback | None = None
    limits: dict[str, Any] = field(default_factory=dict)

    def stopped_by(self) -> list[str]:
        """Return the options that ended training."""
        return [n for n, c in self.limits.items() if getattr(c, "reached", False) or getattr(c, "reason", None)]

    def has_best(self) -> bool:
        """Whether an evaluation has chosen a best model."""
        return self.evaluation is not None and self.evaluation.best_return > -math.inf


def equip(plan: Plan, run: Run, *, quiet: bool, color: str) -> Equipment:
    """Make the callbacks and loggers of a run."""
    found = Equipment()
    _evaluate_and_save(found, plan, run, quiet)
    found.limits = _limits(plan.resolved)
    found.callbacks += found.limits.values()  # after the evaluation, so that they see it in the same step
    if plan.resolved["checkpoint.link"]:
        saver = next(c for c in found.callbacks if isinstance(c, CheckpointCallback))
        found.callbacks.append(Once(lambda: any(p.is_file() for p in saver.saved[-1:]) or found.has_best(), run.link))
    found.loggers = _loggers(plan.resolved, run, quiet, color)
    return found


def _evaluate_and_save(found: Equipment, plan: Plan, run: Run, quiet: bool) -> None:
    resolved = plan.resolved
    if plan.eval_source is not None:
        found.evaluation = EvalCallback(
            plan.eval_source,
            eval_freq=resolved["eval.eval_freq"],
            n_eval_episodes=resolved["eval.eval_episodes"],
            best_model_path=run.checkpoints / "best.pt",
            verbose=False,
            eval_seed=derive(resolved["run.seed"], EVAL_STREAM) % 2**32,
            n_eval_envs=resolved["eval.n_eval_envs"],
            deterministic=resolved["eval.deterministic"],
        )
        found.callbacks.append(found.evaluation)
        if resolved["log.video"]:
            freq = resolved["eval.eval_freq"] or resolved["run.steps"]
            recorder = VideoRecordingCallback(run.path / "videos", freq, resolved["log.video"], verbose=not quiet)
            found.callbacks.append(recorder)
    saver = CheckpointCallback(
        resolved["checkpoint.save_freq"],
        run.checkpoints,
        verbose=False,
        keep_last=resolved["checkpoint.keep_last"],
    )
    found.callbacks.append(saver)


def _limits(resolved: Resolved) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if resolved["run.patience"]:
        limits["patience"] = EarlyStoppingCallback(resolved["run.patience"])
    if resolved["run.stop_at"] is not None:
        limits["stop_at"] = ReturnReached(resolved["run.stop_at"])
    if resolved["run.max_time"] is not None:
        limits["max_time"] = TimeLimit(seconds(resolved["run.max_time"]))
    return limits


def _loggers(resolved: Resolved, run: Run, quiet: bool, color: str) -> list[Any]:
    interval = resolved["log.log_interval"]
    found: list[Any] = [JSONLLogger(run.path / "metrics.jsonl", log_interval=interval)]
    if resolved["log.tensorboard"]:
        found.append(TensorBoardLogger(log_interval=interval))
    if resolved["log.wandb"]:
        found.append(WandbLogger(resolved["log.wandb_project"], interval))
    if not quiet:
        console = make_console()
        if resolved["log.progress"] != "auto":
            console.is_interactive = resolved["log.progress"] == "on"
        if color != "auto":
            console.no_color = color == "never"
        found.append(ConsoleLogger(interval, console=console))
    return found
