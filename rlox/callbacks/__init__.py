"""Callbacks: what happens beside training."""

from .base import Callback, CallbackList
from .checkpoint import CheckpointCallback
from .evaluate import EvalCallback
from .progress import ProgressBarCallback
from .stopping import EarlyStoppingCallback
from .timing import PhaseTimer, TimingCallback
from .video import VideoRecordingCallback

__all__ = [
    "Callback",
    "CallbackList",
    "CheckpointCallback",
    "EarlyStoppingCallback",
    "EvalCallback",
    "PhaseTimer",
    "ProgressBarCallback",
    "TimingCallback",
    "VideoRecordingCallback",
]
