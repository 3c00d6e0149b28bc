"""Offline training: the base class of every offline algorithm, a user's own included."""

from .base import OfflineAlgorithm, OfflineDataset

__all__ = ["OfflineAlgorithm", "OfflineDataset"]
