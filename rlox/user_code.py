"""Code of the user's own, named on the command line and nowhere else: modules, and files by their path."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from .errors import NotFoundError, RloxError, printable
from .files import shortest


class UserCodeError(RloxError):
    """What the user named raised: on import, or later in one of its methods."""

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


@contextlib.contextmanager
def blaming(cls: type) -> Iterator[None]:
    """Raise UserCodeError for what the code of a class of the user's own raises inside, naming method, file and line.

    Errors of rlox stay as they are, and so does what rlox's own code raises.
    """
    try:
        yield
    except (RloxError, MemoryError):
        raise
    except Exception as error:
        blamed = _blame(cls, error)
        if blamed is None:
            raise
        raise blamed from error


def _blame(cls: type, error: Exception) -> UserCodeError | None:
    """Return the error that names the method which was called, and the deepest line of the user's that it came to."""
    own = [base.__module__ for base in cls.__mro__ if base.__module__.partition(".")[0] not in ("rlox", "builtins")]
    files = {getattr(sys.modules.get(name), "__file__", None) for name in own}
    frames = [(f, line) for f, line in traceback.walk_tb(error.__traceback__) if f.f_code.co_filename in files]
    if not frames:
        return None
    (first, _), (last, line) = frames[0], frames[-1]
    where = f"{shortest(last.f_code.co_filename)}:{line}"
    return UserCodeError(f"{first.f_code.co_qualname} raised {type(error).__name__}: {printable(error)} ({where})",
                         value=where)  # fmt: skip


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
