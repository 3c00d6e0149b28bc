"""The errors of rlox, one tree.

    RloxError                        1  a bug, or anything not named below
    ├── ConfigError                  2  an option or value that is not allowed (also a ValueError)
    ├── EnvError                     7  an environment raised, hung or returned nonsense
    │   ├── EnvNotFoundError         3
    │   └── SpaceError               5  the algorithm cannot act in this space
    ├── DatasetError                 4  a dataset is damaged, unsafe or inconsistent
    │   ├── DatasetNotFoundError     3
    │   └── DatasetMismatchError     5  a sound dataset that does not fit the algorithm or environment
    ├── CheckpointError              4  a checkpoint is damaged or unsafe
    │   ├── CheckpointNotFoundError  3
    │   └── CheckpointMismatchError  5  newer format, other spaces, parts of the user's own
    ├── RunError                     4  a run directory is damaged
    ├── NotFoundError                3  a file, module or run that is not there
    ├── WriteError                   6  cannot write: permission, full disk, exists, locked
    ├── DivergedError                7  a loss, gradient or parameter became NaN or infinite
    ├── MissingDependencyError       8  an optional package, device or extension is absent
    └── CheckError                   9  a check said no

The number is the exit code of the command line. A message says where, what the value is and what is allowed,
without a final period; ``hint`` says what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

# Line and paragraph separators, and everything that changes the direction of writing.
_UNPRINTABLE = {0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)}


class RloxError(Exception):
    """Base of every error that rlox raises on purpose.

    Parameters
    ----------
    message : str
        Where, what is wrong with the value, what is allowed; no final period.
    hint : str, optional
        What to do next; the exact command in backticks where there is one. A traceback shows it as a note.
    param : str, optional
        The option or field concerned, e.g. ``--env``.
    value : object, optional
        The offending value.
    suggestions : iterable of str
        Near valid values, best first.
    """

    exit_code: int = 1
    kind: str = "internal"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        param: str | None = None,
        value: object = None,
        suggestions: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.value = value
        self.suggestions = tuple(suggestions)
        if hint:
            self.add_note(f"hint: {hint}")


class ConfigError(RloxError, ValueError):
    """An option, key or value that is not allowed."""

    exit_code = 2
    kind = "usage"


class NotFoundError(RloxError):
    """A file, module or run that is not there."""

    exit_code = 3
    kind = "not_found"


class EnvError(RloxError):
    """An environment raised, hung, died or returned something that breaks its contract."""

    exit_code = 7
    kind = "env_failed"


class EnvNotFoundError(EnvError):
    """No environment of that name."""

    exit_code = 3
    kind = "not_found"


class SpaceError(EnvError):
    """The algorithm does not support an observation or action space."""

    exit_code = 5
    kind = "incompatible"


class DatasetError(RloxError):
    """A dataset is damaged, unsafe or inconsistent."""

    exit_code = 4
    kind = "bad_data"


class DatasetNotFoundError(DatasetError):
    """No dataset at that path."""

    exit_code = 3
    kind = "not_found"


class DatasetMismatchError(DatasetError):
    """A sound dataset that does not fit the algorithm, the batch size or the environment."""

    exit_code = 5
    kind = "incompatible"


class CheckpointError(RloxError):
    """A checkpoint is damaged, unsafe or not a checkpoint."""

    exit_code = 4
    kind = "bad_data"


class CheckpointNotFoundError(CheckpointError):
    """No checkpoint at that path."""

    exit_code = 3
    kind = "not_found"


class CheckpointMismatchError(CheckpointError):
    """A sound checkpoint that does not fit: newer format, other spaces, parts that must be given again."""

    exit_code = 5
    kind = "incompatible"


class RunError(RloxError):
    """A run directory is damaged."""

    exit_code = 4
    kind = "bad_data"


class WriteError(RloxError):
    """Something could not be written."""

    exit_code = 6
    kind = "cannot_write"


class DivergedError(RloxError):
    """A loss, gradient norm or parameter became NaN or infinite."""

    exit_code = 7
    kind = "diverged"


class MissingDependencyError(RloxError):
    """An optional package, a device or the compiled extension is absent."""

    exit_code = 8
    kind = "missing_dependency"


class CheckError(RloxError):
    """A check that the user asked for said no."""

    exit_code = 9
    kind = "check_failed"


def closest(name: str, valid: Iterable[str], n: int = 3) -> list[str]:
    """Return up to ``n`` of the valid names that look like ``name``, best first."""
    by_fold = {v.casefold(): v for v in valid}
    return [by_fold[m] for m in get_close_matches(name.casefold(), by_fold, n=n, cutoff=0.6)]


def printable(text: object, limit: int = 200) -> str:
    """Return foreign text safe to print on one line.

    Control characters (tab kept), DEL, C1, line separators and bidirectional controls become visible escapes, bytes are decoded with
    ``backslashreplace``, and what is longer than ``limit`` characters is cut, with its full length named.
    """
    raw = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else str(text)
    cut = raw if len(raw) <= limit else raw[:limit]
    safe = "".join(_escape(c) for c in cut)
    return safe if len(raw) <= limit else f"{safe}… ({len(raw)} characters)"


def _escape(c: str) -> str:
    code = ord(c)
    if c == "\t":
        return c
    if code < 0x20 or 0x7F <= code < 0xA0 or code in _UNPRINTABLE or 0xD800 <= code < 0xE000:
        return {"\n": "\\n", "\r": "\\r"}.get(c, f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
    return c
