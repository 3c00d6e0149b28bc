"""What the manifest of a checkpoint records, read strictly: the file may come from anybody."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from ..config.fields import make_config
from ..envs import EnvSource, space_from_json
from ..errors import CheckpointError, ConfigError, printable
from ..seeding import MAX_SEED

_T = TypeVar("_T")


def recorded(manifest: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
    """Return an entry of a manifest; CheckpointError when it is missing or of another type."""
    value = manifest.get(key)
    if type(value) is not kind:
        what = "missing" if value is None else f"a {type(value).__name__}"
        raise CheckpointError(f"{key!r} in its manifest is {what}, must be a {kind.__name__}")
    return value


def recorded_config(manifest: Mapping[str, Any], config_class: type[Any]) -> Any:
    """Return the config that a manifest records; CheckpointError when this version has no such options."""
    options = recorded(manifest, "config", dict)
    try:
        return make_config(config_class, None, options)
    except ConfigError as error:
        raise CheckpointError(f"its config is not one of this version: {error}", hint=error.hint) from error


def recorded_seed(manifest: Mapping[str, Any]) -> int:
    """Return the seed that a manifest records."""
    seed = recorded(manifest, "seed", int)
    if not 0 <= seed <= MAX_SEED:
        raise CheckpointError(f"'seed' in its manifest is {printable(seed)}, must be in 0…{MAX_SEED}")
    return seed


def recorded_spaces(manifest: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the observation and action space that a manifest records."""
    spaces = recorded(manifest, "spaces", dict)
    return space_from_json(spaces.get("observation")), space_from_json(spaces.get("action"))


def recorded_source(manifest: Mapping[str, Any]) -> EnvSource | None:
    """Return the environment that a manifest names, None where it was the user's own.

    The name is data: only an id that is registered already is made.
    """
    env = manifest.get("env")
    if not isinstance(env, dict) or env.get("id") is None:
        return None
    return EnvSource.from_record(env["id"], env.get("kwargs") or {}, error=CheckpointError)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on, where they are installed."""
    found = {"python": platform.python_version()}
    for package in ("rlox", "torch", "numpy", "gymnasium", "h5py"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
