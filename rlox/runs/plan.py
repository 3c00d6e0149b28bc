"""What can be known about a run before torch is imported and before anything is written: every check is made here."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ..config.resolve import Resolved
from ..config.units import size_bytes
from ..errors import ConfigError, DatasetError, MissingDependencyError, SpaceError, printable
from ..files import available_memory, human_bytes
from ..registry import AlgorithmSpec, Kind, check_actions

if TYPE_CHECKING:
    from ..data import OfflineDatasetBuffer
    from ..envs import EnvSource



@dataclass(frozen=True)
class Target:
    """The algorithm that a run trains: a registered one, or a class of the user's.

    ``name`` is what is recorded: the registered name or the typed ``file.py:Name``; ``actions`` is None for a class of
    the user's.
    """

    name: str
    kind: Kind
    config: type | None
    load: Callable[[], type[Any]]
    actions: tuple[str, ...] | None = None

    @classmethod
    def of(cls, spec: AlgorithmSpec) -> Target:
        """Return the target of a registry line."""
        return cls(spec.name, spec.kind, spec.load_config(), spec.load_class, spec.actions)


@dataclass(frozen=True)
class Plan:
    """A checked run.

    Attributes
    ----------
    source, eval_source : EnvSource or None
        Where training and evaluation environments come from.
    dataset : OfflineDatasetBuffer or None
        Opened and checked.
    subject : str
        Environment id or name of the dataset, for the run's folder.
    threads : int
    memory : int
        Bytes that the replay buffer or the dataset takes.
    """

    target: Target
    resolved: Resolved
    source: EnvSource | None
    eval_source: EnvSource | None
    dataset: OfflineDatasetBuffer | None
    subject: str
    device: str
    threads: int
    memory: int
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, str]:
        """Return what the first line of a run says besides its path."""
        return {
            "steps": str(self.resolved["run.steps"]),
            "device": self.device,
            "threads": str(self.threads),
            "preset": self.resolved.preset or "none",
            "memory": human_bytes(self.memory),
        }


def make_plan(target: Target, resolved: Resolved) -> Plan:
    """Check everything that can be known now.

    Raises
    ------
    ConfigError
        A device, thread count or memory limit that is not allowed, or more memory needed than there is.
    EnvNotFoundError, EnvError, SpaceError
        The environment is missing, cannot be made, or has spaces that the algorithm cannot act in.
    DatasetError
        The dataset is missing, damaged, unsafe, or does not fit the environment.
    MissingDependencyError
        The device, or the package of a logger or of the video recorder, is not there.
    """
    from ..callbacks.video import check_recording
    from ..logging import WandbLogger

    device = check_device(resolved["hardware.device"])
    threads = choose_threads(resolved)
    if resolved["log.wandb"]:
        WandbLogger()  # says what is missing
    if target.kind == "online":
        source = _source(resolved["run.env"], resolved["run.env_kwarg"])
        check_spaces(target, source)
        if resolved["log.video"]:
            check_recording(source)
        return Plan(target, resolved, source, _eval_source(resolved, source), None, source.text or "env", device,
                    threads, _buffer_memory(resolved, source))  # fmt: skip
    dataset = _open(resolved)
    offline_source, notes = _offline_source(resolved, dataset)
    if offline_source is not None:
        check_spaces(target, offline_source)
        if resolved["log.video"]:
            check_recording(offline_source)
    else:
        _check_without_env(resolved)
    if resolved["run.action_low"] is not None and (offline_source is not None or "action_space" in dataset.meta):
        owner = "the environment" if offline_source is not None else "the file"
        warnings.warn(f"--action-low and --action-high are not used: {owner} has bounds", stacklevel=2)
    evaluated = None if offline_source is None else _eval_source(resolved, offline_source)
    return Plan(target, resolved, offline_source, evaluated, dataset, PurePath(resolved["run.dataset"]).stem, device,
                threads, int(dataset.nbytes), notes)  # fmt: skip


def check_device(device: str) -> str:
    """Return the device in words; ``auto`` is the CPU, as in :func:`rlox.learner.resolve_device`."""
    if device in ("auto", "cpu"):
        return "cpu"
    if not device.startswith("cuda"):
        raise ConfigError(f"device is '{printable(device)}', must be auto, cpu, cuda or cuda:N", param="--device",
                          value=device)  # fmt: skip
    from ..learner import resolve_device

    try:
        return str(resolve_device(device))
    except MissingDependencyError as error:
        error.hint = error.hint or "`--device auto` takes what is there"
        raise


def choose_threads(resolved: Resolved) -> int:
    """Return the threads of torch that were asked for, and warn of a number or a variable that cannot be meant."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked: int = resolved["hardware.threads"]
    if asked > cores:
        warnings.warn(f"--threads {asked} is more than the {cores} cores there are", stacklevel=2)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    if limit and not (limit.isascii() and limit.isdigit() and int(limit) > 0):
        warnings.warn(f"OMP_NUM_THREADS is '{printable(limit)}', which is no number of threads", stacklevel=2)
    return asked


