"""``rlox train ALGO``: online training."""

from __future__ import annotations

from ._generate import AlgorithmGroup

_HELP = """Train in an environment.

Examples:
  rlox train sac --env Pendulum-v1 --eval-freq 10000
  rlox train sac --help
  rlox train --resume latest
  rlox train --list
"""


def build() -> AlgorithmGroup:
    """Return the group: one command per registered online algorithm."""
    return AlgorithmGroup("online", help=_HELP)
