"""Candidates for shell completion that are known without importing anything heavy."""

from __future__ import annotations

import os
from itertools import islice

MOST = 200  # candidates

# The ids of gymnasium's own environments in their newest versions.
ENV_IDS = (
    "Acrobot-v1", "Ant-v5", "BipedalWalker-v3", "BipedalWalkerHardcore-v3", "Blackjack-v1", "CarRacing-v3",
    "CartPole-v1", "CliffWalking-v1", "FrozenLake-v1", "FrozenLake8x8-v1", "HalfCheetah-v5", "Hopper-v5",
    "Humanoid-v5", "HumanoidStandup-v5", "InvertedDoublePendulum-v5", "InvertedPendulum-v5", "LunarLander-v3",
    "LunarLanderContinuous-v3", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "Pusher-v5",
    "Reacher-v5", "Swimmer-v5", "Taxi-v3", "Walker2d-v5",
)  # fmt: skip


def env_ids(incomplete: str) -> tuple[str, ...]:
    """Return the environment ids that may be meant."""
    return tuple(name for name in ENV_IDS if name.startswith(incomplete))


def run_paths(incomplete: str) -> tuple[str, ...]:
    """Return the run directories that may be meant: below the folder that is being typed, else below that of all runs."""
    from ..runs.reading import run_folders

    root = os.path.dirname(incomplete) or runs_dir(None)
    if os.path.isabs(incomplete) and root == os.path.dirname(root):  # the whole disk is not searched
        return ()
    found = (str(path) for path in run_folders(root)) if os.path.isdir(root) else iter(())
    return (*(word for word in ("latest",) if not os.path.dirname(incomplete)), *islice(found, MOST))


def runs_dir(given: str | None) -> str:
    """Return the folder of all runs: what was given, else ``RLOX_RUNS_DIR``, else ``runs``."""
    return given or os.environ.get("RLOX_RUNS_DIR") or "runs"
