"""Running observation statistics and the normalised observations made from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

CLIP = 10.0
EPSILON = 1e-8


class Normalizer:
    """Normalise observations: clip((x − μ) / √(σ² + 1e-8), ±10), with running float64 statistics.

    Before the first update the mean is 0 and the variance 1.

    Parameters
    ----------
    dim : int
        Length of an observation vector.

    Attributes
    ----------
    mean, var : (dim,) float64 arrays
    count : float
        Observations seen.

    Notes
    -----
    ``update`` once per vector step, with the observations that are acted on; never with final observations as well.
    The update is the parallel one, so the statistics equal NumPy's over everything seen.

    Source: Chan, Golub, LeVeque 1979 (parallel variance); stable-baselines3 ``common/vec_env/vec_normalize.py``.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.mean: NDArray[np.float64] = np.zeros(dim)
        self.var: NDArray[np.float64] = np.ones(dim)
        self.count = 0.0
        self.is_frozen = False
        self._clip = True
        self._scale = 1.0 / np.sqrt(self.var + EPSILON)

    @classmethod
    def fixed(cls, mean: NDArray[Any], std: NDArray[Any], eps: float = 1e-3) -> Normalizer:
        """Return (x − mean) / (std + eps) with constants, unclipped: a dataset's statistics; it refuses updates."""
        mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        out = cls(mean.size)
        out.mean, out.var = mean.reshape(-1).copy(), std.reshape(-1) ** 2
        out._scale = 1.0 / (std.reshape(-1) + eps)
        out._clip, out.is_frozen = False, True
        return out

    def update(self, batch: NDArray[Any]) -> None:
        """Add a (N, dim) batch to the statistics; ConfigError when this copy is frozen."""
        if self.is_frozen:
            raise ConfigError("the statistics of this normaliser are frozen, they cannot be updated")
        batch = np.asarray(batch, np.float64).reshape(-1, self.dim)
        n = len(batch)
        if n == 0:
            return
        mean, var = (batch[0], 0.0) if n == 1 else (batch.mean(axis=0), batch.var(axis=0))
        total = self.count + n
        delta = mean - self.mean
        self.var = (self.var * self.count + var * n + delta * delta * (self.count * n / total)) / total
        self.mean = self.mean + delta * (n / total)
        self.count = total
        self._scale = 1.0 / np.sqrt(self.var + EPSILON)

    def __call__(self, obs: NDArray[Any]) -> NDArray[np.float32]:
        """Return (…, dim) observations normalised, in fresh float32 memory."""
        out = (obs - self.mean) * self._scale
        if self._clip:
            np.minimum(np.maximum(out, -CLIP, out=out), CLIP, out=out)
        return out.astype(np.float32)

    def frozen(self) -> Normalizer:
        """Return a copy that refuses updates, for evaluation."""
        out = Normalizer(self.dim)
        out.load_state_dict(self.state_dict())
        out.is_frozen = True
        return out

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the statistics, exact."""
        return {
            "mean": self.mean.copy(),
            "var": self.var.copy(),
            "scale": self._scale.copy(),
            "count": float(self.count),
            "clip": self._clip,
            "frozen": self.is_frozen,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over statistics from :meth:`state_dict`; arrays may be NumPy's or tensors."""
        mean, var, scale = (np.array(np.asarray(state[name]), np.float64) for name in ("mean", "var", "scale"))
        if not mean.shape == var.shape == scale.shape == (self.dim,):
            raise ConfigError(f"normaliser statistics have shape {mean.shape}, must be ({self.dim},)")
        self.mean, self.var, self._scale = mean, var, scale
        self.count, self._clip = float(state["count"]), bool(state["clip"])
        self.is_frozen = bool(state["frozen"])
