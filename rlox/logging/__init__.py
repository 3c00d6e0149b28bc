"""Loggers: where the numbers of a run go."""

from .base import LoggerCallback, LoggerList, prefixed

__all__ = ["LoggerCallback", "LoggerList", "prefixed"]
