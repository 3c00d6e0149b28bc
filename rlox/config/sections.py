"""The options of a run that belong to no algorithm, one dataclass per TOML table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..seeding import MAX_SEED
from .fields import option, validate


@dataclass(frozen=True, kw_only=True)
class Section:
    """Base: every field is checked when it is made."""

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Section):
    """What is trained, on what, for how long: ``rlox train``."""

    env: str | None = option(
        None, "Environment: an id, pkg.module:Env-v0, module:make or file.py:Name", section="run", metavar="ID"
    )
    env_kwarg: dict[str, Any] = option(
        {}, "Argument of the environment as KEY=VALUE; repeatable", section="run", metavar="K=V"
    )
    steps: int = option(1_000_000, "Environment transitions in total, whatever --n-envs is", section="run", ge=1,
                        aliases=("-n", "--total-timesteps", "--n-timesteps"))  # fmt: skip
    n_envs: int = option(1, "Environments stepped together", section="run", ge=1, le=4096, aliases=("--num-envs",))
    seed: int = option(0, "Seed of every random stream of the run", section="run", ge=0, le=MAX_SEED)
    max_time: str | None = option(None, "Stop after this time, e.g. 30m, 2h or 90s", section="run", metavar="TIME")
    stop_at: float | None = option(
        None, "Stop once an evaluation's mean return reaches this", section="run", metavar="RETURN"
    )
    patience: int = option(0, "Stop after this many evaluations without a better one; 0: never", section="run", ge=0)


@dataclass(frozen=True, kw_only=True)
class OfflineRunConfig(Section):
    """What is trained, on which data, for how long: ``rlox offline``."""

    dataset: str | None = option(None, "Dataset file", section="run", metavar="PATH")
    keys: dict[str, Any] = option(
        {}, "Name of an array in the file as OURS=THEIRS, e.g. obs=states; repeatable", section="run", metavar="K=V"
    )
    env: str | None = option(
        None,
        "Environment for evaluation and action bounds: an id, module:make or file.py:Name; default: the one that the "
        "dataset names, if there is one; none: no evaluation",
        section="run",
        metavar="ID",
    )
    env_kwarg: dict[str, Any] = option(
        {}, "Argument of the environment as KEY=VALUE; repeatable", section="run", metavar="K=V"
    )
    steps: int = option(1_000_000, "Gradient steps", section="run", ge=1, aliases=("-n", "--n-gradient-steps"))
    seed: int = option(0, "Seed of every random stream of the run", section="run", ge=0, le=MAX_SEED)
    action_low: float | None = option(
        None, "Lower bound of all actions, where neither --env nor the file has one", section="run"
    )
    action_high: float | None = option(
        None, "Upper bound of all actions, where neither --env nor the file has one", section="run"
    )
    storage: Literal["auto", "ram", "mmap"] = option(
        "auto", "Decode the dataset to memory, or map the file", section="run"
    )
    max_time: str | None = option(None, "Stop after this time, e.g. 30m, 2h or 90s", section="run", metavar="TIME")
    stop_at: float | None = option(
        None, "Stop once an evaluation's mean return reaches this", section="run", metavar="RETURN"
    )
    patience: int = option(0, "Stop after this many evaluations without a better one; 0: never", section="run", ge=0)


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Section):
    """How the policy is evaluated during training."""

    eval_freq: int = option(10_000, "Steps between two evaluations; 0: only at the end", section="eval", ge=0)
    eval_episodes: int = option(5, "Episodes per evaluation", section="eval", ge=1, aliases=("--n-eval-episodes",))
    n_eval_envs: int = option(1, "Environments that evaluate together", section="eval", ge=1, le=4096)
    eval_env_kwarg: dict[str, Any] = option({}, "Argument of the evaluation environment, over --env-kwarg; repeatable",
                                            section="eval", metavar="K=V")  # fmt: skip
    deterministic: bool = option(
        True, "Evaluate the mean action, or a sampled one", section="eval", aliases=("/--stochastic",)
    )


@dataclass(frozen=True, kw_only=True)
class OfflineEvalConfig(EvalConfig):
    """The same with the offline defaults."""

    eval_freq: int = option(5_000, "Gradient steps between two evaluations; 0: only at the end", section="eval", ge=0)
    eval_episodes: int = option(10, "Episodes per evaluation", section="eval", ge=1, aliases=("--n-eval-episodes",))


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Section):
    """What is kept on disk."""

    save_freq: int = option(10_000, "Steps between two checkpoints; 0: only at the end", section="checkpoint", ge=0)
    keep_last: int = option(3, "Checkpoints step_*.pt that are kept", section="checkpoint", ge=1)
    link: bool = option(True, "Point ./checkpoints at this run's checkpoints", section="checkpoint")


@dataclass(frozen=True, kw_only=True)
class LogConfig(Section):
    """What is shown and written; metrics.jsonl always is."""

    log_interval: int = option(1_000, "Steps between two log lines", section="log", ge=1)
    tensorboard: bool = option(True, "Write TensorBoard events", section="log")
    wandb: bool = option(False, "Log to Weights & Biases (extra wandb)", section="log")
    wandb_project: str = option("rlox", "Project in Weights & Biases", section="log")
    progress: Literal["auto", "on", "off"] = option(
        "auto", "Live panel: on a terminal, always, or never", section="log"
    )
    video: int = option(0, "Episodes recorded at each evaluation (extra video)", section="log", ge=0)


@dataclass(frozen=True, kw_only=True)
class HardwareConfig(Section):
    """Where it runs."""

    device: str = option("auto", "auto, cpu, cuda or cuda:N", section="hardware")
    threads: int = option(
        1, "Threads of torch; on a machine with nothing else to do, 2 are faster for wide networks", section="hardware",
        ge=1, le=1024,
    )  # fmt: skip
    max_memory: str | None = option(None, "Refuse to start above this, e.g. 8GB", section="hardware", metavar="SIZE")
