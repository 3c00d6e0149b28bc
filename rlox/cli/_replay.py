"""``rlox checkpoint verify --replay K``: does a saved state go on the same way twice?"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from ..config.fields import option, options_of
from ..config.sections import Section
from ..errors import CheckError, ConfigError, WriteError, printable
from ..files import shortest
from ..runs.lock import lock_holder
from ._completion import env_ids
from ._options import Flag, flag, typed
from ._output import current
from ._policy import PolicyOptions, environment, import_flag, import_packages, open_checkpoint

SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(Section):
    """What a replay needs to know where the checkpoint does not say it, or names the user's own code."""

    replay: int | None = option(
        None, "Train so many steps from the saved state, twice, and compare bit for bit", panel="Replay", ge=1
    )
    env: str | None = option(None, "Environment, where it is your own", panel="Replay", metavar="ID")
    env_kwarg: dict[str, Any] = option({}, "Argument of the environment as KEY=VALUE; repeatable", panel="Replay",
                                       metavar="K=V")  # fmt: skip
    dataset: str | None = option(
        None, "Dataset of an offline algorithm; default: where the checkpoint says", panel="Replay", metavar="PATH"
    )
    algo: str | None = option(
        None, "Class of the checkpoint where it is your own: file.py:Class", panel="Replay", metavar="FILE:CLASS"
    )


def replay_flags() -> list[Flag]:
    """Return the flags of a replay."""
    return [*(flag(o, env_ids if o.name == "env" else None) for o in options_of(ReplayOptions)), import_flag()]


def replay_checkpoints(paths: tuple[str, ...], n: str, given: dict[str, Any]) -> None:
    """Train from each checkpoint twice; CheckError names what did not come out the same."""
    import_packages(given.pop("import_"))
    options: ReplayOptions = typed(ReplayOptions, {"replay": n, **given})
    rows, first = [], None
    for path in paths:
        differing, why = _replay(path, options)
        if differing and first is None:
            more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
            first = f"{printable(path)} goes on differently twice: {', '.join(differing[:SHOWN])}{more}"
        rows.append([path, not differing, options.replay, len(differing), "; ".join(why)])
    current().table(["path", "equal", "steps", "n_different", "not_exact_because"], rows, name="replays")
    if first is not None:
        raise CheckError(first)


def _replay(path: str, options: ReplayOptions) -> tuple[list[str], list[str]]:
    opened = open_checkpoint(path)
    run = opened.path.parent.parent
    holder = lock_holder(run) if (run / "run.lock").exists() else None
    if holder is not None:  # what is there changes between one replay and the other
        raise WriteError(f"{shortest(run)} is locked by {holder}, which goes on writing it", value=path,
                         hint="wait for it, or replay a copy of its folder")  # fmt: skip
    n_threads = opened.manifest.get("threads")
    from ..runs.threads import threads
    from ..user_code import blaming

    with threads(n_threads if isinstance(n_threads, int) and 0 < n_threads <= 1024 else 1):
        from ..algorithm import Algorithm
        from ..runs.replay import replay
        from ._user_code import load_class

        cls = None if options.algo is None else load_class(options.algo)
        if cls is not None and not issubclass(cls, Algorithm):
            raise ConfigError(f"algo is {printable(options.algo)!r}, must be a subclass of an algorithm of rlox",
                              param="--algo", value=options.algo)  # fmt: skip
        source = None
        if opened.manifest.get("kind") == "online":
            named = PolicyOptions(env=options.env, env_kwarg=options.env_kwarg)
            command = shlex.join(["rlox", "checkpoint", "verify", path, "--replay", str(options.replay)])
            source = environment(opened, named, command)
        with blaming(cls or Algorithm):
            assert options.replay is not None
            return replay(opened.path, options.replay, env=source, dataset=options.dataset, cls=cls)
