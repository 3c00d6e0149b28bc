"""The algorithms that rlox knows by name: one line each.

A line is enough for an algorithm to get its sub-command, help, presets, ``--set``, ``--dry-run``, checkpoints and
``rlox eval``. Modules are named, not imported, so that help and completion stay fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from .errors import ConfigError, RloxError, SpaceError, closest, printable

Kind = Literal["online", "offline"]


@dataclass(frozen=True)
class AlgorithmSpec:
    """One registry line.

    Parameters
    ----------
    name : str
        As typed: lower case, underscores.
    kind : {"online", "offline"}
        ``rlox train`` or ``rlox offline``.
    config, cls : str
        ``"module:Name"`` of the frozen config dataclass and of the public class.
    actions : tuple of str
        Action spaces that it can act in: ``"Box"``, ``"Discrete"``.
    summary : str
        One line for the help.
    """

    name: str
    kind: Kind
    config: str
    cls: str
    actions: tuple[str, ...]
    summary: str

    def load_config(self) -> type[Any]:
        """Import and return the config dataclass (light: standard library only)."""
        return _load(self.config)

    def load_class(self) -> type[Any]:
        """Import and return the public class (imports torch)."""
        return _load(self.cls)


ALGORITHMS: dict[str, AlgorithmSpec] = {}


def register(spec: AlgorithmSpec) -> AlgorithmSpec:
    """Add an algorithm; a name that is taken is a ConfigError."""
    if spec.name in ALGORITHMS:
        raise ConfigError(f"algorithm {spec.name!r} is registered already")
    ALGORITHMS[spec.name] = spec
    return spec


def get_algorithm(name: str, kind: Kind | None = None) -> AlgorithmSpec:
    """Return the algorithm of that name (a hyphen stands for an underscore); ConfigError with near names otherwise."""
    spec = ALGORITHMS.get(name.replace("-", "_"))
    if spec is None or (kind is not None and spec.kind != kind):
        names = algorithm_names(kind)
        near = closest(name, names)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
        raise ConfigError(f"unknown algorithm {name!r}", hint=hint, value=name, suggestions=near or names)
    return spec


def algorithm_names(kind: Kind | None = None) -> list[str]:
    """Return the registered names, in order of registration."""
    return [s.name for s in ALGORITHMS.values() if kind is None or s.kind == kind]


def check_actions(
    name: str,
    space: object,
    who: object,
    *,
    otherwise: tuple[str, ...] | None = None,
    error: type[RloxError] = SpaceError,
    param: str = "--env",
) -> None:
    """Refuse an action space that an algorithm cannot act in, and say what to use instead.

    Parameters
    ----------
    name : str
    space : gymnasium.Space
    who : object
        What has the space, in words.
    otherwise : tuple of str, optional
        Action spaces of an algorithm that is not registered; None: any.
    error : type
        What is raised.
    param : str
        The option that named ``who``.
    """
    spec, kind = ALGORITHMS.get(name), type(space).__name__
    allowed = otherwise if spec is None else spec.actions
    if allowed is None or kind in allowed:
        return
    others = [s.name for s in ALGORITHMS.values() if kind in s.actions and (spec is None or s.kind == spec.kind)]
    shown = printable(" ".join(str(space).split()))
    raise error(f"{name} needs {' or '.join(allowed)} actions; {who} has {shown}", param=param,
                hint=f"use {' or '.join(others)}" if others else None)  # fmt: skip


def _load(where: str) -> type[Any]:
    module, _, name = where.partition(":")
    loaded: type[Any] = getattr(import_module(module), name)
    return loaded


register(AlgorithmSpec("sac", "online", "rlox.config.sac:SACConfig", "rlox.algorithms.sac:SAC", ("Box",),
                       "Soft Actor-Critic: off-policy, maximum entropy, continuous actions"))  # fmt: skip
register(AlgorithmSpec("bc", "offline", "rlox.config.bc:BCConfig", "rlox.algorithms.bc:BC", ("Box",),
                       "Behaviour cloning: regression onto the actions of a dataset"))  # fmt: skip
register(AlgorithmSpec("cql", "offline", "rlox.config.cql:CQLConfig", "rlox.algorithms.cql:CQL", ("Box",),
                       "Conservative Q-Learning: SAC with values pushed down off the data"))  # fmt: skip
