"""What a checkpoint may make a reader allocate: no more than it holds."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from ..envs import ActionSpace, ObsSpace
from ..errors import CheckpointError
from ..registry import ALGORITHMS
from .recorded import recorded_spaces

SMALL = 2**24  # numbers that may be allocated whatever the file holds, 64 MiB
LAYER_COST = 500  # what a layer takes beside its weights, in numbers


def check_size(manifest: Mapping[str, Any], stored: int) -> None:
    """Refuse a config and spaces that describe networks which the file does not hold, before any is allocated.

    Parameters
    ----------
    manifest : mapping
        Of a registered algorithm, complete; any other is left to whoever rebuilds it.
    stored : int
        Numbers in the tensors of the file.

    Raises
    ------
    CheckpointError
        With both figures.
    """
    config, name = manifest.get("config"), manifest.get("algorithm")
    if not isinstance(name, str) or name not in ALGORITHMS:
        return
    if not isinstance(config, dict) or not isinstance(manifest.get("spaces"), dict):
        return
    observation, action = recorded_spaces(manifest)
    arch, n_critics = config.get("net_arch"), config.get("n_critics", 1)
    total = 0
    for widths in arch.values() if isinstance(arch, dict) else [arch]:
        if isinstance(widths, list) and all(type(w) is int for w in (*widths, n_critics)):
            sizes = [ObsSpace(observation).dim, *widths, ActionSpace(action).dim]
            total += sum(a * b + LAYER_COST for a, b in pairwise(sizes)) * max(n_critics, 1)
    if total > max(stored, SMALL):
        raise CheckpointError(f"its config describes networks of {total} numbers, the file holds {stored}")
