"""Environment names typed by a user or read from a file: what they mean, and what is wrong with them."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import parse_env_id

from ..errors import EnvError, EnvNotFoundError, RloxError, closest, printable
from ..user_code import import_file, import_module

RECORDED_ID = re.compile(r"([A-Za-z0-9_.-]+/)?[A-Za-z0-9_.-]+-v\d+")
MAX_NAME = 500


def resolve_id(text: str) -> str:
    """Return the registered id that ``text`` means; without a version the latest, with a warning.

    Raises
    ------
    EnvNotFoundError
        With the known versions, or the nearest ids.
    """
    if not text.strip():
        raise EnvNotFoundError(
            "no environment is named: the id is empty", hint="give an id such as 'Pendulum-v1'", value=text
        )
    if text in gym.registry:
        return text
    try:
        namespace, name, version = parse_env_id(text[:MAX_NAME])
    except gym.error.Error:
        raise _unknown(text) from None
    versions = sorted(
        (spec.version, spec.id)
        for spec in gym.registry.values()
        if spec.namespace == namespace and spec.name == name and spec.version is not None
    )
    if not versions:
        raise _unknown(text)
    ids = [id for _, id in versions]
    if version is None:
        warnings.warn(f"environment {printable(text)!r} has no version, {ids[-1]!r} is used", UserWarning, stacklevel=2)
        return ids[-1]
    raise EnvNotFoundError(
        f"environment {printable(text)!r} has no version v{version}, known versions: {', '.join(ids)}",
        hint=f"use {ids[-1]!r}",
        value=text,
        suggestions=reversed(ids),
    )


def check_recorded(id: object, kwargs: object, error: type[RloxError]) -> tuple[str, dict[str, Any]]:
    """Return an id and keyword arguments read from a file, or raise ``error``; nothing is imported for them.

    The id must be plain and registered already, and the values plain scalars, because a gymnasium spec or a
    ``module:`` id from a stranger's file is code. Text with ``:``, ``/`` or ``\\`` is refused too: some constructors
    import the module, or read the file, that such an argument names.
    """
    hint = "name the environment yourself with `--env`"
    if not isinstance(id, str) or len(id) > MAX_NAME or not RECORDED_ID.fullmatch(id):
        raise error(f"the recorded environment {printable(id, 80)!r} is not a plain id", hint=hint, value=id)
    if id not in gym.registry:
        raise error(f"the recorded environment {printable(id, 80)!r} is not registered here", hint=hint, value=id)
    kwargs = {} if kwargs is None else kwargs
    if not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
        raise error(f"the recorded keyword arguments of {id!r} are not a table of names", hint=hint)
    for key, value in kwargs.items():
        if not is_scalar(value):
            raise error(f"the recorded argument {printable(key)!r} of {id!r} is no plain scalar", hint=hint)
        if isinstance(value, str) and set(value) & set(":/\\"):
            raise error(f"the recorded argument {printable(key)!r} of {id!r} names a file or module", hint=hint)
    return id, dict(kwargs)


def is_scalar(value: object) -> bool:
    """Return whether a value is None, a bool, a number or text: what a file may hold and give to a constructor."""
    return value is None or type(value) in (bool, int, float, str)


def load_typed(text: str) -> Callable[..., Any] | str:
    """Return what ``module:make``, ``pkg.module:Env-v0`` or ``file.py:Name`` stands for: a callable, or an id.

    Raises
    ------
    EnvNotFoundError
        When the file, the module or the name in it is not there.
    EnvError
        When importing it raises.
    """
    where, _, name = text.rpartition(":")
    load = import_file if where.endswith(".py") else import_module
    module = load(where, missing=EnvNotFoundError, failed=EnvError)
    if not name.replace(".", "").isidentifier():
        return resolve_id(name)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [n for n in vars(found) if not n.startswith("_")]
            raise EnvNotFoundError(
                f"{printable(where)} has no {printable(name)!r}",
                hint="name a class or a function that returns an environment",
                value=text,
                suggestions=closest(part, public),
            )
        found = getattr(found, part)
    if not callable(found):
        raise EnvNotFoundError(
            f"{printable(text)} is {type(found).__name__}, must be an environment class or a function that returns one",
            value=text,
        )
    return found  # type: ignore[no-any-return]


def _classes(path: str) -> list[str]:
    """Return the environment classes of a Python file, which is read and not run; all classes where none looks like one."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return []
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    envs: list[str] = []
    for node in classes:
        bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        if any(base.endswith("Env") or base in envs for base in bases):
            envs.append(node.name)
    return envs or [node.name for node in classes]


def _unknown(text: str) -> EnvNotFoundError:
    if text.endswith(".py"):
        found = _classes(text)
        hint = f"name what is in it: `{printable(text)}:{found[0] if len(found) == 1 else 'NAME'}`"
        hint += f" (it has {', '.join(found)})" if len(found) > 1 else ""
        return EnvNotFoundError(f"{printable(text)!r} is a file, not an environment", hint=hint, value=text,
                                suggestions=[f"{text}:{name}" for name in found])  # fmt: skip
    near = closest(text[:MAX_NAME], gym.registry)
    hint = f"did you mean {near[0]!r}?" if near else "give a registered id, or `module:Env-v0` or `file.py:Env`"
    return EnvNotFoundError(f"no environment {printable(text)!r}", hint=hint, value=text, suggestions=near)
