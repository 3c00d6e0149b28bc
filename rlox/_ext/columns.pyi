import numpy as np
import numpy.typing as npt

from .layout import Array, Layout
from .store import Store

class ColumnStore(Store):
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
