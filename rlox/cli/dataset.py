"""``rlox dataset``: look at dataset files and make them with a policy."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Any

from ..config.fields import option
from ..errors import ConfigError, WriteError, printable
from ..files import make_parents, write_error
from ..user_code import blaming
from ._commands import Command, Group
from ._options import Argument, Flag, table, typed
from ._output import current
from ._policy import (
    PolicyOptions,
    as_table,
    environment,
    flags,
    import_flag,
    import_packages,
    load,
    open_checkpoint,
    space_words,
)

_HELP = """Look at datasets and collect them.

Examples:
  rlox dataset info pendulum.h5
  rlox dataset collect --env Pendulum-v1 --policy random --steps 10000 -o random.h5
"""
_INFO = """Show what is in a dataset file: format, keys, rows, episodes, memory, and how it would be read.

Examples:
  rlox dataset info pendulum.h5
  rlox dataset info other.h5 --keys obs=states
"""
_COLLECT = """Run a policy and write what happens as a dataset file in D4RL's layout.

Examples:
  rlox dataset collect --env Pendulum-v1 --policy random --steps 10000 -o random.h5
  rlox dataset collect --env Pendulum-v1 --policy checkpoints/best.pt --episodes 100 -o expert.h5
"""


@dataclass(frozen=True, kw_only=True)
class CollectOptions(PolicyOptions):
    """The flags of ``rlox dataset collect``."""

    policy: str = option("random", "A checkpoint, or random", panel="Run", metavar="CKPT|random")
    steps: int | None = option(None, "Transitions to collect", panel="Run", ge=1, aliases=("-n",))
    episodes: int | None = option(None, "Whole episodes to collect, in place of --steps", panel="Run", ge=1)
    deterministic: bool = option(
        False, "The policy's greedy action, or a sampled one", panel="Run", aliases=("/--stochastic",)
    )


def build() -> Group:
    """Return the group of commands."""
    commands = {
        "info": ("Show what is in a dataset file", _info_command),
        "collect": ("Run a policy and write a dataset file", _collect_command),
    }
    return Group("dataset", commands, help=_HELP)


def _info_command() -> Command:
    params = [
        Argument("path", metavar="FILE", help="Dataset file"),
        Flag("--keys", help="Name of an array in the file as OURS=THEIRS, e.g. obs=states; repeatable", metavar="K=V",
             multiple=True),
    ]  # fmt: skip
    return Command("info", help=_INFO, callback=_info, codes=(0, 2, 3, 4, 8), params=params)


def _collect_command() -> Command:
    params = [
        *flags(CollectOptions),
        import_flag(),
        Flag("--out", "-o", help="File to write", metavar="FILE", required=True, panel="Run"),
        Flag("--force", help="Replace FILE when it exists", switch=True, panel="Run"),
    ]
    return Command("collect", help=_COLLECT, callback=_collect, codes=(0, 2, 3, 4, 5, 6, 7, 8), params=params)


def _info(path: str, keys: tuple[str, ...]) -> None:
    from ..data import describe

    out = current()
    about = describe(path, keys={k: str(v) for k, v in table("--keys", keys).items()} or None)
    datasets = about.pop("datasets")
    if out.json:
        out.data(**about)
    else:
        out.record(about | {"attributes": {k: space_words(v) for k, v in as_table(about["attributes"]).items()}})
    if about.get("problem"):
        out.warn(f"it cannot be trained on as it is: {about['problem']}")
    columns = ["key", "shape", "dtype", "chunks", "filters", "stored_bytes"]
    out.line("")
    out.table(columns, [[entry.get(c) for c in columns] for entry in datasets], name="datasets")


def _collect(out: str, force: bool | None, import_: tuple[str, ...], **given: Any) -> None:
    sink = current()
    options: CollectOptions = typed(CollectOptions, given)
    if (options.steps is None) == (options.episodes is None):
        what = "both given, must be one of them" if options.steps else "neither is given, must be one of them"
        raise ConfigError(f"steps and episodes: {what}", hint="e.g. `--steps 10000`", param="--steps")
    if options.policy == "random" and options.env is None:
        raise ConfigError("env is missing: a random policy records no environment", hint="`--env ID`", param="--env")
    opened = None if options.policy == "random" else open_checkpoint(options.policy)
    _check_writable(out, bool(force))
    import_packages(import_)
    policy: Any = None
    behaviour = "random"
    if opened is None:
        from ..envs import EnvSource

        assert options.env is not None
        source = EnvSource.of(options.env, options.env_kwarg, typed=True)
    else:
        source = environment(opened, options, f"rlox dataset collect --policy {opened.typed} -o {out}")
        algo = load(opened, source, options)
        policy = algo.policy(options.n_envs, seed=options.seed)
        policy.digest = opened.digest
        behaviour = f"{opened.manifest['algorithm']} at step {opened.manifest.get('step')}"
    from ..data.collect import collect

    with sink.progress("collect") as progress, blaming(object if opened is None else type(algo)):
        done = collect(source, policy, n_steps=options.steps, n_episodes=options.episodes, seed=options.seed,
                       n_envs=options.n_envs, out=out, behaviour=behaviour, deterministic=options.deterministic,
                       on_progress=progress)  # fmt: skip
    returns = done.returns
    sink.record(
        {
            "path": str(done.path),
            "env": source.text or str(source),
            "policy": behaviour,
            "n_rows": done.n_rows,
            "n_episodes": done.n_episodes,
            "return_mean": float(returns.mean()) if len(returns) else None,
            "return_std": float(returns.std()) if len(returns) else None,
            "seed": options.seed,
            "bytes": done.path.stat().st_size,
        }
    )


def _check_writable(out: str, force: bool) -> None:
    """Refuse, before anything is collected, a file that is there or a place that cannot be written."""
    try:
        os.lstat(out)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise write_error(out, error) from error
    else:
        if os.path.isdir(out):
            raise write_error(out, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
        if not force:
            raise WriteError(f"{printable(out)} exists already", hint="`--force` replaces it", param="--out", value=out)
    parent = make_parents(out).parent
    if not os.access(parent, os.W_OK | os.X_OK):
        raise write_error(out, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
