"""How online training advances."""

from .off_policy import OffPolicyAlgorithm

__all__ = ["OffPolicyAlgorithm"]
