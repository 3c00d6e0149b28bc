"""Times and sizes as people type them."""

from __future__ import annotations

import math
import re

from ..errors import ConfigError, printable

_TIMES = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_SIZES = {"": 1, "b": 1} | {
    f"{prefix}{end}": base**power
    for power, prefix in enumerate("kmgt", 1)
    for end, base in (("", 1000), ("b", 1000), ("ib", 1024))
}
_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)", re.ASCII)


def seconds(text: str, name: str = "max_time") -> float:
    """Return the seconds of ``90s``, ``30m``, ``1.5h``, ``1h30m`` or ``90``; ConfigError otherwise."""
    return _total(text, _TIMES, name, "a time above 0, e.g. 90s, 30m or 1h30m")


def size_bytes(text: str, name: str = "max_memory") -> int:
    """Return the bytes of ``8GB``, ``500MB`` or ``2GiB``; ConfigError otherwise."""
    return int(_total(text, _SIZES, name, "a size above 0, e.g. 8GB or 500MB"))


def _total(text: str, units: dict[str, int], name: str, wanted: str) -> float:
    total, at, plain = 0.0, 0, text.strip().lower()
    while at < len(plain) and (part := _PART.match(plain, at)) and part[2] in units:
        total += float(part[1]) * units[part[2]]
        at = part.end()
    if at < len(plain) or not 0 < total < math.inf or len(plain) > 40:
        flag = "--" + name.replace("_", "-")
        raise ConfigError(f"{name} is '{printable(text)}', must be {wanted}", param=flag, value=text)
    return total
