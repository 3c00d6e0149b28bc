"""From an exception to what the user sees: exit code, one line, a hint, the JSON object. The one table of exit codes."""

from __future__ import annotations

import errno
import os
import tempfile
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer import TyperException
from typer._click.exceptions import BadParameter, MissingParameter, NoSuchOption, UsageError

from ..errors import RloxError, closest, printable

EXIT_CODES = {
    0: "done", 1: "internal error", 2: "usage", 3: "not found", 4: "bad or unsafe data", 5: "incompatible",
    6: "cannot write", 7: "run failed", 8: "missing dependency or hardware", 9: "a check said no",
    129: "SIGHUP", 130: "SIGINT", 141: "SIGPIPE", 143: "SIGTERM",
}  # fmt: skip
BROKEN_PIPE = 141
# What the system says when there is no room, whoever was writing.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE}
_PACKAGES = {"torch", "gymnasium", "h5py", "numpy", "rich", "tensorboard"}


@dataclass(frozen=True)
class Failure:
    """An error as it is shown: one line, a hint, and the fields of the JSON object."""

    exit_code: int
    kind: str
    message: str
    hint: str | None = None
    param: str | None = None
    value: object = None
    suggestions: tuple[str, ...] = ()
    bug: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the ``error`` object of the JSON document; what is not known is left out."""
        fields = {"kind": self.kind, "message": self.message, "hint": self.hint, "param": self.param,
                  "value": self.value, "suggestions": list(self.suggestions)}  # fmt: skip
        return {k: v for k, v in fields.items() if v is not None and v != []}


def exit_codes(codes: Iterable[int]) -> str:
    """Return the line at the end of a command's help."""
    return "Exit codes: " + ", ".join(f"{c} {EXIT_CODES[c]}" for c in codes)


def failure_of(error: BaseException) -> Failure:
    """Return how an exception is shown. What is not an error of rlox or of the system is a bug."""
    if isinstance(error, RloxError):
        return Failure(error.exit_code, error.kind, error.message, error.hint, error.param, error.value,
                       error.suggestions)  # fmt: skip
    if isinstance(error, TyperException):
        return _usage(error)
    if isinstance(error, MemoryError):
        return Failure(2, "usage", "not enough memory", "use smaller buffers, batches or datasets")
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = f" {printable(error.filename)}" if error.filename else ""
        return Failure(6, "cannot_write", f"cannot write{where}: {os.strerror(error.errno)}")
    if isinstance(error, ModuleNotFoundError) and error.name in _PACKAGES:
        return Failure(8, "missing_dependency", f"package {error.name!r} is not installed",
                       f"`pip install {error.name}`", value=error.name)  # fmt: skip
    return Failure(1, "internal", f"internal error: {type(error).__name__}: {error}", bug=True)


def save_traceback(error: BaseException, run: Path | None) -> Path | None:
    """Write the traceback to ``<run>/crash.log``, without a run to a temporary file; None when even that fails."""
    if run is not None and run.is_dir():
        from ..runs.directory import write_crash_log

        return write_crash_log(run, error)
    text = "".join(traceback.format_exception(error))
    try:
        fd, name = tempfile.mkstemp(prefix="rlox-crash-", suffix=".log")
        with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        return Path(name)
    except OSError:
        return None


def _usage(error: TyperException) -> Failure:
    """A usage error of Typer in our words: no final period, the near name as hint."""
    ctx = getattr(error, "ctx", None)
    help_hint = f"see `{ctx.command_path} --help`" if ctx is not None else None
    param = getattr(error, "param", None)
    name = _param_name(param)
    if isinstance(error, NoSuchOption):
        near = closest(error.option_name, error.possibilities or ())
        group: Any = getattr(ctx, "command", None)
        if not near and getattr(group, "noun", None) == "algorithm":
            names = group.list_commands(ctx)
            return Failure(2, "usage", f"no algorithm is named before {printable(error.option_name)!r}",
                           f"name an algorithm: {', '.join(names)}", error.option_name, suggestions=tuple(names))  # fmt: skip
        hint = f"did you mean {near[0]!r}?" if near else help_hint
        return Failure(2, "usage", f"unknown option {printable(error.option_name)!r}", hint, error.option_name,
                       suggestions=tuple(near))  # fmt: skip
    if isinstance(error, MissingParameter):
        return Failure(2, "usage", f"{name or 'an argument'} is missing", help_hint, name)
    if isinstance(error, BadParameter):
        return Failure(2, "usage", f"{name}: {error.message.rstrip('.')}" if name else error.message.rstrip("."),
                       help_hint, name)  # fmt: skip
    message = error.format_message().rstrip(".").replace("\n", " ")
    message = message[:1].lower() + message[1:]
    return Failure(error.exit_code, "usage" if isinstance(error, UsageError) else "internal", message, help_hint)


def _param_name(param: Any) -> str | None:
    if param is None:
        return None
    if param.param_type_name == "option":
        return max(param.opts, key=len)  # type: ignore[no-any-return]
    return str(param.metavar or param.name)
