from collections.abc import Mapping
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .layout import Array, Batch, Layout

class Store:
    layout: Layout
    def __len__(self) -> int: ...
    def restrict(self, rows: npt.ArrayLike | None) -> None: ...
    def sample(
        self, batch_size: SupportsIndex, seed: SupportsIndex, out: Batch | None = None, every: bool = False
    ) -> Batch: ...
    def draws(self, n: SupportsIndex, seed: SupportsIndex) -> npt.NDArray[np.int64]: ...
    def take(self, indices: npt.ArrayLike, out: Batch | None = None) -> Batch: ...
    def new_batch(self, n: int) -> Batch: ...

class RowStore(Store):
    n_envs: int
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
    def export(self) -> dict[str, Any]: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...

class ColumnStore(Store):
    columns: dict[str, Array]
    def __init__(
        self,
        layout: Layout,
        obs: Array,
        actions: Array,
        rewards: npt.NDArray[np.float32],
        kinds: npt.NDArray[np.uint8],
        next_obs: Array | None = None,
    ) -> None: ...

def returns_to_go(rewards: npt.ArrayLike, starts: npt.ArrayLike) -> npt.NDArray[np.float32]: ...
