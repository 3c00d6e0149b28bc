"""Where every value of a run comes from: default < preset < ``--config`` < flag < ``--set``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ..errors import ConfigError, closest, printable
from .fields import SECTIONS, Option, coerce, entry, literal, options_of, parse
from .preset import Preset, find_preset
from .sections import (
    CheckpointConfig,
    EvalConfig,
    HardwareConfig,
    LogConfig,
    OfflineEvalConfig,
    OfflineRunConfig,
    RunConfig,
)
from .toml import dumps, read_toml, toml_value
from .units import seconds, size_bytes

_RUN = {"online": (RunConfig, EvalConfig), "offline": (OfflineRunConfig, OfflineEvalConfig)}


class Schema:
    """The options of one command, by full key, in the order of their tables.

    Parameters
    ----------
    kind : {"online", "offline"}
    config : type or None
        Config class of the algorithm.
    algorithm : str or None
        Its registered name.
    """

    def __init__(self, kind: str, config: type | None, algorithm: str | None = None) -> None:
        self.kind = kind
        self.config = config
        self.algorithm = algorithm
        self.classes = [*_RUN[kind], CheckpointConfig, LogConfig, HardwareConfig, *([config] if config else [])]
        found = [o for cls in self.classes for o in options_of(cls)]
        self.options = {o.key: o for section in SECTIONS for o in found if o.section == section}
        names = [o.name for o in found]
        if twice := {n for n in names if names.count(n) > 1}:
            raise ConfigError(f"{config.__name__ if config else kind} declares {', '.join(sorted(twice))}, which rlox has "
                              "already")  # fmt: skip

    def find(self, key: str, where: str) -> tuple[Option, str | None]:
        """Return the option of ``algo.gamma``, ``gamma`` or ``run.env_kwarg.g``, and the part below a table option."""
        parts = key.split(".")
        for start in (2, 1):
            base, below = ".".join(parts[:start]), ".".join(parts[start:]) or None
            o = self.options.get(base) or next((o for o in self.options.values() if o.name == base), None)
            if o is not None and (below is None or o.kind == "table"):
                return o, below
        raise self.unknown(key, where)

    def unknown(self, key: str, where: str) -> ConfigError:
        """Return the error for a key that no option has, with the nearest."""
        last = key.rpartition(".")[2]
        alias = [o.key for o in self.options.values() if f"--{last.replace('_', '-')}" in o.aliases]
        by_name = {o.name: o.key for o in self.options.values()}
        near = alias or closest(key, self.options) or [by_name[n] for n in closest(last, by_name)]
        hint = f"did you mean {near[0]!r}?" if near else "`--dry-run` lists every key"
        return ConfigError(
            f"{where}: unknown key '{printable(key)}'", hint=hint, param=key, value=key, suggestions=near
        )


@dataclass(frozen=True)
class Value:
    """One value, and the text that says where it is from."""

    value: Any
    origin: str


@dataclass(frozen=True)
class Resolved:
    """Every value of a run with its origin.

    ``values`` is keyed by ``section.name``, for table options by ``section.name.entry``; ``preset`` names the preset
    that was applied, ``warnings`` holds lines for the user.
    """

    schema: Schema
    values: Mapping[str, Value]
    preset: str | None = None
    warnings: tuple[str, ...] = ()

    def __getitem__(self, key: str) -> Any:
        o = self.schema.options[key]
        if o.kind != "table":
            return self.values[key].value
        below = f"{key}."
        return {k.removeprefix(below): v.value for k, v in self.values.items() if k.startswith(below)}

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or ``default`` where this command has no such key."""
        return self[key] if key in self.schema.options else default

    def build(self, cls: type[Any]) -> Any:
        """Return a config instance of these values; ConfigError from its own checks."""
        return cls(**{o.name: self[o.key] for o in options_of(cls)})

    def rows(self) -> list[tuple[str, Any, str]]:
        """Return (key, value, origin) of every value, as ``--dry-run`` shows them."""
        return [(key, v.value, v.origin) for key, v in self.values.items()]

    def to_toml(self, comments: tuple[str, ...] = ()) -> str:
        """Return a file that ``--config`` accepts and that resolves to the same values, whatever the preset."""
        tables: dict[str, dict[str, Any]] = {}
        for o in self.schema.options.values():
            value = self[o.key]
            if value is None and o.default is None and self.values[o.key].origin == "default":
                continue
            if value != {}:
                tables.setdefault(o.section, {})[o.name] = "none" if value is None else value
        return dumps(tables, comments)


