"""From values to text and to JSON: what every output of a command has in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from ..errors import printable

CELL_LIMIT = 8192
_ASCII = str.maketrans({"…": "...", "–": "-", "—": "-", "±": "+/-", "×": "x", "→": "->", "≤": "<=", "≥": ">="})


def to_json(value: Any) -> tuple[Any, list[str]]:
    """Return a value as JSON knows it, and the JSON pointers of the NaN and infinite numbers that became null."""
    nonfinite: list[str] = []
    return _plain(value, "", nonfinite), nonfinite


def _plain(value: Any, where: str, nonfinite: list[str]) -> Any:
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, without importing NumPy
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            nonfinite.append(where)
            return None
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}/{_pointer(k)}", nonfinite) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}/{i}", nonfinite) for i, v in enumerate(value)]
    return str(value)


def _pointer(key: object) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")


def flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the keys and values of nested tables, as ``outer.inner``."""
    for key, value in mapping.items():
        name = f"{prefix}{printable(key)}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name}.")
        else:
            yield name, value


def cell(value: Any) -> Any:
    """Return a value as text, or a float as itself: how many digits it gets depends on where it goes."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(k)}={short(cell(v))}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(short(cell(v))) for v in value) or "-"
    return printable(value, CELL_LIMIT)


def short(value: Any) -> str:
    """Return a cell as a person reads it: floats to six digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def tsv(value: Any) -> str:
    """Return a cell as a program reads it: floats exact, no tab inside."""
    return repr(value) if isinstance(value, float) else str(value).replace("\t", "\\t")


def one_line(text: str) -> str:
    """Return a text with its control characters visible."""
    return printable(text, CELL_LIMIT)


def encodable(text: str, stream: TextIO) -> str:
    """Return the text with what the stream cannot encode replaced by plain ASCII."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
