"""Classes of the user's own, named on the command line as ``file.py:Class``."""

from __future__ import annotations

from typing import Any

from ..errors import NotFoundError, closest, printable
from ..user_code import import_file, import_module
from ._divert import diverted


def load_class(text: str) -> type[Any]:
    """Return the class that ``file.py:Name`` or ``pkg.module:Name`` stands for.

    Raises
    ------
    NotFoundError
        When the file, the module or the name in it is not there.
    UserCodeError
        When importing it raises.
    """
    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise NotFoundError(f"no class {printable(text)!r}", hint="name it as `file.py:Class` or `pkg.module:Class`",
                            value=text)  # fmt: skip
    with diverted():
        module = import_file(where) if where.endswith(".py") else import_module(where)
    found = getattr(module, name, None)
    if not isinstance(found, type):
        classes = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        near = closest(name, classes)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(classes)}" if classes else None
        raise NotFoundError(f"{printable(where)} has no class {printable(name)!r}", hint=hint, value=text,
                            suggestions=near)  # fmt: skip
    return found
