"""What rlox asks of the parts that a user brings: structural types, checked by shape of the object, not by ancestry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Batch = dict[str, Any]
"""A plain dict of arrays (or of tensors inside training): obs, next_obs, actions, rewards, terminated, truncated,
indices; see :class:`ReplayBufferProtocol`."""


@runtime_checkable
class OnPolicyActor(Protocol):
    """A policy with a value, for on-policy algorithms."""

    def get_action_and_logprob(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return sampled actions (B, A) or (B,) and their log-probabilities (B,) for ``obs`` (B, …)."""
        ...

    def get_value(self, obs: Tensor) -> Tensor:
        """Return the state values (B,)."""
        ...

    def get_logprob_and_entropy(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities (B,) of ``actions`` and the policy's entropies (B,)."""
        ...


@runtime_checkable
class StochasticActor(Protocol):
    """A squashed stochastic policy, e.g. SAC's."""

    def sample(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return differentiable actions (B, A) in [-1, 1] and their log-probabilities (B,).

        The log-probability is the density of the action in [-1, 1]; (B, 1) is refused on the first batch.
        """
        ...

    def deterministic(self, obs: Tensor) -> Tensor:
        """Return the greedy actions (B, A) in [-1, 1]."""
        ...


@runtime_checkable
class DeterministicActor(Protocol):
    """A deterministic policy, e.g. TD3's."""

    def forward(self, obs: Tensor) -> Tensor:
        """Return actions (B, A) in [-1, 1]."""
        ...


@runtime_checkable
class ExplorationStrategy(Protocol):
    """How the policy's actions are disturbed while collecting.

    One copy is made per environment and reset at its episode ends. Without ``state_dict`` and ``load_state_dict`` a
    checkpoint names it among the reasons why it does not hold the whole run.
    """

    def select_action(self, action: NDArray[Any], step: int, total_steps: int) -> NDArray[Any]:
        """Return the action to take, (A,) in [-1, 1], given the policy's own; what leaves [-1, 1] is clipped."""
        ...

    def reset(self) -> None:
        """Start a new episode."""
        ...


@runtime_checkable
class ReplayBufferProtocol(Protocol):
    """Where off-policy transitions go and come from.

    ``push_many``, with the same arguments by column, is used when it is there. Without ``state_dict`` a checkpoint names
    it among the reasons why it does not hold the whole run. Actions are in [-1, 1].
    """

    def push(
        self,
        obs: NDArray[Any],
        action: NDArray[Any],
        reward: float,
        terminated: bool,
        truncated: bool,
        next_obs: NDArray[Any],
    ) -> None:
        """Store one transition; ``next_obs`` is the true successor, at the end of an episode too."""
        ...

    def sample(self, batch_size: int, seed: int) -> Batch:
        """Return a batch; the same seed gives the same batch.

        obs, next_obs (B, …); actions (B, A) float32, or (B,) int64 where discrete; rewards, terminated, truncated (B,)
        float32. Other keys are passed over.
        """
        ...

    def __len__(self) -> int:
        """Return the number of transitions stored."""
        ...


@runtime_checkable
class OfflineDataset(Protocol):
    """A source of batches for offline training.

    ``sample`` owes the keys obs, next_obs, actions, rewards and terminated. Actions are in the environment's units.
    """

    def sample(self, batch_size: int, seed: int) -> Batch:
        """Return a batch of arrays with leading size ``batch_size``; the same seed gives the same batch."""
        ...

    def __len__(self) -> int:
        """Return the number of transitions."""
        ...


__all__ = [
    "Batch",
    "DeterministicActor",
    "ExplorationStrategy",
    "OfflineDataset",
    "OnPolicyActor",
    "ReplayBufferProtocol",
    "StochasticActor",
]