def check_spaces(target: Target, source: EnvSource) -> None:
    """Make the environment once, and refuse spaces that the algorithm cannot act in."""
    from ..envs import ActionSpace, ObsSpace

    observation, action = source.spaces()
    check_actions(target.name, action, source)
    ObsSpace(observation)
    ActionSpace(action)


def _check_without_env(resolved: Resolved) -> None:
    """Refuse what only an evaluation could do."""
    for key in ("run.patience", "run.stop_at", "run.env_kwarg", "eval.eval_env_kwarg", "log.video"):
        o = resolved.schema.options[key]
        if resolved[key] != o.default:
            raise ConfigError(f"{o.flag} needs an environment", hint="give `--env`", param=o.flag, value=resolved[key])


def check_memory(needed: int, resolved: Resolved, what: str, hint: str) -> int:
    """Return ``needed``; ConfigError when it is more than is free or than ``--max-memory``."""
    free = available_memory()
    limit = resolved["hardware.max_memory"]
    if limit is not None and needed > size_bytes(limit):
        raise ConfigError(f"{what} needs {human_bytes(needed)}, --max-memory is {limit}", hint=hint, value=limit,
                          param="--max-memory")  # fmt: skip
    if needed > free:
        raise ConfigError(f"{what} needs {human_bytes(needed)}, {human_bytes(free)} are free", hint=hint)
    return needed


def _source(env: str, kwargs: dict[str, Any]) -> EnvSource:
    from ..envs import EnvSource

    return EnvSource.of(env, kwargs, typed=True)


def _eval_source(resolved: Resolved, source: EnvSource) -> EnvSource:
    """Return where evaluation environments come from: as in training, with ``--eval-env-kwarg`` on top."""
    extra = resolved["eval.eval_env_kwarg"]
    if not extra:
        return source
    assert source.text is not None
    evaluated = _source(source.text, {**source.kwargs, **extra})
    from ..envs import same_space

    for what, train, test in zip(("observation", "action"), source.spaces(), evaluated.spaces(), strict=True):
        if not same_space(train, test):
            raise SpaceError(f"--eval-env-kwarg changes the {what} space from {printable(train)} to {printable(test)}",
                             param="--eval-env-kwarg")  # fmt: skip
    return evaluated


def _buffer_memory(resolved: Resolved, source: EnvSource) -> int:
    size = resolved.get("algo.buffer_size")
    if size is None:
        return 0
    from ..buffers import ReplayBuffer
    from ..envs import ActionSpace, ObsSpace

    observation, action = source.spaces()
    acts = ActionSpace(action)
    needed = ReplayBuffer.estimate_nbytes(
        size, ObsSpace(observation).dim, acts.dim, n_envs=resolved["run.n_envs"], discrete=acts.discrete
    )
    return check_memory(int(needed), resolved, f"buffer_size {size}", "lower `--buffer-size`")


def _open(resolved: Resolved) -> OfflineDatasetBuffer:
    from ..data.d4rl import open_dataset

    limit = resolved["hardware.max_memory"]
    return open_dataset(resolved["run.dataset"], storage=resolved["run.storage"], keys=resolved["run.keys"] or None,
                        max_memory=None if limit is None else size_bytes(limit))  # fmt: skip


def _offline_source(resolved: Resolved, dataset: OfflineDatasetBuffer) -> tuple[EnvSource | None, tuple[str, ...]]:
    """Return the environment that was named, else the one that the dataset names, if it is plain and registered."""
    env, kwargs = resolved["run.env"], resolved["run.env_kwarg"]
    if env is not None:
        return _source(env, kwargs), ()
    recorded = dataset.meta.get("env_id")
    if recorded is None or resolved.values["run.env"].origin != "default":
        return None, ()
    from ..envs import EnvSource

    try:
        found = EnvSource.from_record(recorded, dataset.meta.get("env_kwargs") or {}, error=DatasetError)
    except DatasetError as error:
        return None, (f"{error.message}, so there is no evaluation",)
    source = _source(str(found.id), {**found.kwargs, **kwargs}) if kwargs else found
    return source, (f"evaluating in {found.id}, which the dataset names; `--env none` turns it off",)
