"""Where online algorithms keep what they saw."""

from .replay import ReplayBuffer

__all__ = ["ReplayBuffer"]
