"""``rlox offline ALGO``: training from a dataset file, with a registered algorithm or a class of the user's."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from ..config.fields import option
from ..config.sections import Section
from ..errors import ConfigError, printable
from ._commands import Command
from ._generate import AlgorithmGroup, train_command

_HELP = """Train from a dataset file; steps are gradient steps.

Examples:
  rlox offline cql --dataset pendulum.h5 --env Pendulum-v1 --steps 20000
  rlox offline file.py:MyAlgo --dataset pendulum.h5 --steps 20000
  rlox offline --resume latest
  rlox offline --list
"""


@dataclass(frozen=True, kw_only=True)
class BaseOptions(Section):
    """The options of a class that has no config of its own."""

    batch_size: int = option(256, "Transitions per update", ge=1)


class OfflineGroup(AlgorithmGroup):
    """The offline algorithms, and any ``file.py:Class`` or ``pkg.module:Class`` that the user types."""

    def find(self, ctx: Any, name: str) -> Any:
        """Return the command of an algorithm; what is typed with a colon is the user's own."""
        if ":" in name and not ctx.resilient_parsing:  # completion runs nobody's code
            return _own_command(name)
        return super().find(ctx, name)


def build() -> OfflineGroup:
    """Return the group: one command per registered offline algorithm."""
    return OfflineGroup("offline", help=_HELP)


def _own_command(text: str) -> Command:
    from ..offline.base import OfflineAlgorithm
    from ..runs import Target
    from ._user_code import load_class

    cls = load_class(text)
    if not issubclass(cls, OfflineAlgorithm):
        raise ConfigError(f"{printable(text)} is no subclass of rlox.offline.base.OfflineAlgorithm", value=text)
    summary = (inspect.getdoc(cls) or cls.__name__).splitlines()[0].replace("``", "")
    target = Target(text, "offline", getattr(cls, "config_class", None) or BaseOptions, lambda: cls)
    return train_command(target, summary, registered=False)
