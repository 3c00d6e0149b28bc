"""Offline algorithms whose options are a config dataclass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch

from ..callbacks import Callback
from ..checkpoint.recorded import recorded_config
from ..config.fields import make_config
from ..errors import ConfigError
from ..logging import LoggerCallback
from ..protocols import OfflineDataset
from .base import OfflineAlgorithm


class ConfiguredOfflineAlgorithm(OfflineAlgorithm):
    """An :class:`OfflineAlgorithm` that takes its options from a config dataclass.

    A subclass names ``config_class``, makes its networks and optimizers in ``_build()``, and implements ``_update``.

    Parameters
    ----------
    dataset : OfflineDataset
    batch_size : int, optional
        Transitions per update; None: the config's.
    callbacks, logger, seed, device, env, action_low, action_high
        As in :class:`OfflineAlgorithm`.
    config : dataclass, optional
        Options; single ones can be given as keywords.
    **config_overrides
        Fields of ``config_class``.
    """

    config_class: ClassVar[type[Any]]

    def __init__(
        self,
        dataset: OfflineDataset,
        batch_size: int | None = None,
        callbacks: Callback | Iterable[Callback] | None = None,
        logger: LoggerCallback | Iterable[LoggerCallback] | None = None,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        env: Any = None,
        action_low: float | None = None,
        action_high: float | None = None,
        config: Any = None,
        **config_overrides: Any,
    ) -> None:
        if batch_size is not None:
            config_overrides["batch_size"] = batch_size
        self.config = make_config(self.config_class, config, config_overrides)
        super().__init__(
            dataset,
            self.config.batch_size,
            callbacks,
            logger,
            seed=seed,
            device=device,
            env=env,
            action_low=action_low,
            action_high=action_high,
            normalize_obs=self.config.normalize_obs,
        )
        self._build()

    @classmethod
    def _recorded_options(cls, manifest: Mapping[str, Any]) -> dict[str, Any]:
        return {"config": recorded_config(manifest, cls.config_class)}

    def _build(self) -> None:
        """Make networks and optimizers."""
        raise ConfigError(f"{type(self).__name__} does not implement _build()")
