"""Does a saved state go on the same way twice? Train from it, twice, and compare bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import checkpoint
from ..algorithm import Algorithm, load_algorithm
from ..checkpoint.recorded import recorded
from ..data.d4rl import open_dataset
from ..errors import CheckpointMismatchError, ConfigError, printable
from ..learner import fingerprint
from ..resume import generation_of

ASIDE = ("callbacks", "loggers", "elapsed_s")  # what watches is not there in a replay, and no two take the same time


def replay(
    path: Path, n_steps: int, *, env: Any = None, dataset: str | None = None, cls: type[Algorithm] | None = None
) -> tuple[list[str], list[str]]:
    """Train ``n_steps`` from a saved state, twice, each time from the files.

    Parameters
    ----------
    path : Path
        A model file with the rest of its state beside it, e.g. ``last.pt`` of a run.
    n_steps : int
        Environment transitions or gradient steps, ≥ 1.
    env : EnvSource or text, optional
        The environment, where it is the user's own.
    dataset : str, optional
        The dataset of an offline algorithm; default: where the file says it was.
    cls : type, optional
        The algorithm's class, where it is the user's own.

    Returns
    -------
    differing : list of str
        Names of the tensors, streams and counters that were not the same after both.
    why : list of str
        Why going on from this state is not exact, as far as is known.

    Raises
    ------
    CheckpointError, CheckpointMismatchError
        A damaged file; a model without the rest of its state; a dataset of other content.
    """
    manifest = checkpoint.read_manifest(path)
    if generation_of(path)[1] is None:
        raise CheckpointMismatchError(f"{printable(path)} has no state to go on from beside it", value=str(path),
                                      hint="of a run, only `last.pt` and the checkpoint before it have one")  # fmt: skip
    parts: dict[str, Any] = {}
    if recorded(manifest, "kind", str) == "offline":
        known = recorded(manifest, "dataset", dict).get("path")
        if dataset is None and not isinstance(known, str):
            raise ConfigError("the checkpoint does not say where its dataset is", hint="give `--dataset`", param="--dataset")
        parts["dataset"] = open_dataset(str(dataset or known))
    ends, why = [], []
    for _ in range(2):
        algo = load_algorithm(path, env=env, cls=cls, resume=True, parts=parts)
        why = list(algo.exact)
        algo._to_say = []  # it is returned
        try:
            algo.train(n_steps)
            ends.append(dict(_leaves(_state(algo), "")))
        finally:
            if hasattr(algo, "close"):
                algo.close()
        why += [reason for reason in algo.exact if reason not in why]
    first, second = ends
    return [name for name in sorted({*first, *second}) if first.get(name) != second.get(name)], why


def _state(algo: Algorithm) -> dict[str, Any]:
    ring = algo._ring()
    rest = {name: value for name, value in algo.resume_state().items() if name not in ASIDE}
    return {**algo.state_dict(), **rest, "buffer_rows": None if ring is None else ring.state_dict()}


def _leaves(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield the name and a digest of every figure and array."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{where}.{i}")
    else:
        yield where, fingerprint(value) if isinstance(value, torch.Tensor | np.ndarray) else repr(value)
