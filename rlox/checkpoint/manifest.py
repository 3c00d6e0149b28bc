"""The manifest of a checkpoint: JSON with limits, so that a file from a stranger is safe to read and to show."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from ..errors import CheckpointError, CheckpointMismatchError, printable

SCHEMA = "rlox.checkpoint"
FORMAT = 1
MEMBER = "rlox.json"
RESERVED = ("schema", "format", "rlox", "torch", "digests")
MAX_BYTES = 4 * 2**20
MAX_DEPTH = 64

_SHA256 = re.compile(r"[0-9a-f]{64}")


def encode(manifest: dict[str, Any]) -> bytes:
    """Return a manifest as JSON text.

    Raises
    ------
    CheckpointError
        For anything that JSON would not give back as it was: a key that is not a string, NaN or infinity, an object
        of another type; and beyond the limits of :func:`decode`. Tuples become lists.
    """
    for where, value in walk(manifest, "manifest"):
        if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
            raise CheckpointError(f"{where} has a key that is not a string, JSON cannot hold it")
        if isinstance(value, float) and not math.isfinite(value):
            raise CheckpointError(f"{where} is {value}, JSON has only finite numbers")
        if not isinstance(value, dict | list | tuple | str | int | float | None):
            raise CheckpointError(f"{where} is a {type(value).__name__}, JSON cannot hold it")
    text = json.dumps(manifest, indent=1, allow_nan=False).encode()
    if len(text) > MAX_BYTES:
        raise CheckpointError(f"the manifest has {len(text)} bytes, at most {MAX_BYTES} are allowed")
    return text


def decode(text: bytes) -> dict[str, Any]:
    """Return a manifest from JSON text, read strictly.

    Raises
    ------
    CheckpointError
        For more than 4 MiB, more than 64 levels, a key given twice, NaN, infinity, text that is not JSON or UTF-8,
        another schema, or digests that are no digests.
    CheckpointMismatchError
        For a format newer than this version of rlox reads.
    """
    manifest = parse(text)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise CheckpointError(f"its manifest is not one of rlox: 'schema' is not {SCHEMA}")
    _check_format(manifest.get("format"), manifest.get("rlox"))
    digests = manifest.get("digests")
    if not isinstance(digests, dict) or not all(isinstance(v, str) and _SHA256.fullmatch(v) for v in digests.values()):
        raise CheckpointError("its manifest has no list of digests")
    return manifest


def parse(text: bytes) -> Any:
    """Return what JSON text of a stranger holds: :func:`decode` without a look at the contents."""
    if len(text) > MAX_BYTES:
        raise CheckpointError(f"its manifest has {len(text)} bytes, at most {MAX_BYTES} are allowed")
    try:
        manifest = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except RecursionError as error:
        raise CheckpointError(f"its manifest is nested more than {MAX_DEPTH} levels deep") from error
    except ValueError as error:  # JSON, UTF-8, and numbers of more than 4300 digits
        raise CheckpointError(f"its manifest is not valid JSON: {printable(error)}") from error
    _check_depth(manifest)
    return manifest


def walk(value: Any, where: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield every value under ``value`` with its place, parents first; CheckpointError beyond 64 levels."""
    if depth > MAX_DEPTH:
        raise CheckpointError(f"{where[:80]}… is nested more than {MAX_DEPTH} levels deep")
    yield where, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, f"{where}[{printable(repr(key), 80)}]", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from walk(item, f"{where}[{index}]", depth + 1)


def _check_depth(value: Any) -> None:
    """Go down level by level: linear, and safe for what a stranger wrote."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item for v in level if isinstance(v, dict | list) for item in (v.values() if isinstance(v, dict) else v)
        ]
        if not level:
            return
    raise CheckpointError(f"its manifest is nested more than {MAX_DEPTH} levels deep")


def _check_format(version: object, writer: object) -> None:
    if type(version) is not int or version < 1:
        raise CheckpointError(f"its format version is {printable(repr(version))}, must be a positive integer")
    if version > FORMAT:
        raise CheckpointMismatchError(
            f"its format version is {version}, this rlox reads up to {FORMAT}",
            hint=f"use the rlox that wrote it ({printable(writer, 40)}) or a newer one",
            value=version,
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {printable(key, 80)!r} is given twice")
            seen.add(key)
    return result


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{printable(text, 40)} is beyond the range of numbers")
    return number
