"""The commands that follow a run, as its user would type them: what no file may name is named again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.toml import toml_value
from ..errors import CheckpointError
from ..files import shortest

if TYPE_CHECKING:
    from ..envs import EnvSource
    from .plan import Plan


def eval_words(
    path: str,
    algorithm: str,
    imports: Sequence[str] = (),
    env: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return the words that evaluate a checkpoint; ``env`` is given where its file may not say it."""
    words = ["rlox", "eval", path, *(["--algo", algorithm] if ":" in algorithm else []), *_imports(imports)]
    if env is not None:
        words += ["--env", env]
        for key, value in (env_kwargs or {}).items():
            words += ["--env-kwarg", f"{key}={toml_value(value)}"]
    return words


def resume_words(
    kind: str, algorithm: str, run: str, imports: Sequence[str] = (), env: str | None = None, steps: int | None = None
) -> list[str]:
    """Return the words that go on with a run, to ``steps`` where they are given; of ``env`` only code is named again."""
    words = ["rlox", group_of(kind), *([algorithm] if ":" in algorithm else []), "--resume", run]
    return [*words, *own_words(imports, env), *([] if steps is None else ["--steps", str(steps)])]


def own_words(imports: Sequence[str], env: str | None) -> list[str]:
    """Return the words that run code of the user's own: the packages, and an environment that is no id."""
    return [*_imports(imports), *(["--env", env] if env is not None and ":" in env else [])]


def group_of(kind: object) -> str:
    """Return the command that trains algorithms of a kind."""
    return "offline" if kind == "offline" else "train"


def eval_command(plan: Plan, path: str, imports: tuple[str, ...]) -> str:
    """Return the command that evaluates a checkpoint of a plan's run."""
    source = plan.eval_source
    if source is None:
        return shlex.join([*eval_words(path, plan.target.name, imports), "--env"]) + " ID"
    if source.id is None or source is not plan.source or not _may_be_recorded(source):
        return shlex.join(eval_words(path, plan.target.name, imports, str(source.text), source.kwargs))
    return shlex.join(eval_words(path, plan.target.name, imports))


def resume_command(plan: Plan, run: Path, imports: tuple[str, ...], steps: int | None = None) -> str:
    """Return the command that goes on with a plan's run, to ``steps`` where they are given."""
    env = plan.resolved["run.env"]
    return shlex.join(resume_words(plan.target.kind, plan.target.name, shortest(run), imports, env, steps))


def _imports(packages: Sequence[str]) -> list[str]:
    return [word for package in packages for word in ("--import", package)]


def _may_be_recorded(source: EnvSource) -> bool:
    """Whether a reader makes this environment from what a checkpoint records of it."""
    from ..envs import EnvSource

    try:
        EnvSource.from_record(source.id, source.kwargs)
    except CheckpointError:
        return False
    return True
