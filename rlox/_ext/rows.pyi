from collections.abc import Callable, Mapping
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .layout import Layout
from .store import Store

class RowStore(Store):
    n_envs: int
    epoch: int
    rows: npt.NDArray[np.uint8]
    def __init__(self, layout: Layout, n_envs: int = 1, *, hint: str = ...) -> None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def n_unknown(self) -> int: ...
    def push(
        self,
        obs: npt.ArrayLike,
        action: npt.ArrayLike,
        reward: Any,
        terminated: Any,
        truncated: Any,
        next_obs: npt.ArrayLike | None,
        env: SupportsIndex,
    ) -> None: ...
    def push_many(
        self,
        obs: npt.ArrayLike,
        actions: npt.ArrayLike,
        rewards: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike,
        next_obs: npt.ArrayLike | None = None,
        envs: npt.ArrayLike | None = None,
        *,
        open_ends: bool = False,
    ) -> None: ...
    @property
    def n_touched(self) -> int: ...
    def slots(self, first: int, stop: int) -> npt.NDArray[np.uint8]: ...
    def counters(self) -> dict[str, Any]: ...
    def export(self) -> dict[str, Any]: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...
    def refill(self, state: Mapping[str, Any], n_slots: int, fill: Callable[[], object]) -> None: ...
