"""Every random stream of a run, derived from its one seed.

Nothing in rlox draws from global random state. Index draws and episode resets are seeded with :func:`derive` and a
counter; network noise uses one persistent ``torch.Generator`` per stream; code that can only use torch's global
generator (module construction, dropout, a user's own actor) runs inside :class:`TorchStream`, which has a stream of its
own for the CPU's generator only: what such code draws on a GPU comes from that device's global generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    import torch

MAX_SEED = 2**32 - 1


def check_seed(seed: int, name: str = "seed") -> int:
    """Return ``seed`` as an int, or raise ConfigError unless it is in 0…2³²−1."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise ConfigError(f"{name} is {seed!r}, must be an integer in 0…{MAX_SEED}", param=name, value=seed)
    value = seed.__index__()
    if not 0 <= value <= MAX_SEED:
        raise ConfigError(f"{name} is {value}, must be in 0…{MAX_SEED}", param=name, value=value)
    return value


def derive(seed: int, stream: str, counter: int = 0) -> int:
    """Derive an independent 64-bit seed from a run's seed, the name of a stream and a counter.

    Parameters
    ----------
    seed : int
        The run's seed, any non-negative integer below 2⁶⁴.
    stream : str
        What the numbers are for, e.g. ``"sample"`` or ``"env/3"``.
    counter : int
        Which draw of the stream, from 0 to 2⁶⁴ − 1, e.g. the number of the update or of the episode.

    Returns
    -------
    int
        In 0…2⁶⁴−1; the same on every machine and version.

    Notes
    -----
    BLAKE2b keyed by all three values; about one microsecond.
    """
    text = f"{seed}\0{stream}\0{counter}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def torch_generator(seed: int, stream: str, device: Any = "cpu") -> torch.Generator:
    """Return a new ``torch.Generator`` for a stream of the run with this seed."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, stream))


class TorchStream:
    """A stream of its own for code that can only draw from torch's global generator.

    ``with stream.use():`` swaps the stream's state into the CPU's global generator and out again, so that what runs
    inside neither sees nor changes anybody else's random numbers on the CPU. The global generators of GPUs are left as
    they are: what is drawn there inside (dropout of a network on a GPU) is neither seeded by the run nor kept apart from
    what others draw. Costs about ten microseconds.
    """

    def __init__(self, seed: int, stream: str) -> None:
        self._state = torch_generator(seed, stream).get_state()

    @contextmanager
    def use(self) -> Iterator[None]:
        import torch

        outside = torch.random.get_rng_state()
        torch.random.set_rng_state(self._state)
        try:
            yield
        finally:
            self._state = torch.random.get_rng_state()
            torch.random.set_rng_state(outside)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"state": self._state.clone()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self._state = state["state"].clone()
