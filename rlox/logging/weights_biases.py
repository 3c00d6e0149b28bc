"""Metrics for Weights & Biases."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from ..errors import MissingDependencyError, printable
from .base import LoggerCallback, as_number, prefixed
from .period import check_period


class WandbLogger(LoggerCallback):
    """Log to a Weights & Biases run, which starts in :meth:`open`.

    Parameters
    ----------
    project : str
        The W&B project.
    log_interval : int
        Steps between two calls of ``on_train_step``, ≥ 1.
    **init_kwargs
        Further arguments of ``wandb.init``; inside a run directory ``dir``, ``name`` and ``config`` have defaults.

    Notes
    -----
    A resumed training goes on with its W&B run. W&B takes nothing back: of steps that it has already it keeps the
    first values, which are those that are made again.

    Raises
    ------
    MissingDependencyError
        At construction when the package ``wandb`` is missing, and from :meth:`open` when no run can be started.
    """

    wants_rollouts = False

    def __init__(self, project: str = "rlox", log_interval: int = 1000, **init_kwargs: Any) -> None:
        self.project = project
        self.log_interval = check_period(log_interval, "log_interval", minimum=1)
        self.init_kwargs = init_kwargs
        self._wandb = _import_wandb()
        self._run: Any = None
        self._id: str | None = None

    def open(self, run: Any = None) -> None:
        """Start the W&B run, or go on with it after a close."""
        if self._run is not None:
            return
        arguments = {**_defaults(run), "project": self.project, **self.init_kwargs}
        if self._id is not None:
            arguments.update(id=self._id, resume="allow")
        try:
            self._run = self._wandb.init(**arguments)
        except Exception as error:
            raise MissingDependencyError(
                f"Weights & Biases cannot start a run: {printable(error)}",
                hint="log in with `wandb login`, or set WANDB_MODE=offline",
            ) from error
        found = getattr(self._run, "id", None)
        self._id = None if found is None else str(found)

    def on_train_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._log(step, metrics, None)

    def on_rollout_end(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._log(step, metrics, None)

    def on_eval(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._log(step, metrics, "eval")

    def close(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish()

    def state_dict(self) -> dict[str, Any]:
        """Return the id of the W&B run, {} before there is one."""
        return {} if self._id is None else {"id": self._id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the run of that id."""
        self.close()
        self._id = str(state["id"]) if state else None

    def _log(self, step: int, metrics: Mapping[str, Any], category: str | None) -> None:
        if self._run is None:
            self.open()
        self._run.log({prefixed(name, category): _value(value) for name, value in metrics.items()}, step=int(step))


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise _missing() from error
    if not hasattr(wandb, "init"):  # an offline run's folder ./wandb imports as an empty namespace package
        raise _missing()
    return wandb


def _missing() -> MissingDependencyError:
    return MissingDependencyError(
        "WandbLogger needs the package wandb, which is not installed", hint="`pip install 'rlox[wandb]'`"
    )


def _defaults(run: Any) -> dict[str, Any]:
    """Return what a run directory says about itself."""
    if run is None:
        return {}
    defaults: dict[str, Any] = {"dir": str(run.path), "name": run.path.name}
    config = run.path / "config.toml"
    if config.is_file():
        defaults["config"] = tomllib.loads(config.read_text(encoding="utf-8"))
    return defaults


def _value(value: object) -> object:
    number = as_number(value)
    return printable(value) if number is None else number
