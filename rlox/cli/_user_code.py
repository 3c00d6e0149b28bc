"""Code of the user's own, named on the command line and nowhere else: ``--import PKG`` and ``file.py:Class``."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import NotFoundError, RloxError, closest, printable


class UserCodeError(RloxError):
    """Importing what the user named raised."""

    exit_code = 7
    kind = "user_code_failed"


def import_package(name: str) -> ModuleType:
    """Import a module that registers environments; it may lie in the working directory.

    Raises
    ------
    NotFoundError
        When there is no module of that name.
    UserCodeError
        When importing it raises.
    """
    with _beside_user():
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                raise NotFoundError(f"no module {printable(name)!r}", hint="check the name, or install its package",
                                    param="--import", value=name) from error  # fmt: skip
            raise _failed(name, error) from error
        except (TypeError, ValueError) as error:
            if not name or name.startswith("."):
                raise NotFoundError(f"no module {printable(name)!r}", param="--import", value=name) from error
            raise _failed(name, error) from error
        except Exception as error:
            raise _failed(name, error) from error


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
    module = _import_file(where) if where.endswith(".py") else import_package(where)
    found = getattr(module, name, None)
    if not isinstance(found, type):
        classes = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        near = closest(name, classes)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(classes)}" if classes else None
        raise NotFoundError(f"{printable(where)} has no class {printable(name)!r}", hint=hint, value=text,
                            suggestions=near)  # fmt: skip
    return found


def _import_file(path: str) -> ModuleType:
    file = Path(path)
    try:
        is_file = file.is_file()
    except (OSError, ValueError):  # a name too long, or with NUL in it
        is_file = False
    if not is_file:
        raise NotFoundError(f"no file {printable(path)!r}", value=path)
    name = f"rlox_user_file_{file.resolve()}".replace(".", "_").replace(os.sep, "_")
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    with _beside_user():
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise _failed(path, error) from error
    return module


@contextlib.contextmanager
def _beside_user() -> Iterator[None]:
    """Find modules in the working directory too, as ``python -m`` does."""
    try:
        folder = os.getcwd()
    except OSError:  # it was deleted
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _failed(what: str, error: Exception) -> UserCodeError:
    return UserCodeError(f"importing {printable(what)} failed: {type(error).__name__}: {printable(error)}",
                         hint="`--debug` shows where", value=what)  # fmt: skip
