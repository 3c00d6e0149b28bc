"""The commands that follow a run, as its user would type them: what no file may name is named again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.toml import toml_value
from ..errors import CheckpointError
from ..files import shortest

if TYPE_CHECKING:
    from ..envs import EnvSource
    from .plan import Plan


def eval_command(plan: Plan, path: str, imports: tuple[str, ...]) -> str:
    """Return the command that evaluates a checkpoint of the run."""
    words, source = ["rlox", "eval", path], plan.eval_source
    if plan.target.actions is None:
        words += ["--algo", plan.target.name]
    words += _imports(imports)
    if source is None:
        return shlex.join([*words, "--env"]) + " ID"
    if source.id is None or source is not plan.source or not _may_be_recorded(source):
        words += ["--env", str(source.text)]
        for key, value in source.kwargs.items():
            words += ["--env-kwarg", f"{key}={toml_value(value)}"]
    return shlex.join(words)


def resume_command(plan: Plan, run: Path, imports: tuple[str, ...], steps: int | None = None) -> str:
    """Return the command that goes on with the run, to ``steps`` where they are given."""
    own = plan.target.actions is None
    words = ["rlox", "train" if plan.target.kind == "online" else "offline", *([plan.target.name] if own else [])]
    words += ["--resume", shortest(run), *_imports(imports)]
    env = plan.resolved["run.env"]
    if env is not None and ":" in env:
        words += ["--env", env]
    return shlex.join([*words, *([] if steps is None else ["--steps", str(steps)])])


def _imports(packages: tuple[str, ...]) -> list[str]:
    return [word for package in packages for word in ("--import", package)]


def _may_be_recorded(source: EnvSource) -> bool:
    """Whether a reader makes this environment from what a checkpoint records of it."""
    from ..envs import EnvSource

    try:
        EnvSource.from_record(source.id, source.kwargs)
    except CheckpointError:
        return False
    return True
