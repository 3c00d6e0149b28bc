"""One run from its checked plan to its summary: the folder, the public callbacks and loggers, training, the end."""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.resolve import Resolved
from ..errors import ConfigError, DivergedError, RloxError
from ..files import atomic_write, human_bytes, shortest
from ..seeding import derive
from ..signals import EXIT_CODES
from ..user_code import blaming
from .begin import begin
from .commands import eval_command, resume_command
from .directory import Run, create_run, kept_checkpoint
from .lock import now
from .meta import describe, describe_again
from .past import Past
from .plan import Plan, Target, make_plan
from .threads import threads

FINAL_STREAM = "final-evaluation"


@dataclass(frozen=True)
class Launch:
    """How a run is started: what is no part of its config.

    ``resume`` is the run to go on with, in its folder; ``fork`` the run whose state a new one starts from; ``init_from``
    a checkpoint whose weights it starts from. ``started`` is called with the run, and with the fields of its first
    line, before torch is imported; ``note`` shows a line to the user; ``left`` says its last words with the exit code
    when a second signal ends the process.
    """

    runs_dir: str = "runs"
    run_dir: str | None = None
    resume: Past | None = None
    fork: Past | None = None
    init_from: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    quiet: bool = False
    color: str = "auto"
    started: Callable[[Run, dict[str, str]], None] = lambda run, fields: None
    note: Callable[[str], None] = lambda text: None
    left: Callable[[int], None] = lambda exit_code: None


@dataclass
class Outcome:
    """What a run came to.

    ``result`` holds the figures and paths that are shown; ``exit_code`` is 0 after a finished or stopped run;
    ``eval_command`` evaluates what was trained, ``resume_command`` goes on with it.
    """

    run: Run
    reason: str
    exit_code: int
    best: Path | None
    result: dict[str, Any] = field(default_factory=dict)
    eval_command: str | None = None
    resume_command: str | None = None


def train(target: Target, resolved: Resolved, launch: Launch) -> Outcome:
    """Train as resolved, in a run directory of its own.

    Parameters
    ----------
    target : Target
    resolved : Resolved
    launch : Launch

    Returns
    -------
    Outcome

    Raises
    ------
    RloxError
        From the checks, before anything is written; from training, with the run's status written.
    """
    plan = make_plan(target, resolved)
    for text in plan.notes:
        launch.note(text)
    run = _make_run(plan, launch)
    try:
        return _Session(plan, launch, run).execute()
    finally:
        run.close()


def _make_run(plan: Plan, launch: Launch) -> Run:
    seed = plan.resolved["run.seed"]
    if launch.resume is not None:
        return Run.reopen(launch.resume.path)
    if launch.run_dir is not None:
        return Run.create(Path(launch.run_dir))
    return create_run(Path(launch.runs_dir), plan.target.name, plan.subject, seed, launch.name)


