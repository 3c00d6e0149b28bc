"""A policy from a checkpoint and the environment for it, as ``rlox eval`` and ``rlox dataset collect`` need them."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.fields import make_config, option, options_of
from ..config.sections import Section
from ..config.toml import toml_value
from ..errors import CheckpointError, CheckpointMismatchError, CheckpointNotFoundError, ConfigError, printable
from ..registry import ALGORITHMS
from ..seeding import MAX_SEED
from ..user_code import blaming, import_module
from ._completion import env_ids
from ._options import Flag, flag
from ._output import current

if TYPE_CHECKING:
    from ..algorithm import Algorithm
    from ..envs import EnvSource

_DEVICE = re.compile("auto|(cpu|cuda)(:[0-9]{1,4})?")


@dataclass(frozen=True, kw_only=True)
class PolicyOptions(Section):
    """The options that both commands share."""

    env: str | None = option(
        None, "Environment: an id, pkg.module:Env-v0, module:make or file.py:Name; default: the checkpoint's",
        panel="Run", metavar="ID",
    )  # fmt: skip
    env_kwarg: dict[str, Any] = option(
        {}, "Argument of the environment as KEY=VALUE; repeatable", panel="Run", metavar="K=V"
    )
    seed: int = option(0, "Seed of the episodes and of sampled actions", panel="Run", ge=0, le=MAX_SEED)
    n_envs: int = option(1, "Environments stepped together", panel="Run", ge=1, le=4096, aliases=("--num-envs",))
    algo: str | None = option(
        None, "Class of the checkpoint where it is your own: file.py:Class", panel="Run", metavar="FILE:CLASS"
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N", panel="Hardware")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(f"device is {printable(self.device)!r}, must be auto, cpu, cuda or cuda:N",
                              param="--device", value=self.device)  # fmt: skip


def flags(cls: type) -> list[Flag]:
    """Return the flags of such options."""
    return [flag(o, env_ids if o.name == "env" else None) for o in options_of(cls)]


def import_flag() -> Flag:
    """Return ``--import``: code of the user's own that registers environments."""
    return Flag("import_", "--import", help="Import a package that registers environments; repeatable", metavar="PKG",
                multiple=True, panel="Run")  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """A checkpoint that passed every check which needs no torch."""

    path: Path
    typed: str
    manifest: dict[str, Any]
    digest: str


def open_checkpoint(path: str) -> Opened:
    """Check a checkpoint, follow its links and read its manifest; a missing best.pt names the last.pt beside it."""
    from ..checkpoint import read_manifest, verify

    try:
        digest = verify(path)["digest"]
    except CheckpointNotFoundError as error:
        beside = os.path.join(os.path.dirname(path), "last.pt")
        if os.path.basename(path) == "best.pt" and os.path.isfile(beside):
            error.hint = f"the run was not evaluated yet; use {printable(beside)}"
        raise
    manifest = read_manifest(path)
    _check_config(path, manifest)
    return Opened(Path(os.path.realpath(path)), path, manifest, str(digest))


def environment(opened: Opened, options: PolicyOptions, command: str) -> EnvSource:
    """Return the environment that was typed, else the recorded one; ids in files are data and never imported."""
    from ..envs import EnvSource

    recorded = as_table(opened.manifest.get("env"))
    if options.env is not None:
        known = _recorded_kwargs(recorded) if _same_env(options.env, recorded.get("text")) else {}
        return EnvSource.of(options.env, {**_taken(opened.typed, known, options), **options.env_kwarg}, typed=True)
    odd = sorted(set(recorded) - {"id", "text", "kwargs"})
    if odd:
        raise CheckpointError(f"{printable(opened.typed)} records an environment with {printable(odd[0])!r}, which is "
                              "no part of an id", hint=f"`{command} --env ID`", value=odd[0])  # fmt: skip
    if recorded.get("id") is not None:
        kwargs = recorded.get("kwargs")
        return EnvSource.from_record(recorded["id"], {**kwargs, **options.env_kwarg} if isinstance(kwargs, dict) else kwargs)
    text = recorded.get("text")
    if isinstance(text, str):
        raise CheckpointMismatchError(
            f"{printable(opened.typed)} was trained in {printable(text)!r}, an environment of your own, which must be named again",
            hint=f"`{command} {printable(_env_words(text, _recorded_kwargs(recorded)), 500)}`", param="--env", value=text,
        )  # fmt: skip
    raise CheckpointMismatchError(f"{printable(opened.typed)} records no environment",
                                  hint=f"`{command} --env ID`", param="--env")  # fmt: skip


