"""Named sets of values: the tuned ones shipped per algorithm, ``smoke``, and a user's file.

``presets/<algorithm>.toml`` stands beside the module of the algorithm's config class, rlox's or a user's. Each of its
tables is named like an environment id (online) or a dataset's file name without ending (offline)::

    ["Pendulum-v1"]
    source = "where the values are from"
    ["Pendulum-v1".run]
    steps = 20_000
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, closest, printable
from .toml import Document, parse_toml, read_toml

NAMES = ("auto", "none", "smoke")
_OWN = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Preset:
    """One set of values.

    ``name`` is shown as the origin (``sac/Pendulum-v1``), ``tables`` maps sections to values, ``path`` is where the
    tables stand in ``document``. With ``partial``, keys that an algorithm does not have are skipped.
    """

    name: str
    document: Document
    path: tuple[str, ...]
    tables: Mapping[str, Any]
    partial: bool = False
    shipped: bool = True


def find_preset(
    name: str, *, algorithm: str | None, config: type | None, kind: str, subject: str | None
) -> Preset | None:
    """Return the preset that a user asked for.

    Parameters
    ----------
    name : str
        ``auto``: the entry of the algorithm's file for ``subject``, if there is one; ``none``; ``smoke``: a run of
        seconds; anything else: a TOML file in the form of ``--config``.
    algorithm : str or None
        Registered name.
    config : type or None
        The algorithm's config class.
    kind : {"online", "offline"}
    subject : str or None
        Environment id or name of the dataset.

    Raises
    ------
    ConfigError
        Neither a known name nor a file.
    NotFoundError
        The file is missing.
    """
    if name == "none":
        return None
    if name == "smoke":
        document = _shipped(_OWN / "smoke.toml")
        return Preset("smoke", document, (kind,), document.data[kind], partial=True)
    if name == "auto":
        own = _of_algorithm(algorithm, config)
        if own is None or subject is None or subject not in own.data:
            return None
        tables = {section: values for section, values in own.data[subject].items() if section != "source"}
        return Preset(f"{algorithm}/{subject}", own, (subject,), tables)
    if not name.endswith(".toml") and "/" not in name:
        near = closest(name, NAMES)
        hint = f"did you mean {near[0]!r}?" if near else "a file needs the ending .toml"
        raise ConfigError(f"preset is '{printable(name)}', must be one of {', '.join(NAMES)} or a TOML file",
                          hint=hint, param="--preset", value=name, suggestions=near)  # fmt: skip
    document = read_toml(name, "preset")
    return Preset(document.name, document, (), document.data, shipped=False)


def preset_subjects(algorithm: str, config: type) -> list[str]:
    """Return the environments or datasets for which an algorithm has a preset."""
    document = _of_algorithm(algorithm, config)
    return list(document.data) if document else []


def _of_algorithm(algorithm: str | None, config: type | None) -> Document | None:
    file = getattr(sys.modules.get(config.__module__), "__file__", None) if config else None
    if algorithm is None or file is None:
        return None
    path = Path(file).parent / "presets" / f"{algorithm}.toml"
    return _shipped(path) if path.is_file() else None


def _shipped(path: Path) -> Document:
    return parse_toml(path.read_bytes(), path.name)
