"""Loggers: where the numbers of a run go."""

from .base import LoggerCallback, LoggerList, prefixed
from .board import TensorBoardLogger
from .console import ConsoleLogger
from .text import CSVLogger, JSONLLogger
from .weights_biases import WandbLogger

__all__ = [
    "CSVLogger",
    "ConsoleLogger",
    "JSONLLogger",
    "LoggerCallback",
    "LoggerList",
    "TensorBoardLogger",
    "WandbLogger",
    "prefixed",
]
