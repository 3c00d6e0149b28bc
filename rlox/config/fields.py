"""What one configurable value is: its type, range, help and place. Everything else is made from this.

A config is a frozen dataclass whose fields are made with :func:`option`; ``__post_init__`` calls :func:`validate`.
The command line's flags and help, ``--set``, the TOML tables, the docs and the checkpoint's config come from
:func:`options_of`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigError, closest, printable

SECTIONS = ("run", "algo", "eval", "checkpoint", "log", "hardware")
MAX_COUNT = 2**53
_WIDTHS = re.compile(r"\s*[0-9]{1,9}\s*(?:,\s*[0-9]{1,9}\s*)*,?\s*")

_OPTIONS: dict[type, tuple[Option, ...]] = {}


@dataclass(frozen=True)
class Option:
    """One field of a config, with all that is known about it.

    ``section`` is its TOML table, ``panel`` its heading in the help; ``kind`` is one of ``int, float, bool, str, choice,
    float_or_auto, net_arch, table``; ``optional`` allows None.
    """

    name: str
    kind: str
    default: Any
    help: str
    section: str = "algo"
    panel: str = ""
    optional: bool = False
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    choices: tuple[str, ...] = ()
    special: tuple[float, ...] = ()
    aliases: tuple[str, ...] = ()
    metavar: str | None = None
    hidden: bool = False

    @property
    def key(self) -> str:
        """The full TOML key, e.g. ``algo.gamma``."""
        return f"{self.section}.{self.name}"

    @property
    def flag(self) -> str:
        """The flag, e.g. ``--batch-size``."""
        return "--" + self.name.replace("_", "-")

    @property
    def interval(self) -> str:
        """The allowed range in words, e.g. ``[0, 1]``; empty where any value goes."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        low = self.ge if self.ge is not None else self.gt
        high = self.le if self.le is not None else self.lt
        if low is None and high is None:
            return ""
        left = "(" if low is None or self.gt is not None else "["
        right = ")" if high is None or self.lt is not None else "]"
        text = f"{left}{'-inf' if low is None else _short(low)}, {'inf' if high is None else _short(high)}{right}"
        return " or ".join([text, *(_short(s) for s in self.special)])


def option(
    default: Any,
    help: str,
    *,
    section: str = "algo",
    panel: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    special: Iterable[float] = (),
    aliases: Iterable[str] = (),
    metavar: str | None = None,
    hidden: bool = False,
) -> Any:
    """Declare a config field: default, one line of help, range and place.

    Parameters
    ----------
    default : object
        The class default; a list or dict is copied for each instance.
    help : str
        One line without a final period.
    section, panel : str
        TOML table and heading in the help (default: the section's).
    ge, gt, le, lt : float, optional
        Closed and open bounds.
    special : iterable of float
        Single values allowed outside the bounds, e.g. -1.
    aliases : iterable of str
        Second spellings of the flag, e.g. ``--lr``.
    """
    meta = {
        "help": help, "section": section, "panel": panel, "ge": ge, "gt": gt, "le": le, "lt": lt,
        "special": tuple(special), "aliases": tuple(aliases), "metavar": metavar, "hidden": hidden,
    }  # fmt: skip
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: _copy(default), metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


def options_of(cls: type) -> tuple[Option, ...]:
    """Return the options of a config class, base classes first, in order of declaration."""
    if cls not in _OPTIONS:
        hints = typing.get_type_hints(cls)
        fields = [f for f in dataclasses.fields(cls) if "help" in f.metadata]
        _OPTIONS[cls] = tuple(_option_of(f, hints[f.name]) for f in fields)
    return _OPTIONS[cls]


def _option_of(f: dataclasses.Field[Any], hint: Any) -> Option:
    kind, optional, choices = _kind(f.name, hint)
    default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
    return Option(f.name, kind, default, optional=optional, choices=choices, **f.metadata)


def validate(config: Any) -> None:
    """Coerce and check every option of a frozen config instance in place; ConfigError names the first that is wrong."""
    for o in options_of(type(config)):
        object.__setattr__(config, o.name, coerce(o, getattr(config, o.name)))


def make_config(cls: type[Any], base: Any = None, overrides: Mapping[str, Any] | None = None) -> Any:
    """Return ``base`` (default: the class defaults) with overrides; an unknown name is an error with the nearest one."""
    overrides = dict(overrides or {})
    names = [o.name for o in options_of(cls)]
    for name in overrides:
        if name not in names:
            near = closest(name, names)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
            raise ConfigError(f"{cls.__name__} has no option {printable(name)!r}", hint=hint, param=name,
                              suggestions=near)  # fmt: skip
    if base is None:
        return cls(**overrides)
    if not isinstance(base, cls):
        raise ConfigError(f"config is a {type(base).__name__}, must be a {cls.__name__}", param="config")
    return dataclasses.replace(base, **overrides)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as a plain dict of primitives, lists and dicts."""
    return {o.name: _copy(getattr(config, o.name)) for o in options_of(type(config))}


def coerce(o: Option, value: Any) -> Any:
    """Return ``value`` as the option's type, checked against its range; ConfigError otherwise."""
    if value is None:
        if o.optional:
            return None
        raise _wrong(o, value)
    try:
        result = _COERCE[o.kind](o, value)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(o, value) from None
    if isinstance(result, int | float) and not isinstance(result, bool) and not _in_range(o, result):
        raise _wrong(o, value)
    return result