def _taken(path: str, known: dict[str, Any], options: PolicyOptions) -> dict[str, Any]:
    """Return the recorded arguments that are used, and say so; what names a file or module must be typed again."""
    open_ones = {key: value for key, value in known.items() if key not in options.env_kwarg}
    odd = {key: value for key, value in open_ones.items() if isinstance(value, str) and set(value) & set(":/\\")}
    taken = {key: value for key, value in open_ones.items() if key not in odd}
    if taken:
        current().note(f"{printable(path)} was trained with {_kwarg_words(taken)}, which is used")
    if odd:
        current().warn(f"{printable(path)} was trained with {_kwarg_words(odd)}, which is not used unless you give it "
                       "as --env-kwarg")  # fmt: skip
    return taken


def _kwarg_words(kwargs: dict[str, Any]) -> str:
    return ", ".join(f"{printable(key)}={printable(toml_value(value))}" for key, value in kwargs.items())


def _same_env(typed: str, recorded: object) -> bool:
    """Whether what was typed names the recorded environment; its file may lie elsewhere, seen from here."""
    return isinstance(recorded, str) and os.path.basename(typed) == os.path.basename(recorded)


def _recorded_kwargs(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return the recorded arguments that are plain finite scalars."""
    return {
        key: value
        for key, value in as_table(recorded.get("kwargs")).items()
        if type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))
    }


def _env_words(text: str, kwargs: dict[str, Any]) -> str:
    """Return the flags that name an environment and its arguments."""
    pairs = [word for key, value in kwargs.items() for word in ("--env-kwarg", f"{key}={toml_value(value)}")]
    return shlex.join(["--env", text, *pairs])


def load(opened: Opened, source: EnvSource, options: PolicyOptions, *, allow_nonfinite: bool = False) -> Algorithm:
    """Rebuild the algorithm of a checkpoint for that environment (imports torch)."""
    from ..runs.threads import start_torch

    start_torch()
    from ..algorithm import Algorithm, load_algorithm
    from ._user_code import load_class

    cls = None
    if options.algo is not None:
        cls = load_class(options.algo)
        if not issubclass(cls, Algorithm):
            raise ConfigError(f"algo is {printable(options.algo)!r}, must be a subclass of rlox.OfflineAlgorithm "
                              "or of another algorithm of rlox", param="--algo", value=options.algo)  # fmt: skip
    try:
        with blaming(cls or Algorithm):
            return load_algorithm(opened.path, env=source, cls=cls, device=options.device, allow_nonfinite=allow_nonfinite)
    except CheckpointError as error:  # of several files, the one that is meant
        if str(opened.path) not in error.message:
            error.message = f"{printable(opened.typed)}: {error.message}"
        raise


def import_packages(names: Sequence[str]) -> None:
    """Import what ``--import`` names."""
    for name in names:
        import_module(name, param="--import")


def _check_config(path: str, manifest: dict[str, Any]) -> None:
    """Refuse a recorded config that its algorithm does not accept: the file is wrong then, not what was typed."""
    name = manifest.get("algorithm")
    spec = ALGORITHMS.get(name) if isinstance(name, str) else None
    if not isinstance(name, str) or not isinstance(manifest.get("config"), dict):
        raise CheckpointError(f"{printable(path)} names no algorithm and config", value=path)
    if spec is not None:
        try:
            make_config(spec.load_config(), None, manifest["config"])
        except ConfigError as error:
            raise CheckpointError(f"{printable(path)}: its config is wrong: {error.message}", value=path) from error


def as_table(value: Any) -> dict[str, Any]:
    """Return a table of a file, or an empty one: a stranger's file may hold anything there."""
    return value if isinstance(value, dict) else {}


def space_words(value: Any) -> Any:
    """Return a space that a file records in a few words, e.g. ``Box [3] float32``; anything else as it is."""
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return value
    return " ".join(str(value[k]) for k in ("type", "shape", "n", "nvec", "dtype") if k in value)
