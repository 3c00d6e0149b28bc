"""Flags and arguments that hand their text through: what it means is decided in one place, ``rlox.config.fields``.

Typer's own parameters build a pydantic adapter for each option and word their own range errors; these stay text until a
command has all of it, so that ``1e6``, ranges and near names read the same in a flag, a ``--set`` and a TOML file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from typer._click.exceptions import MissingParameter
from typer._coercion import resolve_type_descriptor
from typer.core import TyperArgument, TyperOption
from typer.models import OptionInfo

from ..config.fields import Option, options_of, parse

Completion = Callable[[str], Iterable[str]]


class Flag(TyperOption):
    """An option of a command whose value is the typed text, a tuple of texts when repeatable, or a bool.

    Parameters
    ----------
    *names : str
        Spellings, e.g. ``"--out", "-o"``; ``"--link/--no-link"`` for both sides of a switch.
    switch : bool
        Takes no value.
    default : object
        Shown in the help. The value of an option that was not given is None, so that its origin stays known.
    panel : str
        Heading in the help.
    completion : callable, optional
        ``completion(incomplete)`` gives candidate values.
    """

    def __init__(
        self,
        *names: str,
        help: str = "",
        default: Any = None,
        metavar: str | None = None,
        switch: bool = False,
        multiple: bool = False,
        required: bool = False,
        hidden: bool = False,
        panel: str | None = None,
        expose: bool = True,
        eager: bool = False,
        callback: Callable[..., Any] | None = None,
        completion: Completion | None = None,
    ) -> None:
        super().__init__(
            param_decls=list(names),
            type_descriptor=resolve_type_descriptor(bool if switch else str, OptionInfo()),
            help=help,
            show_default=True,
            metavar=None if switch else metavar or "TEXT",
            is_flag=switch,
            multiple=multiple,
            required=required,
            hidden=hidden,
            rich_help_panel=panel,
            expose_value=expose,
            is_eager=eager,
            callback=callback,
            autocompletion=_completer(completion),
        )
        self.shown_default = _shown(default, names, switch)

    def _extract_default_help_str(self, *, ctx: Any) -> str | None:
        return self.shown_default

    def _get_default_string(self, *, default_value: Any, **_: Any) -> str:
        return str(default_value)

    def display_type_rich(self, ctx: Any) -> str | None:
        """Return what stands after the flag in the help; nothing after a switch."""
        return None if self.is_flag else self.metavar

    def process_value(self, ctx: Any, value: Any) -> Any:
        """Return the text as it was typed."""
        if self.multiple:
            value = tuple(value or ())
        if self.required and self.value_is_missing(value):
            raise MissingParameter(ctx=ctx, param=self)
        return value if self.callback is None else self.callback(ctx, self, value)


class Argument(TyperArgument):
    """A positional argument: text, or a tuple of texts with ``many``."""

    def __init__(
        self,
        name: str,
        *,
        help: str = "",
        metavar: str | None = None,
        many: bool = False,
        required: bool = True,
        completion: Completion | None = None,
    ) -> None:
        super().__init__(
            param_decls=[name],
            type_descriptor=resolve_type_descriptor(str, OptionInfo()),
            help=help,
            metavar=metavar or name.upper(),
            nargs=-1 if many else 1,
            required=required,
            autocompletion=_completer(completion),
        )

    def process_value(self, ctx: Any, value: Any) -> Any:
        """Return the text as it was typed."""
        if self.nargs == -1:
            value = tuple(value or ())
        if self.required and self.value_is_missing(value):
            raise MissingParameter(ctx=ctx, param=self)
        return value

    def _usage_display_name(self) -> str:
        name = f"{self.metavar}{'...' if self.nargs != 1 else ''}"
        return name if self.required else f"[{name}]"

    def display_type_rich(self, ctx: Any) -> str | None:
        """Return nothing: the name says what is meant."""
        return None


def flag(o: Option, completion: Completion | None = None) -> Flag:
    """Return the flag of a config option: its spellings, help, range, default and panel."""
    switch = o.kind == "bool"
    # An alias like "/--stochastic" is the other side of a switch; "/" alone: it has none.
    other = next((a[1:] for a in o.aliases if a.startswith("/")), f"--no-{o.flag[2:]}")
    aliases = [a for a in o.aliases if not a.startswith("/")]
    names = [o.name, f"{o.flag}/{other}" if switch and other else o.flag, *aliases]
    interval = "" if o.kind == "choice" else o.interval
    return Flag(
        *names,
        help=f"{o.help} {interval}".rstrip(),
        default=None if o.kind == "table" else o.default,
        metavar=o.metavar or _METAVARS.get(o.kind) or ("|".join(o.choices) if o.choices else "TEXT"),
        switch=switch,
        multiple=o.kind == "table",
        hidden=o.hidden,
        panel=o.panel or o.section.capitalize(),
        completion=completion or ((lambda text: o.choices) if o.choices else None),
    )


def typed(cls: type, given: dict[str, Any]) -> Any:
    """Return a config of class ``cls`` from typed texts; what is None was not given and keeps its default."""
    values: dict[str, Any] = {}
    for o in options_of(cls):
        text = given.get(o.name)
        if text is None or text == ():
            continue
        values[o.name] = table(o.flag, text) if o.kind == "table" else text if o.kind == "bool" else parse(o, text)
    return cls(**values)


def table(name: str, items: Iterable[str]) -> dict[str, Any]:
    """Return ``KEY=VALUE`` texts as a dict of TOML values; ConfigError without ``=`` or for a key given twice."""
    from ..config.fields import entry, literal
    from ..errors import ConfigError, printable

    found: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"{name} is {printable(item)!r}, must be KEY=VALUE", param=name, value=item)
        if key in found:
            raise ConfigError(f"{name} names {printable(key)!r} twice", param=name, value=item)
        found[key] = entry(key, literal(text), name)
    return found


_METAVARS = {
    "int": "N", "float": "X", "str": "TEXT", "float_or_auto": "X|auto", "net_arch": "WIDTHS", "table": "K=V"
}  # fmt: skip


def _shown(default: Any, names: tuple[str, ...], switch: bool) -> str | None:
    """The default in words: of a switch with two sides the name of the side, else nothing for what is off or unset."""
    if default is None or (default is False and not any("/" in n for n in names)):
        return None
    if not switch:
        return str(default)
    both = next(n for n in names if "/" in n)
    return both.split("/")[0 if default else 1].removeprefix("--")


def _completer(completion: Completion | None) -> Callable[..., list[str]] | None:
    if completion is None:
        return None
    return lambda ctx, args, incomplete: [c for c in completion(incomplete) if c.startswith(incomplete)]
