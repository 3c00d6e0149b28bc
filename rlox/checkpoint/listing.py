"""The list of a generation: which parts it has, as JSON that is sealed by its own digest. Standard library alone.

A list is read with the limits of a checkpoint's manifest. It names its files by a fixed pattern, so that none can lie
outside the folder, and it has one way only to be written, so that every flipped bit of it is found.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import CheckpointError, CheckpointMismatchError, printable
from . import manifest as manifests
from .parts import MAX_NUMBER, Part, is_part_file, regular_file

SCHEMA = "rlox.generation"
FORMAT = 1
MAX_PART_BYTES = 2**40

_SHA256 = re.compile(r"[0-9a-f]{64}")


def encode(number: int, info: Mapping[str, Any], parts: Mapping[str, Part]) -> bytes:
    """Return the list of a generation as text; CheckpointError for an ``info`` that JSON does not give back."""
    fields = {
        "schema": SCHEMA,
        "format": FORMAT,
        "rlox": __version__,
        "number": number,
        "info": dict(info),
        "parts": {p.name: {"file": p.file, "size": p.size, "sha256": p.sha256} for p in parts.values()},
    }
    return _sealed(fields)


def decode(text: bytes) -> tuple[int, dict[str, Any], dict[str, Part]]:
    """Return number, info and parts from the text of a list, read strictly.

    Raises
    ------
    CheckpointError
        For text that differs by one byte from what was written, or that no version of rlox writes.
    CheckpointMismatchError
        For a format newer than this version of rlox reads.
    """
    fields = manifests.parse(text)
    if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
        raise CheckpointError(f"is no list of a generation: 'schema' is not {SCHEMA}")
    if text != _sealed({key: value for key, value in fields.items() if key != "sha256"}):
        raise CheckpointError("is damaged: digest mismatch")
    if fields.get("format") != FORMAT:
        raise CheckpointMismatchError(
            f"has format version {printable(fields.get('format'), 40)}, this rlox reads {FORMAT}",
            hint=f"use the rlox that wrote it ({printable(fields.get('rlox'), 40)}) or a newer one",
            value=fields.get("format"),
        )
    number, info, parts = fields.get("number"), fields.get("info"), fields.get("parts")
    if type(number) is not int or not 1 <= number <= MAX_NUMBER:
        raise CheckpointError(f"has the number {printable(number, 40)}, must be 1 to {MAX_NUMBER}")
    if not isinstance(info, dict) or not isinstance(parts, dict):
        raise CheckpointError("has no info or no parts")
    return number, info, {name: _part(name, fields, number) for name, fields in parts.items()}


def read(path: Path) -> tuple[int, dict[str, Any], dict[str, Part]]:
    """Return what :func:`decode` makes of a file; errors name it."""
    with regular_file(path) as (file, size):
        if size > manifests.MAX_BYTES:
            raise CheckpointError(f"{path.name} has {size} bytes, at most {manifests.MAX_BYTES} are allowed")
        text = file.read(manifests.MAX_BYTES + 1)
    try:
        return decode(text)
    except CheckpointMismatchError as error:
        raise CheckpointMismatchError(f"{path.name} {error.message}", hint=error.hint, value=error.value) from error
    except CheckpointError as error:
        raise CheckpointError(f"{path.name} {error.message}") from error


def _sealed(fields: dict[str, Any]) -> bytes:
    """Return fields as text that ends with the digest of the text without it."""
    text = manifests.encode(fields)
    return text[:-2] + f',\n "sha256": "{hashlib.sha256(text).hexdigest()}"\n}}'.encode()


def _part(name: str, fields: Any, number: int) -> Part:
    if not isinstance(fields, dict) or fields.keys() != {"file", "size", "sha256"}:
        raise CheckpointError(f"has no proper entry for part {printable(name, 80)}")
    file, size, sha256 = fields["file"], fields["size"], fields["sha256"]
    written = is_part_file(file) if isinstance(file, str) else None
    if written is None or not 1 <= written <= number or file != f"{name}-{written:09d}":
        raise CheckpointError(f"unsafe content: part {printable(name, 80)} is in the file {printable(file, 80)}")
    if type(size) is not int or not 0 <= size <= MAX_PART_BYTES:
        raise CheckpointError(f"part {name} has {printable(size, 40)} bytes, at most {MAX_PART_BYTES} are allowed")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise CheckpointError(f"part {name} has no digest")
    return Part(name, file, size, sha256)
