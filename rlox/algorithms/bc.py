r"""Behaviour cloning: regression of a deterministic policy onto the actions of a dataset.

    L = mean over batch and dimensions of (π(s) − a)²,   π = tanh MLP

Source: Pomerleau 1991; loss and rates of CORL ``algorithms/offline/any_percent_bc.py``.
"""

from __future__ import annotations

from torch import Tensor

from ..config.bc import BCConfig
from ..learner import Optimizer, network_options
from ..networks import DeterministicTanhActor
from ..offline.configured import ConfiguredOfflineAlgorithm
from ..protocols import Batch


def bc_loss(predicted: Tensor, actions: Tensor) -> Tensor:
    """Return mean (π(s) − a)² over batch and dimensions, for (B, A) tensors in [-1, 1]."""
    return (predicted - actions).square().mean()


class BC(ConfiguredOfflineAlgorithm):
    """Behaviour cloning for Box actions.

    Parameters
    ----------
    dataset, batch_size, callbacks, logger, seed, device, env, action_low, action_high, config, **config_overrides
        As in :class:`rlox.offline.configured.ConfiguredOfflineAlgorithm`; the options are those of
        :class:`rlox.config.BCConfig`.
    """

    name = "bc"
    config_class = BCConfig
    config: BCConfig
    rows = "all"  # a row needs no successor to be imitated

    def _build(self) -> None:
        config = self.config
        options = network_options(config)
        self.actor = DeterministicTanhActor(self.obs_dim, self.act_dim, config.widths("pi"), **options)
        self.optimizer = Optimizer(self.actor, config, config.learning_rate)

    def _update(self, batch: Batch) -> dict[str, Tensor]:
        loss = bc_loss(self.actor(batch["obs"]), batch["actions"])
        self.optimizer.step(loss)
        return {"actor_loss": loss.detach()}
