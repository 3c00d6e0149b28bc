"""Write docs/reference from the docstrings and options: ``python docs/build_reference.py`` (``--check``: compare)."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import rlox.callbacks
import rlox.logging
import rlox.protocols
from rlox.config import options_of
from rlox.offline.base import OfflineAlgorithm
from rlox.registry import ALGORITHMS

HERE = Path(__file__).parent / "reference"


def signature(thing: Any) -> str:
    """Return the call signature, types left out."""
    parts = []
    star = False
    for p in inspect.signature(thing).parameters.values():
        if p.name == "self":
            continue
        if p.kind is p.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        prefix = {p.VAR_KEYWORD: "**", p.VAR_POSITIONAL: "*"}.get(p.kind, "")
        star = star or prefix == "*"
        default = "" if p.default is p.empty else f"={p.default!r}"
        parts.append(f"{prefix}{p.name}{default}")
    return f"({', '.join(parts)})"


def entry(name: str, cls: type) -> str:
    """Return one class as Markdown: signature, docstring, public methods of its own."""
    is_protocol = bool(getattr(cls, "_is_protocol", False))
    call = "" if is_protocol else signature(cls.__init__) if "__init__" in vars(cls) else "()"
    lines = [f"## {name}", "", f"```\n{name}{call}\n```", "", text(cls)]
    for method, function in vars(cls).items():
        if inspect.isfunction(function) and (not method.startswith("_") or method == "__len__") and function.__doc__:
            lines += [f"### {name}.{method}{signature(function)}", "", text(function)]
    return "\n".join(lines)


def text(thing: Any) -> str:
    return f"```text\n{inspect.getdoc(thing)}\n```\n"


def module_page(title: str, module: Any, extra: tuple[tuple[str, type], ...] = ()) -> str:
    classes = [(n, getattr(module, n)) for n in module.__all__]
    chosen = [(n, c) for n, c in classes if inspect.isclass(c)] + list(extra)
    return f"# {title}\n\n{inspect.getdoc(module)}\n\n" + "\n".join(entry(n, c) for n, c in chosen)


def options_page() -> str:
    lines = ["# Options of the algorithms", "", "Flags of `rlox train` and `rlox offline`, keys of `--set` and of "
             "TOML files, and keyword arguments of the classes are the same names."]  # fmt: skip
    for spec in ALGORITHMS.values():
        lines += ["", f"## {spec.name}", "", f"{spec.summary}.", "", "| key | default | allowed | meaning |",
                  "|---|---|---|---|"]  # fmt: skip
        lines += [f"| `{o.key}` | `{o.default}` | {o.interval.replace('|', '/')} | {o.help} |"
                  for o in options_of(spec.load_config())]  # fmt: skip
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Return the text of each page by file name."""
    return {
        "callbacks.md": module_page("Callbacks", rlox.callbacks),
        "loggers.md": module_page("Loggers", rlox.logging),
        "protocols.md": module_page("Protocols", rlox.protocols, (("OfflineAlgorithm", OfflineAlgorithm),)),
        "options.md": options_page(),
    }


def main() -> int:
    check = "--check" in sys.argv[1:]
    HERE.mkdir(exist_ok=True)
    stale = [name for name, page in pages().items()
             if not (HERE / name).is_file() or (HERE / name).read_text() != page]  # fmt: skip
    if not check:
        for name, page in pages().items():
            (HERE / name).write_text(page)
    elif stale:
        print("out of date: " + ", ".join(stale) + "; run `python docs/build_reference.py`")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
