"""The error of an environment that failed while running."""

from __future__ import annotations

from ..errors import EnvError


class EnvFailure(EnvError):
    """An environment raised, hung, died or broke its contract while running.

    Attributes
    ----------
    env : int
        Index of the environment.
    details : str
        The environment's own traceback, or an empty text.
    """

    def __init__(self, message: str, *, env: int, details: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.env = env
        self.details = details


class WorkerTraceback(Exception):
    """Stands for the exception inside a worker process; its text is the traceback there."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"