def resolve(
    schema: Schema,
    *,
    preset: str = "auto",
    config_files: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    subject: str | None = None,
) -> Resolved:
    """Merge all sources of values, each checked against its type and range; later sources win.

    Parameters
    ----------
    schema : Schema
    preset : str
        See :func:`rlox.config.preset.find_preset`.
    config_files : sequence of str
        TOML files, merged left to right.
    flags : mapping of key to value
        Typed text, a bool, or a list of ``K=V`` for a table option; None means not given.
    sets : sequence of str
        ``KEY=VALUE``; a key may leave out its table.
    subject : str, optional
        What ``auto`` looks for instead of the environment or dataset given.

    Raises
    ------
    ConfigError
        Unknown key, wrong value, a key twice in ``sets``, values that do not fit together.
    NotFoundError
        A file is missing.
    """
    files = [entry for path in config_files for entry in _of_file(schema, path)]
    typed = list(_of_flags(schema, flags or {}))
    assigned = list(_of_sets(schema, sets))
    given = dict([*files, *typed, *assigned])
    found = find_preset(preset, algorithm=schema.algorithm, config=schema.config, kind=schema.kind,
                        subject=subject or _subject(schema.kind, given))  # fmt: skip
    chosen = _of_preset(schema, found) if found else ()
    values = {o.key: Value(o.default, "default") for o in schema.options.values() if o.kind != "table"}
    values.update([*chosen, *files, *typed, *assigned])
    order = list(schema.options)
    values = dict(sorted(values.items(), key=lambda item: order.index(".".join(item[0].split(".")[:2]))))
    warnings = tuple(
        f"--set {key} = {shown(values[key].value)} wins over {flag.origin.removeprefix('flag ')} {shown(flag.value)}"
        for key, flag in typed
        if key in dict(assigned) and values[key].value != flag.value
    )
    resolved = Resolved(schema, values, found.name if found else None, warnings)
    _check(resolved)
    return resolved


def shown(value: Any) -> str:
    """Return a value as it would be typed."""
    return "none" if value is None else value if isinstance(value, str) else toml_value(value)


Entry = tuple[str, Value]


def _of_file(schema: Schema, path: str) -> Iterator[Entry]:
    document = read_toml(path)

    def where(*key: str) -> str:
        return document.where(*key)

    for o, below, value, place in _of_tables(schema, document.data, where, partial=False):
        yield from _entries(o, below, value, f"file {place}", place)


def _of_preset(schema: Schema, preset: Preset) -> Iterator[Entry]:
    def where(*key: str) -> str:
        return preset.document.where(*preset.path, *key)

    for o, below, value, place in _of_tables(schema, preset.tables, where, preset.partial):
        yield from _entries(o, below, value, f"preset {preset.name if preset.shipped else place}", place)


def _of_tables(
    schema: Schema, tables: Mapping[str, Any], where: Callable[..., str], partial: bool
) -> Iterator[tuple[Option, str | None, Any, str]]:
    """Yield (option, part below it, value, place) of the tables of a file."""
    for section, table in tables.items():
        if section not in SECTIONS or not isinstance(table, Mapping):
            home = next((o.section for o in schema.options.values() if o.name == section), None)
            near = closest(section, SECTIONS)
            hint = f"put it under `[{home}]`" if home else f"did you mean `[{near[0]}]`?" if near else None
            what = "unknown table" if isinstance(table, Mapping) else "key outside a table"
            raise ConfigError(f"{where(section)}: {what} '{printable(section)}', tables are {', '.join(SECTIONS)}",
                              hint=hint, param=section, suggestions=near)  # fmt: skip
        for name, value in table.items():
            key, place = f"{section}.{name}", where(section, name)
            if key in schema.options:
                yield schema.options[key], None, value, place
            elif not partial:
                raise schema.unknown(key, place)


def _of_flags(schema: Schema, flags: Mapping[str, Any]) -> Iterator[Entry]:
    for key, typed in flags.items():
        o = schema.options[key]
        if typed is None:
            continue
        if o.kind == "table":
            for text in typed:
                name, value = _assignment(text, o.flag)
                yield f"{key}.{name}", Value(entry(name, literal(value), o.flag), f"flag {o.flag}")
        else:
            yield key, Value(parse(o, typed) if isinstance(typed, str) else coerce(o, typed), f"flag {o.flag}")


