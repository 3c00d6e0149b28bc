"""Callbacks: what happens beside training."""

from .base import Callback, CallbackList
from .timing import PhaseTimer, TimingCallback

__all__ = ["Callback", "CallbackList", "PhaseTimer", "TimingCallback"]
