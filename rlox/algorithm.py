"""What every algorithm can do, written once: train, predict, act, save, load."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from . import checkpoint
from .buffers import ReplayBuffer
from .callbacks import Callback, CallbackList, PhaseTimer
from .checkpoint.opcodes import leaves
from .checkpoint.recorded import recorded, versions
from .config.fields import to_dict
from .envs import ActionSpace, EnvSource, Normalizer, ObsSpace, space_to_json
from .errors import (
    CheckpointMismatchError,
    ConfigError,
    DivergedError,
    closest,
    printable,
)
from .files import make_parents
from .learner import Metrics, resolve_device
from .logging import LoggerCallback, LoggerList
from .loop import Boundary, EpisodeWindow, Progress, run_loop
from .policy import Policy, encoded, flat_actions, is_single
from .registry import ALGORITHMS, Kind, algorithm_names
from .resume import Keeper, exactness, fitting, rebuild
from .seeding import check_seed


class Algorithm:
    """Base of every algorithm, online and offline.

    Attributes
    ----------
    step : int
        Environment transitions consumed (online) or gradient steps (offline).
    n_updates : int
        Gradient updates.
    metrics : Metrics
        Figures of the last update and of the last 100 episodes.
    exact : list of str
        Reasons why the run could not be resumed bit for bit; empty when it could.
    """

    name: ClassVar[str] = ""
    kind: ClassVar[Kind] = "online"
    config: Any = None
    env_source: EnvSource | None = None
    obs_space: ObsSpace
    act_space: ActionSpace
    normalizer: Normalizer | None = None
    draws_globally: bool = False

    def _begin(
        self,
        seed: int,
        device: str | torch.device,
        callbacks: Callback | Iterable[Callback] | None,
        logger: LoggerCallback | Iterable[LoggerCallback] | None,
    ) -> None:
        """Set up what all algorithms have; the first thing that a constructor does."""
        self.seed = check_seed(seed)
        self.device = resolve_device(device)
        self.logger = logger
        self.callbacks = CallbackList(callbacks)
        self.loggers = LoggerList(logger)
        self.phases = PhaseTimer()
        self.metrics = Metrics()
        self.episodes = EpisodeWindow()
        self.step = 0
        self.n_updates = 0
        self.total_steps = 0
        self.run: Any = None
        self.reason: str | None = None
        self.signal: int | None = None
        self.torn = False  # an exception ended the last training, maybe between two steps
        self.continues = False  # the next training goes on with one that was cut off
        self.stopping = False  # a callback voted to stop
        self.elapsed_s = 0.0  # seconds of training up to the last log row, those before a resume included
        self.boundary = Boundary()
        self.exact: list[str] = []
        self._keeper = Keeper(self)
        self._sampler: Policy | None = None  # of sampled predictions, made when it is first needed
        self._to_say: list[str] = []  # why going on is not exact, said once training does go on
        self.custom: list[str] = []

    def __repr__(self) -> str:
        source = self.env_source
        env = "" if source is None else f"{source.label}, "
        return f"{type(self).__name__}({env}step={self.step}, n_updates={self.n_updates})"

    def advance(self) -> Iterable[Progress]:
        """Yield what happens, in order, until the next point at which training may stop."""
        raise TypeError(f"{type(self).__name__} does not say how its training advances")

    def train(self, total_timesteps: int) -> dict[str, Any]:
        """Train for so many more steps.

        Parameters
        ----------
        total_timesteps : int
            Environment transitions (online; rounded up to whole vector steps) or gradient steps (offline), ≥ 0.

        Returns
        -------
        dict
            Metrics of the last update, ``return_mean`` and ``length_mean`` of the last 100 episodes, ``n_updates``,
            and ``reason``: finished, stopped or interrupted.

        Raises
        ------
        ConfigError
            When ``total_timesteps`` is negative or no integer.
        DivergedError
            When a loss becomes NaN or infinite.
        EnvError
            When an environment raises, hangs or returns nonsense.
        """
        n = total_timesteps
        if isinstance(n, bool) or not hasattr(n, "__index__") or n < 0:
            raise ConfigError(f"total_timesteps is {n!r}, must be an integer of at least 0", param="total_timesteps")
        self.total_steps = self.step + int(n)
        if self._to_say:
            warnings.warn(f"exact_resume: no: {'; '.join(self._to_say)}", stacklevel=2)
            self._to_say = []
        return run_loop(self, int(n))

    def check_finite(self) -> None:
        """Raise DivergedError when a number of the model is NaN or infinite; called before it is evaluated or kept.

        Those of the optimizers count too: one gradient can be so large that its square is infinite while all parameters
        stay finite.
        """
        for network in self._trained():
            for name, value in network.state_dict().items():
                if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                    raise self._diverged(f"{name} of {type(network).__name__} is not finite", name)
        for name, value in leaves(self._model_state()):
            if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise self._diverged(f"{printable(name)} is not finite", name)

    def _diverged(self, what: str, name: str) -> DivergedError:
        return DivergedError(
            f"{what} at step {self.step}, update {self.n_updates}",
            hint="lower learning_rate, or look at the scale of rewards and observations",
            param=name,
        )

    def policy(self, n_envs: int = 1, *, seed: int = 0) -> Policy:
        """Return a policy for ``n_envs`` environments; acting with it changes nothing in training.

        It uses the networks as they are at each call and the normaliser's statistics as they are now.
        """
        return Policy(self, seed, "policy", None if self.normalizer is None else self.normalizer.frozen())

    def predict(self, obs: Any, deterministic: bool = True) -> Any:
        """Return the action for one observation, or the actions for a batch.

        Parameters
        ----------
        obs : array-like or mapping
            As the environment gives it, of any dtype that casts, or a batch with a leading dimension.
        deterministic : bool
            The greedy action, or a sampled one.

        Returns
        -------
        (A,) or (B, A) float32 array in the environment's units and shape for a Box; int or (B,) int64 for Discrete.
        """
        single = is_single(self.obs_space, obs)
        rows = encoded(self.obs_space, obs, single)
        if deterministic:
            actions = self.policy().act(rows)
        else:
            self._sampler = self._sampler or Policy(self, self.seed, "predict", None)
            self._sampler._normalizer = None if self.normalizer is None else self.normalizer.frozen()
            actions = self._sampler.act(rows, deterministic=False)
        if self.act_space.discrete:
            return int(actions[0]) if single else actions
        actions = actions.reshape(len(rows), *self.act_space.shape)
        return actions[0] if single else actions

    def value(self, obs: Any, actions: Any = None) -> Any:
        """Return the critics' value in reward units: the smallest of the critics.

        Parameters
        ----------
        obs : one observation or a batch, as for :meth:`predict`
        actions : array-like, optional
            In the environment's units; the policy's own where None.

        Returns
        -------
        float for one observation, (B,) float32 array for a batch.
        """
        single = is_single(self.obs_space, obs)
        rows = encoded(self.obs_space, obs, single)
        if actions is None:
            squashed = self.policy().squashed(rows)
        else:
            squashed = self.act_space.from_env(flat_actions(self.act_space, actions, len(rows)))
        x = rows if self.normalizer is None else self.normalizer(rows)
        with torch.no_grad():
            values = self._value(torch.from_numpy(x).to(self.device), torch.from_numpy(squashed).to(self.device))
        return float(values[0]) if single else values.cpu().numpy()

    def save(self, path: str | os.PathLike[str], resume: bool = False) -> None:
        """Write the model file: networks, targets, optimizers, temperature, normaliser, counters.

        Parameters
        ----------
        path : path-like
        resume : bool
            Also write, in a folder of the same name with the ending ``.resume``, all that is needed to go on exactly:
            replay buffer, unfinished episodes, callbacks, positions of loggers. The newest two such states are kept,
            and rows of the buffer that are there already are not written again. Inside a run directory the folder is
            the run's ``resume``.

        Raises
        ------
        WriteError
            When it cannot be written; older files are then as they were.
        """
        if resume:
            self._keeper.save(make_parents(path))
        else:
            checkpoint.save(path, self.state_dict(), self.manifest())

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        env_id: str | None = None,
        *,
        env: Any = None,
        device: str | torch.device = "auto",
        resume: bool = True,
        **parts: Any,
    ) -> Self:
        """Rebuild the algorithm that a model file holds, ready to go on exactly where that was saved with it.

        Parameters
        ----------
        path : path-like
        env_id : str, optional
            A registered environment to use in place of the recorded one; its spaces must be the same.
        env : EnvSource, environment or factory, optional
            Needed for environments of the user's own before training or evaluating.
        device : str
        resume : bool
            Also take over what ``save(path, resume=True)`` wrote beside the file, where it is there: then ``train``
            does what it would have done without the interruption. Callbacks and loggers given here get their states.
        **parts
            Parts of the user's own that the file was made with, e.g. ``actor=``; callbacks; logger.

        Raises
        ------
        CheckpointNotFoundError, CheckpointError, CheckpointMismatchError
            Missing; damaged or unsafe; another algorithm, newer format, other spaces, parts missing.
        """
        state, manifest = checkpoint.load(path)
        return rebuild(cls, state, manifest, env if env is not None else env_id, device, parts, Path(path), resume)

    def manifest(self) -> dict[str, Any]:
        """Return what a checkpoint says about itself, as JSON-able values."""
        source = self.env_source
        return {
            "algorithm": self._recorded_name(),
            "kind": self.kind,
            "config": to_dict(self.config) if self.config is not None else {},
            "env": None if source is None else {"id": source.id, "text": source.text, "kwargs": dict(source.kwargs)},
            "spaces": {
                "observation": space_to_json(self.obs_space.space),
                "action": space_to_json(self.act_space.space),
            },
            "step": self.step,
            "n_updates": self.n_updates,
            "seed": self.seed,
            "custom": list(self.custom),
            "normalize": self.normalizer is not None,
            "exact_resume": exactness(["it was saved as a model alone", *self.exact]),
            "versions": versions(),
            "threads": torch.get_num_threads(),
            "device": str(self.device),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the model's state: learner, normaliser, counters."""
        return {
            "step": self.step,
            "n_updates": self.n_updates,
            "episodes": self.episodes.state_dict(),
            "normalizer": None if self.normalizer is None else self.normalizer.state_dict(),
            **self._model_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from :meth:`state_dict`; CheckpointError names what does not fit."""
        with fitting(self):
            self.step, self.n_updates = int(state["step"]), int(state["n_updates"])
            if min(self.step, self.n_updates) < 0:
                raise ValueError(f"step is {self.step} and n_updates {self.n_updates}, must be at least 0")
            self.episodes.load_state_dict(state["episodes"])
            if state["normalizer"] is not None:
                if self.normalizer is None:
                    self.normalizer = Normalizer(self.obs_space.dim)
                self.normalizer.load_state_dict(state["normalizer"])
            self._load_model_state(state)

    def load_weights(self, state: Mapping[str, Any]) -> None:
        """Take over networks, optimizers and normaliser from a state, and nothing that counts or draws."""
        with fitting(self):
            self.load_state_dict({**self.state_dict(), "normalizer": state["normalizer"], **self._weights(state)})

    def resume_state(self) -> dict[str, Any]:
        """Return all that going on exactly needs besides :meth:`state_dict` and the rows of the replay buffer."""
        figures = {k: v for k, v in self.metrics.items() if isinstance(v, bool | int | float | str)}
        return {
            "total_steps": self.total_steps,
            "reason": self.reason,
            "stopping": self.stopping,
            "elapsed_s": self.elapsed_s,
            "exact": list(self.exact),
            "metrics": figures,
            "sampler": None if self._sampler is None else self._sampler.state_dict(),
            "callbacks": self.callbacks.state_dict(),
            "loggers": self.loggers.state_dict(),
        }

    def load_resume_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state from :meth:`resume_state`."""
        self.total_steps, self.reason = int(state["total_steps"]), state["reason"]
        self.continues = self.reason not in ("finished", "stopped")
        self.stopping, self.elapsed_s = bool(state["stopping"]), float(state["elapsed_s"])
        self.exact += [why for why in state["exact"] if why not in self.exact]
        self.metrics.put(state["metrics"])
        if state["sampler"] is not None:
            self._sampler = Policy(self, self.seed, "predict", None)
            self._sampler.load_state_dict(state["sampler"])
        for watchers, saved in ((self.callbacks, state["callbacks"]), (self.loggers, state["loggers"])):
            if saved is not None:  # None: of a run that this one was forked from
                watchers.load_state_dict(saved)

    def _ring(self, make: bool = False) -> ReplayBuffer | None:
        """Return the replay buffer whose rows a generation holds, where there is one."""
        return None

    def _recorded_name(self) -> str:
        """Return the registered name, the text that the user typed, or the name of a class of the user's own."""
        spec = ALGORITHMS.get(self.name)
        other = spec is not None and spec.load_class() is not type(self)  # a subclass of a registered one
        return type(self).__qualname__ if other or not self.name else self.name

    # What a subclass supplies: how it acts, what its critics say, its state, and how it is made from a file.

    def _act(self, obs: Tensor, deterministic: bool, generator: torch.Generator) -> Tensor:
        raise ConfigError(f"{type(self).__name__} has no policy: give it an `actor`, or a method `act`")

    def _value(self, obs: Tensor, actions: Tensor) -> Tensor:
        raise ConfigError(f"{type(self).__name__} has no critics")

    def _trained(self) -> Iterable[nn.Module]:
        """Return the networks that are trained."""
        return ()

    def _model_state(self) -> dict[str, Any]:
        return {}

    def _load_model_state(self, state: Mapping[str, Any]) -> None: ...

    def _weights(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries of another model's state that are learnt, with what this model has beside them."""
        return {}

    @classmethod
    def _construct(cls, manifest: Mapping[str, Any], env: Any, device: Any, parts: Mapping[str, Any]) -> Self:
        raise TypeError(f"{cls.__name__} cannot be made from a checkpoint")


def load_algorithm(
    path: str | os.PathLike[str],
    *,
    env: Any = None,
    cls: type[Algorithm] | None = None,
    device: str | torch.device = "auto",
    allow_nonfinite: bool = False,
    resume: bool = False,
    parts: Mapping[str, Any] | None = None,
) -> Algorithm:
    """Rebuild the algorithm in a model file, of whatever class it is.

    Parameters
    ----------
    path : path-like
    env : str, EnvSource, environment or factory, optional
        In place of the recorded environment.
    cls : type, optional
        The class, where it is the user's own.
    device : str
    allow_nonfinite : bool
        Load weights that are NaN or infinite too.
    resume : bool
        Also take over what was saved beside the file to go on exactly, where it is there.
    parts : mapping, optional
        As the keywords of :meth:`Algorithm.from_checkpoint`, e.g. ``dataset``.

    Raises
    ------
    CheckpointMismatchError
        When the algorithm is not a registered one and ``cls`` is None.
    """
    state, manifest = checkpoint.load(path, allow_nonfinite=allow_nonfinite)
    if cls is None:
        name = printable(recorded(manifest, "algorithm", str))
        spec = ALGORITHMS.get(name)
        if spec is None:
            near = closest(name, algorithm_names())
            typed = name if ":" in name else f"FILE.py:{name}"
            raise CheckpointMismatchError(
                f"{printable(path)} was made by {name}, which is not a registered algorithm",
                hint=f"`{shlex.join(['rlox', 'eval', printable(path), '--algo', typed])}`",
                value=name,
                suggestions=near,
            )
        cls = spec.load_class()
    return rebuild(cls, state, manifest, env, device, parts or {}, Path(path), resume)