def _of_sets(schema: Schema, sets: Sequence[str]) -> Iterator[Entry]:
    seen: set[str] = set()
    for text in sets:
        name, typed = _assignment(text, "--set")
        o, below = schema.find(name, "--set")
        if below is not None:
            entries = [(f"{o.key}.{below}", Value(entry(below, literal(typed), o.flag), "--set"))]
        else:
            entries = list(_entries(o, None, _set_value(o, typed), "--set", ""))
        for key, value in entries:
            if key in seen:
                raise ConfigError(f"--set gives {printable(key)} twice", param="--set", value=text)
            seen.add(key)
            yield key, value


def _set_value(o: Option, typed: str) -> Any:
    try:
        return parse(o, typed)
    except ConfigError as error:
        error.param = "--set"
        raise


def _entries(o: Option, below: str | None, value: Any, origin: str, place: str) -> Iterator[Entry]:
    """Yield a value, or the entries of a table, checked; errors say in which file and line."""
    if value == "none" and o.optional:
        value = None
    try:
        checked = coerce(o, value)
    except ConfigError as error:
        if not place:
            raise
        raise ConfigError(f"{place}: {error.message}", hint=error.hint, param=o.key, value=error.value,
                          suggestions=error.suggestions) from None  # fmt: skip
    if o.kind == "table":
        yield from ((f"{o.key}.{name}", Value(entry(name, v, o.flag, place), origin)) for name, v in checked.items())
    else:
        yield o.key, Value(checked, origin)


def _assignment(text: str, flag: str) -> tuple[str, str]:
    """Split ``KEY=VALUE``."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"{flag} is '{printable(text)}', must be KEY=VALUE", param=flag, value=text)
    return name.strip(), value


def _subject(kind: str, given: Mapping[str, Value]) -> str | None:
    """Return what the preset ``auto`` looks for: the environment's id, or the dataset's name without ending."""
    value = given.get("run.env" if kind == "online" else "run.dataset")
    if value is None or value.value is None:
        return None
    return str(value.value) if kind == "online" else PurePath(value.value).stem


def _check(resolved: Resolved) -> None:
    """Check what no single option can: the rules of each config, and what spans two of them."""
    for cls in resolved.schema.classes:
        resolved.build(cls)
    _check_target(resolved)
    if resolved["run.max_time"] is not None:
        seconds(resolved["run.max_time"])
    if resolved["hardware.max_memory"] is not None:
        size_bytes(resolved["hardware.max_memory"])
    for name, unset in (("patience", 0), ("stop_at", None)):
        if resolved[f"run.{name}"] != unset and not resolved["eval.eval_freq"]:
            raise ConfigError(f"{name} is {resolved[f'run.{name}']}, and eval_freq 0 evaluates only at the end",
                              hint="give `--eval-freq`", param="--eval-freq")  # fmt: skip
    starts, steps = resolved.get("algo.learning_starts"), resolved["run.steps"]
    if starts is not None and starts >= steps:
        raise ConfigError(f"learning_starts is {starts}, must be below steps {steps}", param="--learning-starts",
                          hint=f"e.g. `--learning-starts {steps // 10}`, or more `--steps`", value=starts)  # fmt: skip
    low, high = resolved.get("run.action_low"), resolved.get("run.action_high")
    if (low is None) != (high is None):
        raise ConfigError(f"action_low is {shown(low)} and action_high is {shown(high)}, must be given together",
                          param="--action-low")  # fmt: skip
    if low is not None and low >= high:
        raise ConfigError(f"action_low is {low}, must be below action_high {high}", param="--action-low", value=low)


def _check_target(resolved: Resolved) -> None:
    """Check that there is something to train on, and that no file names code to run."""
    online, name = resolved.schema.kind == "online", resolved.schema.algorithm or "ALGO"
    needed = "run.env" if online else "run.dataset"
    if resolved[needed] is None:
        example = f"rlox train {name} --env Pendulum-v1" if online else f"rlox offline {name} --dataset data.h5"
        flag = "--env" if online else "--dataset"
        raise ConfigError(f"{flag} is missing", hint=f"for example `{example}`", param=flag)
    env = resolved.values["run.env"]
    if env.value is not None and ":" in env.value and not env.origin.startswith(("flag", "--set")):
        raise ConfigError(f"env is '{printable(env.value)}' in {env.origin}, and code is only run when it is typed",
                          hint=f"add `--env {printable(env.value)}`", param="run.env", value=env.value)  # fmt: skip
