"""Code of the user's own, named on the command line and nowhere else: modules, and files by their path."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from .errors import NotFoundError, RloxError, printable


class UserCodeError(RloxError):
    """Importing what the user named raised."""

    exit_code = 7
    kind = "user_code_failed"


def import_module(
    name: str,
    *,
    param: str | None = None,
    missing: type[RloxError] = NotFoundError,
    failed: type[RloxError] = UserCodeError,
) -> ModuleType:
    """Import a module, which may lie in the working directory, as with ``python -m``.

    Parameters
    ----------
    name : str
        As it was typed.
    param : str, optional
        The option that it was typed for.
    missing, failed : type
        What is raised when there is no such module, and when importing it raises.
    """
    with _importing_from(_working_folder()):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise _failure(failed, name, error) from error
            raise missing(f"no module {printable(error.name)!r}", hint="check the name, or install its package",
                          param=param, value=name) from error  # fmt: skip
        except (TypeError, ValueError) as error:
            if name and not name.startswith("."):
                raise _failure(failed, name, error) from error
            raise missing(f"no module {printable(name)!r}", param=param, value=name) from error
        except Exception as error:
            raise _failure(failed, name, error) from error


def import_file(
    path: str, *, missing: type[RloxError] = NotFoundError, failed: type[RloxError] = UserCodeError
) -> ModuleType:
    """Import a Python file, which may import its neighbours, as with ``python file.py``; once, however often asked.

    Parameters
    ----------
    path : str
        Ends in ``.py``.
    missing, failed : type
        As :func:`import_module` takes them.
    """
    file = Path(path)
    if not os.path.isfile(path):
        raise missing(f"file {printable(path)} does not exist", value=path)
    name = f"rlox_user_file_{file.resolve()}".replace(".", "_").replace(os.sep, "_")
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and the transport to workers look classes up there
    try:
        with _importing_from(str(file.resolve().parent)):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failure(failed, path, error) from error
    return module


def _working_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


@contextlib.contextmanager
def _importing_from(folder: str | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the import may have removed it
            sys.path.remove(folder)


def _failure(kind: type[RloxError], what: str, error: Exception) -> RloxError:
    return kind(f"importing {printable(what)} failed: {type(error).__name__}: {printable(error)}",
                hint="`--debug` shows where", value=what)  # fmt: skip
