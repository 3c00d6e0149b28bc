"""What an earlier process, or a stranger, left in a run directory: checked before anything in it is opened to write."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from ..errors import NotFoundError, RunError, printable
from ..files import remove_temporaries, shortest

_FILES = ("run.lock", "meta.json", "status.json", "config.toml", "metrics.jsonl", "crash.log")
_FOLDERS = ("checkpoints", "resume", "videos", "wandb")
# What a process that was killed leaves of a video that it was writing
_VIDEO = re.compile(r"\.step_\d{9,}_episode_\d+\.[0-9a-f]{8}\.mp4")


def check_own(path: Path) -> None:
    """Refuse a run directory in which a name that rlox writes to leads elsewhere, or is not what it should be.

    Whoever goes on with a run cuts, replaces and deletes files by these names: behind a link they are other people's.

    Raises
    ------
    RunError
        Naming the file.
    """
    kinds = dict.fromkeys(_FILES, False) | dict.fromkeys(_FOLDERS, True)
    try:
        kinds |= {name: False for name in os.listdir(path) if name.startswith("events.")}
        for name, folder in kinds.items():
            with contextlib.suppress(FileNotFoundError):
                mode = os.lstat(path / name).st_mode
                if not (stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)):
                    what = "a link" if stat.S_ISLNK(mode) else "no folder" if folder else "no plain file"
                    raise RunError(
                        f"damaged run directory: {printable(path / name)} is {what}", value=str(path),
                        hint="rlox makes no such thing: nothing was read or written",
                    )  # fmt: skip
    except OSError as error:
        raise RunError(f"cannot read {printable(path)}: {error.strerror}", value=str(path)) from error


def has_generation(path: Path) -> bool:
    """Whether a run directory has something to go on from, damaged or not."""
    return any((path / "resume").glob("*.json"))


def check_not_lost(path: Path) -> None:
    """Refuse a run that has checkpoints and nothing to go on from: starting it over would delete them.

    A checkpoint gets its name after the state that it belongs to is committed, so there was one.

    Raises
    ------
    NotFoundError
        With what can be done with the newest checkpoint.
    """
    folder = path / "checkpoints"
    kept = [p for p in (folder / "last.pt", *sorted(folder.glob("step_*.pt"), reverse=True)) if os.path.lexists(p)]
    if kept:
        raise NotFoundError(
            f"nothing to resume in {printable(shortest(path))}: it has checkpoints, but the state to go on from is gone",
            hint=f"`--init-from {printable(shortest(kept[0]))}` in a new run directory, or remove the folder",
            param="--resume",
            value=str(path),
        )


def tidy(path: Path) -> None:
    """Clear away what was being written when the process was killed; only while the lock is held."""
    from ..checkpoint.generation import Generations

    for folder in (path, path / "checkpoints"):
        remove_temporaries(folder)
    for file in (path / "videos").glob(".step_*.mp4"):
        if _VIDEO.fullmatch(file.name):
            with contextlib.suppress(OSError):
                file.unlink()
    Generations(path / "resume").tidy()
