"""A run: a resolved config, a folder, one training, and what it came to. What ``train`` and ``offline`` both call."""

from .directory import Run, create_run
from .plan import Plan, Target, make_plan
from .train import Launch, Outcome, train

__all__ = ["Launch", "Outcome", "Plan", "Run", "Target", "create_run", "make_plan", "train"]
