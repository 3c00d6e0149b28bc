"""Evaluation in the course of training, and the best model."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..files import make_parents
from ..logging.period import Period, check_period
from ..seeding import check_seed
from .base import Callback
from .context import StepCount, check_finite, during, log_event, own_folder, require, tell

if TYPE_CHECKING:
    from ..envs import EnvSource
    from ..evaluation import Evaluation


class EvalCallback(Callback):
    """Evaluate every ``eval_freq`` steps and at the end, and keep the best model.

    It has its own environment, seeds and random streams, and acts with a frozen copy of the normalisation statistics:
    evaluating does not change training by one bit. All evaluations play the same episodes.

    Parameters
    ----------
    eval_env : id, environment, factory or EnvSource, optional
        The algorithm's own source of environments when None.
    eval_freq : int
        Steps between evaluations, fired when crossed; 0: only at the end.
    n_eval_episodes : int
        Episodes per evaluation, ≥ 1, a fixed number in each environment.
    best_model_path : path-like, optional
        File for the model with the highest mean return; parents are created. The best is tracked without it too.
    verbose : bool
        Say each result in one line on stderr, where no ConsoleLogger does.
    eval_seed : int
        Seed of the evaluation episodes, 0…2³²−1.
    n_eval_envs : int
        Environments at a time, ≥ 1.
    deterministic : bool
        Act with the greedy action, or with sampled ones.

    Attributes
    ----------
    best_return : float
        Highest mean return, −inf before the first evaluation; NaN is never the best.
    best_step : int or None
        The step that it was reached at.
    eval_results : list of (step, return_mean)

    Raises
    ------
    ConfigError
        For a value out of range; when attached, for an algorithm that cannot act or save, or without an environment
        that can be made for evaluation.

    Notes
    -----
    The final evaluation is made when training was finished or stopped, unless the last step was evaluated already.
    """

    def __init__(
        self,
        eval_env: Any = None,
        eval_freq: int = 10000,
        n_eval_episodes: int = 5,
        best_model_path: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        *,
        eval_seed: int = 0,
        n_eval_envs: int = 1,
        deterministic: bool = True,
    ) -> None:
        self.eval_env = eval_env
        self.eval_freq = check_period(eval_freq, "eval_freq")
        self.n_eval_episodes = check_period(n_eval_episodes, "n_eval_episodes", minimum=1)
        self.best_model_path = best_model_path
        self.verbose = verbose
        self.eval_seed = check_seed(eval_seed, "eval_seed")
        self.n_eval_envs = check_period(n_eval_envs, "n_eval_envs", minimum=1)
        self.deterministic = deterministic
        self.best_return = -math.inf
        self.best_step: int | None = None
        self.eval_results: list[tuple[int, float]] = []
        self._count = StepCount()
        self._period = Period(self.eval_freq)
        self._algo: Any = None
        self._source: EnvSource | None = None

    def on_attach(self, algo: Any) -> None:
        who = type(self).__name__
        if not callable(getattr(algo, "policy", None)):
            require(algo, "predict", who)
        if not getattr(algo, "can_act", True):
            raise ConfigError(f"{who} needs an algorithm that can act, {type(algo).__name__} cannot", param="callbacks")
        if self.best_model_path is not None:
            require(algo, "save", who)
            if Path(self.best_model_path).is_dir():
                raise ConfigError(
                    f"best_model_path is the folder {os.fspath(self.best_model_path)}, must be a file",
                    param="best_model_path",
                    value=self.best_model_path,
                )
        self._source = self._find_source(algo)
        self._algo = algo

    def on_training_start(self, **kwargs: Any) -> None:
        self._bind(kwargs)
        self._period.last = self._count.stay(kwargs)
        if self._algo is not None and self.best_model_path is not None:
            self._best_file()  # a folder that must not be written to is refused before the first step

    def on_step(self, **kwargs: Any) -> None:
        step = self._count.advance(kwargs)
        if self._period.crossed(step):
            self._bind(kwargs)
            self._evaluate(step)

    def on_training_end(self, **kwargs: Any) -> None:
        self._bind(kwargs)
        step = self._count.stay(kwargs)
        evaluated = bool(self.eval_results) and self.eval_results[-1][0] == step
        if kwargs.get("reason", "finished") in ("finished", "stopped") and not evaluated:
            self._evaluate(step)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self._count.step,
            "period": self._period.last,
            "best_return": self.best_return,
            "best_step": self.best_step,
            "eval_results": [list(result) for result in self.eval_results],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._count.step = state["step"]
        self._period.last = state["period"]
        self.best_return = state["best_return"]
        self.best_step = state["best_step"]
        self.eval_results = [(step, mean) for step, mean in state["eval_results"]]

    def _bind(self, kwargs: Mapping[str, Any]) -> None:
        algo = kwargs.get("algo")
        if algo is not None and algo is not self._algo:
            self.on_attach(algo)

    def _find_source(self, algo: Any) -> EnvSource:
        from ..envs import EnvSource  # gymnasium is imported where it is needed only

        source: EnvSource | None = getattr(algo, "env_source", None)
        if self.eval_env is not None:
            source = EnvSource.of(self.eval_env)
        if source is None:
            raise ConfigError("EvalCallback has no environment", hint="pass eval_env=", param="eval_env")
        shared = self.eval_env is None or _same_instance(source, getattr(algo, "env_source", None))
        if not source.can_remake and (shared or self.n_eval_envs > 1):
            raise ConfigError(
                f"EvalCallback needs an environment of its own, and {source} cannot be made again",
                hint="pass eval_env=, or train with an id or a factory in place of the environment",
                param="eval_env",
            )
        return source

    def _evaluate(self, step: int) -> None:
        algo = self._algo
        if algo is None or self._source is None:
            return  # called outside any training: there is nothing to evaluate
        from ..evaluation import evaluate

        check_finite(algo)
        returns: list[float] = []

        def on_episode(k: int, episode_return: float, episode_length: int) -> None:
            returns.append(episode_return)
            callbacks = getattr(algo, "callbacks", None)
            if callbacks is not None:
                callbacks.on_eval(
                    algo=algo,
                    step=step,
                    episode=k + 1,
                    n_episodes=self.n_eval_episodes,
                    episode_return=episode_return,
                    episode_length=episode_length,
                    return_mean=float(np.mean(returns)),
                    return_std=float(np.std(returns)),
                )

        with during(algo, "eval"):
            result = evaluate(
                policy_of(algo, min(self.n_eval_envs, self.n_eval_episodes)),
                self._source,
                self.n_eval_episodes,
                seed=self.eval_seed,
                n_envs=self.n_eval_envs,
                deterministic=self.deterministic,
                on_episode=on_episode,
            )
        self._record(algo, step, result)

    def _record(self, algo: Any, step: int, result: Evaluation) -> None:
        score = result.return_mean
        self.eval_results.append((step, score))
        is_best = score > self.best_return  # false for NaN
        if is_best:
            self.best_return, self.best_step = score, step
        loggers = getattr(algo, "loggers", None)
        if loggers is not None:
            with during(algo, "log"):
                loggers.on_eval(step, result.summary())
                loggers.flush()
        if self.verbose:
            best = " (best so far)" if is_best else ""
            tell(
                algo,
                f"step={step} eval_return={score:.2f} eval_std={result.return_std:.2f} "
                f"eval_length={result.length_mean:.0f}{best}",
            )
        if is_best and self.best_model_path is not None:
            with during(algo, "save"):
                path = self._best_file()
                algo.save(path)
            log_event(algo, step, "checkpoint", path=str(path), best=True)

    def _best_file(self) -> Path:
        path = Path(os.fspath(self.best_model_path or ""))
        return make_parents(own_folder(path.parent, "checkpoints", self._algo, "checkpoints") / path.name)


class PredictPolicy:
    """A policy made of an algorithm's ``predict``, for algorithms that have nothing else."""

    def __init__(self, algo: Any) -> None:
        self._algo = algo

    def act(self, obs: NDArray[np.float32], deterministic: bool = True) -> NDArray[Any]:
        """Return actions for a batch of observations."""
        return np.asarray(self._algo.predict(obs, deterministic=deterministic))

    def reset(self, mask: NDArray[np.bool_] | None = None) -> None:
        """Start new episodes; ``predict`` has nothing to forget."""


def policy_of(algo: Any, n_envs: int) -> Any:
    """Return the algorithm's policy for ``n_envs`` environments; acting with it changes nothing in training."""
    return algo.policy(n_envs) if callable(getattr(algo, "policy", None)) else PredictPolicy(algo)


def _same_instance(a: EnvSource, b: EnvSource | None) -> bool:
    mine = a.instance if a.instance is not None else a.vector
    theirs = None if b is None else b.instance if b.instance is not None else b.vector
    return mine is not None and mine is theirs
