"""Writing to the terminal in a way that never stops a run."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


def make_console() -> Console:
    """Return a Rich console on stderr that falls silent when stderr is closed.

    Rich itself ends the process on a broken pipe, and closes stdout with it.
    """
    from rich.console import Console

    class Calm(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True

    return Calm(stderr=True, highlight=False)


def can_animate(console: Console) -> bool:
    """Return whether the console is a terminal whose cursor can be moved (``TERM`` unset is taken as dumb)."""
    dumb = console.is_dumb_terminal or (os.name == "posix" and not os.environ.get("TERM"))
    return console.is_interactive and not dumb and not console.quiet


def is_ascii(console: Console) -> bool:
    """Return whether the console can show nothing but ASCII for certain."""
    return not console.encoding.lower().startswith("utf")


def encodable(text: str, encoding: str) -> str:
    """Return text with escapes for the characters that an encoding does not have."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def write_line(text: str, file: IO[str] | None) -> bool:
    """Write one line as it is; return False when the stream is closed or broken.

    Characters that the stream cannot encode become escapes.
    """
    if file is None:
        return False
    try:
        file.write(encodable(text, getattr(file, "encoding", None) or "utf-8") + "\n")
        file.flush()
    except (OSError, ValueError):  # ValueError: I/O operation on closed file
        return False
    return True


def say(text: str) -> None:
    """Tell the user one line on stderr, above the live panel where there is one."""
    write_line(text, sys.stderr)


class Display(Protocol):
    """Something on the terminal that has to be stopped."""

    def stop(self) -> None:
        """Give the cursor back."""


def stop_quietly(display: Display) -> None:
    """Stop a display; on a terminal that is gone there is nothing to give back."""
    with contextlib.suppress(OSError, ValueError):
        display.stop()
