"""Reading and writing the TOML of configs and presets.

``tomllib`` reads; what it lacks is here: limits on what is opened, errors of rlox, the line of each key, and a writer.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, NotFoundError, printable

MAX_BYTES = 1_000_000
_HEADER = re.compile(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")


@dataclass(frozen=True)
class Document:
    """A TOML file: its values, and the line on which each key stands."""

    name: str
    data: dict[str, Any]
    lines: dict[tuple[str, ...], int]

    def where(self, *path: str) -> str:
        """Return ``file.toml:4`` for a key, or the nearest table above it that has a line."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return f"{self.name}:{self.lines[path[:end]]}"
        return self.name


def read_toml(path: str | os.PathLike[str], what: str = "config") -> Document:
    """Read a TOML file that a user named.

    Raises
    ------
    NotFoundError
        No such file, or a folder.
    ConfigError
        Not a plain file, over a megabyte, empty, not UTF-8, or not TOML (with line and column).
    """
    shown = printable(path)
    try:
        mode = os.stat(path).st_mode
        raw, size = _head(path) if stat.S_ISREG(mode) else (b"", 0)
    except FileNotFoundError:
        raise NotFoundError(f"{what} {shown} does not exist", value=str(path)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NotFoundError(f"cannot read {what} {shown}: {printable(reason)}", value=str(path)) from None
    if stat.S_ISDIR(mode):
        raise NotFoundError(f"{what} {shown} is a folder, must be a TOML file", value=str(path))
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{what} {shown} is not a plain file", value=str(path))
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{what} {shown} has {size} bytes, must be at most {MAX_BYTES}", value=str(path))
    if not raw.strip():
        raise ConfigError(f"{what} {shown} is empty", hint="`--dry-run --toml` prints a complete one", value=str(path))
    return parse_toml(raw, Path(path).name, shown)


def _head(path: str | os.PathLike[str]) -> tuple[bytes, int]:
    """Return what is read of a file at most, and its size."""
    with open(path, "rb") as file:
        return file.read(MAX_BYTES + 1), os.fstat(file.fileno()).st_size


def parse_toml(raw: bytes, name: str, shown: str | None = None) -> Document:
    """Parse the bytes of a TOML file; ConfigError names line and column."""
    shown = shown or printable(name)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown} is not a text file (byte {error.start} is not UTF-8)", value=name) from None
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else printable(str(error))
        yaml = name.lower().endswith((".yaml", ".yml", ".json"))
        hint = "configs are TOML, e.g. `learning_rate = 1e-3` under `[algo]`" if yaml else None
        raise ConfigError(f"{shown} is not valid TOML: {reason}", hint=hint, value=name) from None
    return Document(printable(name), data, _lines(text))


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the first line of each key path; exact for what the writer makes, near enough inside long strings."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _parts(header[1])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, *_parts(key[1])), number)
    return lines


def _parts(text: str) -> tuple[str, ...]:
    return tuple(p.strip("\"'") for p in _PART.findall(text))


def dumps(tables: Mapping[str, Mapping[str, Any]], comments: tuple[str, ...] = ()) -> str:
    """Return tables of values as TOML text that reads back equal.

    Parameters
    ----------
    tables : mapping of name to mapping
        Empty tables are left out. Values are str, bool, int, finite float, lists and dicts of these.
    comments : tuple of str
        Lines for the top.
    """
    blocks = ["\n".join(f"# {line}" for line in comments)] if comments else []
    for name, values in tables.items():
        if values:
            body = "\n".join(f"{_key(k)} = {toml_value(v)}" for k, v in values.items())
            blocks.append(f"[{_key(name)}]\n{body}")
    return "\n\n".join(blocks) + "\n"


def _key(key: str) -> str:
    return key if _BARE.match(key) else _string(key)


def toml_value(value: Any) -> str:
    """Return one value as TOML text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(k))} = {toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    # TOML's dates and times read back as datetime objects, whose isoformat is TOML again
    return str(value.isoformat())


def _string(text: str) -> str:
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(c, c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'