def parse(o: Option, text: str) -> Any:
    """Return the value that a user typed: a TOML literal, a bare word where the option is text."""
    if o.kind in ("str", "choice"):
        plain = text.strip()
        quoted = len(plain) >= 2 and plain[0] == plain[-1] and plain[0] in "\"'"
        return coerce(o, None if o.optional and plain == "none" else plain[1:-1] if quoted else text)
    if o.optional and text.strip().lower() == "none":
        return None
    if o.kind == "net_arch" and _WIDTHS.fullmatch(text):  # as a shell lets it be typed without quotes
        return coerce(o, [int(width) for width in text.split(",") if width.strip()])
    return coerce(o, literal(text))


def literal(text: str) -> Any:
    """Parse one TOML value; what is none is returned as the string it is."""
    import tomllib

    if "\n" in text:
        return text
    plain = text.strip()
    try:
        return tomllib.loads(f"x = {plain}")["x"]
    except (tomllib.TOMLDecodeError, ValueError, RecursionError):
        return plain


def entry(name: str, value: Any, flag: str, place: str = "") -> Any:
    """Return the value of one entry of a table option; ConfigError for a number that is not finite.

    Parameters
    ----------
    name : str
        The entry's own key, e.g. ``size``.
    flag : str
        The option that it belongs to, e.g. ``--env-kwarg``.
    place : str
        Where it stands in a file.
    """
    if not _finite(value):
        word = printable(value)
        where = f"{place}: " if place else ""
        raise ConfigError(f"{where}{flag} {printable(name)} is {word}, must be finite",
                          hint=f"if the text is meant, quote it: `{flag} '{printable(name)}=\"{word}\"'`",
                          param=flag, value=str(value))  # fmt: skip
    return value


def _finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _kind(name: str, hint: Any) -> tuple[str, bool, tuple[str, ...]]:
    optional = False
    parts = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [a for a in typing.get_args(hint) if a is not type(None)]
        optional = len(parts) != len(typing.get_args(hint))
    literals = [p for p in parts if typing.get_origin(p) is Literal]
    plain = [p for p in parts if p not in literals]
    if literals and not plain:
        return "choice", optional, tuple(typing.get_args(literals[0]))
    if literals and plain == [float]:
        return "float_or_auto", optional, ()
    if any(typing.get_origin(p) is list for p in plain):
        return "net_arch", optional, ()
    if len(plain) == 1 and (plain[0] is dict or typing.get_origin(plain[0]) is dict):
        return "table", optional, ()
    if len(plain) == 1 and plain[0] in (int, float, bool, str):
        return plain[0].__name__, optional, ()
    raise TypeError(f"field {name}: {hint} is no type of option")


def _int(o: Option, value: Any) -> int:
    if isinstance(value, str):
        value = float(value) if any(c in value for c in ".eE") else int(value)
    result = int(value)
    if isinstance(value, bool) or result != value:
        raise ValueError
    if abs(result) > MAX_COUNT:
        raise OverflowError
    return result


def _float(o: Option, value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    result = float(value)
    if not math.isfinite(result):
        raise ValueError
    return result


def _bool(o: Option, value: Any) -> bool:
    if isinstance(value, str):
        value = {"true": True, "false": False}[value.lower()] if value.lower() in ("true", "false") else value
    if not isinstance(value, bool):
        raise TypeError
    return value


def _str(o: Option, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _choice(o: Option, value: Any) -> str:
    if value not in o.choices:
        raise ValueError
    return str(value)


def _float_or_auto(o: Option, value: Any) -> float | str:
    return "auto" if value == "auto" else _float(o, value)


def _net_arch(o: Option, value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) != {"pi", "qf"}:
            raise ValueError
        return {k: _widths(v) for k, v in value.items()}
    return _widths(value)


def _widths(value: Any) -> list[int]:
    widths = [] if isinstance(value, str) else list(value)
    if isinstance(value, str) or not all(type(w) is int and 0 < w <= 65536 for w in widths):
        raise ValueError
    return widths


def _table(o: Option, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError
    return dict(value)


_COERCE = {
    "int": _int, "float": _float, "bool": _bool, "str": _str, "choice": _choice,
    "float_or_auto": _float_or_auto, "net_arch": _net_arch, "table": _table,
}  # fmt: skip
_WANTED = {
    "int": "an integer", "float": "a finite number", "bool": "true or false", "str": "text",
    "float_or_auto": "a finite number or 'auto'", "net_arch": "a list of widths like [256, 256] or {pi = [256], qf = [256]}",
    "table": "a table", "choice": "",
}  # fmt: skip


def _wrong(o: Option, value: Any) -> ConfigError:
    near = closest(str(value), o.choices) if o.choices else []
    shown = value if isinstance(value, int | float) else repr(printable(value))
    wanted = _WANTED[o.kind]
    if o.interval:
        wanted = f"{wanted} in {o.interval}" if o.kind != "choice" and wanted and not _number(value) else o.interval
        wanted = f"in {wanted}" if _number(value) else wanted
    if o.kind == "int" and isinstance(value, float) and not value.is_integer():
        wanted = f"an integer in {o.interval}" if o.interval else "an integer"
    message = f"{o.name} is {shown}, must be {wanted}"
    if o.kind == "int" and _number(value) and abs(float(value)) > MAX_COUNT:
        message = f"{o.name} is {shown}, must be at most 2**53"
    return ConfigError(message, hint=f"did you mean {near[0]!r}?" if near else None, param=o.flag, value=value,
                       suggestions=near)  # fmt: skip


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _in_range(o: Option, value: float) -> bool:
    if value in o.special:
        return True
    return not (
        (o.ge is not None and value < o.ge)
        or (o.gt is not None and value <= o.gt)
        or (o.le is not None and value > o.le)
        or (o.lt is not None and value >= o.lt)
    )


def _short(x: float) -> str:
    return str(int(x)) if float(x).is_integer() and abs(x) < 1e15 else f"{x:g}"


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(v) for v in value]
    return value
