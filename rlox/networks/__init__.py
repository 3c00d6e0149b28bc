"""Networks: the multilayer perceptron and its ensembles, actors, critics, distributions."""

from .actors import DeterministicTanhActor, SquashedGaussianActor
from .critics import QEnsemble
from .distributions import tanh_gaussian
from .mlp import MLP

__all__ = ["MLP", "DeterministicTanhActor", "QEnsemble", "SquashedGaussianActor", "tanh_gaussian"]