class _Session:
    """One run while it lives."""

    def __init__(self, plan: Plan, launch: Launch, run: Run) -> None:
        self.plan, self.launch, self.run, self.resolved = plan, launch, run, plan.resolved
        self.since = time.monotonic()
        self.began = False
        self.algo: Any = None
        self.equipment: Any = None
        run.on_leave = [self._left, launch.left]

    def execute(self) -> Outcome:
        """Train and sum up; whatever happens, the status says it, and a new run that cannot begin leaves nothing."""
        try:
            self.launch.started(self.run, {"run": shortest(self.run.path), **self.plan.summary()})
            with threads(self.plan.threads), blaming(self.plan.target.load()):
                self._prepare()
                self.began = True
                self.run.status("running", started=now(), pid=os.getpid(), step=self.algo.step)
                if not self._was_stopped():
                    self.algo.train(max(self.resolved["run.steps"] - self.algo.step, 0))
                outcome = self._conclude()
        except BaseException as error:
            if not self.began and self.launch.resume is None:
                self.run.discard()
            self._failed(error)
            raise
        finally:
            if hasattr(self.algo, "close"):
                self.algo.close()
        status = "finished" if outcome.exit_code == 0 else "interrupted"
        inside: dict[str, Any] = {name: f"checkpoints/{name}.pt" for name in ("best", "last") if name in outcome.result}
        self.run.status(status, outcome.exit_code, **(outcome.result | inside))
        return outcome

    def _was_stopped(self) -> bool:
        """Whether a limit had ended this run before a kill, so that only the end of it is missing."""
        stopped = self.launch.resume is not None and self.algo.reason == "stopped" and self.equipment.stopped_by()
        return bool(stopped) and self.resolved["run.steps"] <= self.algo.total_steps

    def _prepare(self) -> None:
        """Write what describes the run and build the algorithm."""
        past = self.launch.resume
        if past is None or not past.meta:
            describe(self.run, self.plan, self.launch)
        self.algo = self._build()
        self.algo.run = self.run
        begin(self.algo, self.launch, self.resolved["run.steps"])
        if past is not None and past.meta:
            describe_again(self.run, self.plan, self.launch, past, self.algo.step)
        self._check_disk()

    def _build(self) -> Any:
        """Construct the algorithm with the callbacks and loggers that anybody could pass."""
        from .equipment import equip

        cls, resolved, target = self.plan.target.load(), self.resolved, self.plan.target
        self.equipment = equip(self.plan, self.run, quiet=self.launch.quiet, color=self.launch.color)
        given: dict[str, Any] = {
            "seed": resolved["run.seed"],
            "device": self.plan.device,
            "callbacks": self.equipment.callbacks,
            "logger": self.equipment.loggers,
        }
        if target.config is not None and hasattr(cls, "config_class"):
            given["config"] = resolved.build(target.config)
        elif "algo.batch_size" in resolved.schema.options:
            given["batch_size"] = resolved["algo.batch_size"]
        if target.kind == "online":
            return cls(self.plan.source, n_envs=resolved["run.n_envs"], **given)
        optional = {"env": self.plan.source, "action_low": resolved["run.action_low"],
                    "action_high": resolved["run.action_high"]}  # fmt: skip
        given.update({k: v for k, v in optional.items() if v is not None})
        _check_accepts(cls, given)
        algo = cls(self.plan.dataset, **given)
        if target.actions is None:
            algo.name = target.name  # what a checkpoint of a class of the user's own says it is
        return algo

    def _check_disk(self) -> None:
        """Warn when the folder has no room for a few checkpoints."""
        import warnings

        size = _state_bytes(self.algo.state_dict()) + self._buffer_bytes()
        free = shutil.disk_usage(self.run.path).free
        if free < 3 * size:
            warnings.warn(f"{human_bytes(free)} are free for checkpoints of {human_bytes(size)} each", stacklevel=2)

    def _buffer_bytes(self) -> int:
        """Return the bytes of the replay buffer that will be saved."""
        capacity = self.resolved.get("algo.buffer_size")
        if not capacity or not self.resolved.get("checkpoint.save_buffer"):
            return 0
        return int(self.plan.memory * min(self.resolved["run.steps"] / capacity, 1))

    def _conclude(self) -> Outcome:
        """Say what was reached and where it is; best.pt is evaluated again, on episodes that did not choose it."""
        algo, run = self.algo, self.run
        interrupted = algo.reason == "interrupted"
        exit_code = EXIT_CODES.get(algo.signal, 130) if interrupted else 0
        best, last = run.checkpoints / "best.pt", run.checkpoints / "last.pt"
        evaluation = self.equipment.evaluation
        if evaluation is None and last.is_file():
            atomic_write(best, lambda file: _copy(last, file))
        result: dict[str, Any] = {
            "algorithm": self.plan.target.name,
            "run": shortest(run.path),
            "reason": algo.reason,
            "step": algo.step,
            "n_updates": algo.n_updates,
        }
        reached = [signal.Signals(algo.signal).name] if interrupted and algo.signal else self.equipment.stopped_by()
        if reached:
            result["stopped_by"] = ", ".join(reached)
        if best.is_file():
            result["best"] = run.shown("best.pt")
            if evaluation is not None:
                result["best_step"] = evaluation.best_step
        if last.is_file():
            result["last"] = run.shown("last.pt")
        if best.is_file() and evaluation is not None and not interrupted:
            result.update(self._evaluate_again(best))
        result["seconds"] = round(time.monotonic() - self.since, 1)
        shown = result.get("best") or result.get("last")
        imports = self.launch.imports
        command = None if shown is None else eval_command(self.plan, shown, imports)
        timed_out = reached == ["max_time"]
        more = None if interrupted or timed_out else 2 * self.resolved["run.steps"]
        over = bool(reached) and not interrupted and not timed_out  # more steps are not what it wants
        go_on = resume_command(self.plan, run.path, imports, more) if last.is_file() and not over else None
        return Outcome(run, algo.reason, exit_code, best if best.is_file() else None, result, command, go_on)

    def _evaluate_again(self, path: Path) -> dict[str, Any]:
        from ..evaluation import evaluate

        resolved, source = self.resolved, self.plan.eval_source
        assert source is not None
        algo = type(self.algo).from_checkpoint(path, env=source, device=self.plan.device, resume=False)
        n = resolved["eval.n_eval_envs"]
        found = evaluate(
            algo.policy(min(n, resolved["eval.eval_episodes"])),
            source,
            resolved["eval.eval_episodes"],
            seed=derive(resolved["run.seed"], FINAL_STREAM) % 2**32,
            n_envs=n,
            deterministic=resolved["eval.deterministic"],
        )
        n = len(found.returns)
        evaluated = f"best.pt, {n} fresh episode{'s' if n > 1 else ''}"
        return {"evaluated": evaluated, "return_mean": found.return_mean, "return_std": found.return_std, "n_episodes": n}

    def _reached(self) -> dict[str, int]:
        """Return how far the run is: as its earlier process left it, until that was taken over."""
        before = {} if self.launch.resume is None else self.launch.resume.status
        reached = {}
        for name in ("step", "n_updates"):
            said = before.get(name)
            reached[name] = max(getattr(self.algo, name, 0), said if type(said) is int else 0)
        return reached

    def _known(self, reason: str) -> dict[str, Any]:
        """Return what a run that does not come to its summary says of itself."""
        run = shortest(self.run.path)
        return {"algorithm": self.plan.target.name, "run": run, "reason": reason, **self._reached()}

    def _left(self, exit_code: int) -> None:
        """Write the status of a run that a second signal ends."""
        self.run.status("interrupted", exit_code, at_once=True, **self._known("interrupted"))

    def _failed(self, error: BaseException) -> None:
        """Write the status of a run that ended in an exception, and say what is left of it."""
        if not self.run.path.is_dir() or (self.launch.resume is not None and not self.began):
            return  # it never began, or is as it was before
        code = 130 if isinstance(error, KeyboardInterrupt) else int(getattr(error, "exit_code", 1))
        ended = "diverged" if isinstance(error, DivergedError) else "failed"
        status = ended if isinstance(error, Exception) else "interrupted"
        known = self._known(status)
        if isinstance(error, Exception):
            known["error"] = f"{type(error).__name__}: {error}"
        with contextlib.suppress(RloxError):  # what is raised matters more than that the disk is full
            self.run.status(status, code, **known)
        log = self.run.crash(error) if isinstance(error, Exception) else None
        if isinstance(error, RloxError):
            kept = kept_checkpoint(self.run.path)
            parts = [error.hint, kept and f"the last good checkpoint is {shortest(kept)}",
                     log and f"the traceback is in {shortest(log)}"]  # fmt: skip
            error.hint = "; ".join(part for part in parts if part) or None


def _check_accepts(cls: type[Any], given: dict[str, Any]) -> None:
    """Say which keyword the constructor of a user's class does not take."""
    parameters = inspect.signature(cls.__init__).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    missing = [name for name in given if name not in parameters]
    if missing:
        raise ConfigError(f"{cls.__name__} does not take {', '.join(missing)}",
                          hint="let its __init__ take **kwargs and hand them to super().__init__")  # fmt: skip


def _state_bytes(state: Any) -> int:
    if isinstance(state, dict):
        return sum(_state_bytes(v) for v in state.values())
    if isinstance(state, list | tuple):
        return sum(_state_bytes(v) for v in state)
    return int(getattr(state, "nbytes", 0))


def _copy(source: Path, file: Any) -> None:
    with source.open("rb") as old:
        shutil.copyfileobj(old, file)
