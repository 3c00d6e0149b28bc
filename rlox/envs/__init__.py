"""Environments: where they come from, what they look like to a learner, and N of them behind one interface."""

from .adapt import adapt
from .failure import EnvFailure
from .make import vectorize
from .normalize import Normalizer
from .slot import EpisodePlan
from .source import EnvSource
from .spacejson import space_from_json, space_to_json
from .spaces import ActionSpace, ObsSpace, same_space
from .vector import Episode, VecStep, VectorEnv

__all__ = [
    "ActionSpace",
    "EnvFailure",
    "EnvSource",
    "Episode",
    "EpisodePlan",
    "Normalizer",
    "ObsSpace",
    "VecStep",
    "VectorEnv",
    "adapt",
    "same_space",
    "space_from_json",
    "space_to_json",
    "vectorize",
]
