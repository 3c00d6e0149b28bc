"""The base class of offline algorithms, for rlox's own and for yours.

    class MyBC(OfflineAlgorithm):
        def __init__(self, dataset, **kwargs):
            super().__init__(dataset, **kwargs)
            self.actor = nn.Sequential(nn.Linear(self.obs_dim, 64), nn.ReLU(), nn.Linear(64, self.act_dim), nn.Tanh())
            self.optimizer = torch.optim.Adam(self.actor.parameters(), lr=1e-3)

        def _update(self, batch):
            loss = (self.actor(batch["obs"]) - batch["actions"]).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return {"loss": loss}
"""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..algorithm import Algorithm
from ..callbacks import Callback
from ..checkpoint.recorded import recorded, recorded_seed, recorded_source, recorded_spaces
from ..data import OfflineDatasetBuffer
from ..envs import ActionSpace, EnvSource, Normalizer, ObsSpace
from ..envs.spaces import describe
from ..errors import CheckpointMismatchError, ConfigError, DatasetError, DatasetMismatchError, printable
from ..learner import Learner, gather_state, restore_state, stateful, training_mode
from ..logging import LoggerCallback
from ..loop import Progress, Stepped, Updated
from ..protocols import Batch, OfflineDataset
from ..registry import Kind, check_actions
from ..seeding import TorchStream, derive, torch_generator
from ..user_code import UserCodeError
from .bounds import RecordedData, check_fits, check_guess, find_spaces, is_guess
from .figures import Figures

REQUIRED = ("obs", "next_obs", "actions", "rewards", "terminated")
FIGURES = ("rewards", "terminated", "truncated")  # one number per row, float32 in training


class _Seeded(ABCMeta):
    """Builds an instance inside a random stream, so that a subclass's networks start from the seed of the run too.

    :class:`OfflineAlgorithm` goes over to the stream of its seed as soon as it knows that.
    """

    @property
    def __signature__(cls) -> inspect.Signature:
        """The constructor's, which ``__call__`` would hide."""
        own = inspect.signature(cls.__init__)  # type: ignore[misc]
        return own.replace(parameters=list(own.parameters.values())[1:])

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        with TorchStream(0, "init").use():
            algo = super().__call__(*args, **kwargs)
        algo._finish()
        return algo


class OfflineAlgorithm(Algorithm, metaclass=_Seeded):
    """Train on batches of a dataset; a subclass implements ``_update``.

    Parameters
    ----------
    dataset : OfflineDataset
        Anything with ``sample(batch_size, seed)`` and ``__len__``.
    batch_size : int
        Transitions per update.
    callbacks : Callback or iterable of them, optional
    logger : LoggerCallback or iterable of them, optional
    seed : int
        0…2³²−1; the same seed gives the same run, bit for bit.
    device : {"auto", "cpu", "cuda", "cuda:N"}
    env : str, gymnasium.Env, callable or EnvSource, optional
        Gives the action bounds, and evaluation its environment.
    action_low, action_high : float, optional
        Bounds of all actions, where neither ``env`` nor the dataset knows them.
    normalize_obs : bool
        Normalise observations by the dataset's ``obs_mean`` and ``obs_std``.

    Attributes
    ----------
    obs_dim, act_dim : int
        Length of an observation; numbers per action (n for Discrete).
    step : int
        Gradient steps made.
    generator : torch.Generator
        For all noise of ``_update``; its state is saved.
    bounds_from : str
        Where the action bounds come from.

    Notes
    -----
    ``_update(batch)`` gets tensors on ``device``: the dataset's keys; observations flat and, where asked for, normalised;
    actions (B, A) in [-1, 1] per dimension by the bounds, or (B,) int64. It returns a dict of metrics, tensors or floats.
    Networks are in training mode inside and in evaluation mode outside.

    To act, a subclass has an attribute ``actor`` (a :class:`rlox.protocols.StochasticActor`, or a module from (B,
    obs_dim) to (B, A) in [-1, 1], or to (B, n) logits), or a method ``act(obs, deterministic, generator)``.

    ``state_dict`` gathers every attribute that has one, so save and load need no code in a subclass.

    Examples
    --------
    See the top of the module :mod:`rlox.offline.base`.
    """

    kind: ClassVar[Kind] = "offline"
    rows: ClassVar[Literal["td", "all"]] = "td"
    requires: ClassVar[tuple[str, ...]] = ()
    draws_globally = True

    def __init__(
        self,
        dataset: OfflineDataset,
        batch_size: int = 256,
        callbacks: Callback | Iterable[Callback] | None = None,
        logger: LoggerCallback | Iterable[LoggerCallback] | None = None,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        env: Any = None,
        action_low: float | None = None,
        action_high: float | None = None,
        normalize_obs: bool = False,
    ) -> None:
        own = set(vars(self))  # what a subclass set before
        self._begin(seed, device, callbacks, logger)
        torch.random.set_rng_state(torch_generator(self.seed, "init").get_state())  # swapped out again by _Seeded
        if type(self)._update is OfflineAlgorithm._update:
            raise ConfigError(f"{type(self).__name__} does not implement _update(batch)")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size!r}, must be an integer of at least 1", param="--batch-size")
        self.dataset = _check_dataset(dataset)
        self.batch_size = batch_size
        self.env = env
        self.action_low, self.action_high = action_low, action_high
        self.normalize_obs = normalize_obs
        self.env_source = None if env is None else EnvSource.of(env)
        self._out: Batch | None = None
        probe = self._probe()
        observation, action, self.bounds_from = find_spaces(dataset, probe, self.env_source, action_low, action_high)
        self.obs_space, self.act_space = ObsSpace(observation), ActionSpace(action)
        self._guessed = is_guess(dataset, self.bounds_from, self.act_space.discrete)
        self.obs_dim = self.obs_space.dim
        self.act_dim = self.act_space.n if self.act_space.discrete else self.act_space.dim
        check_actions(self.name, self.act_space.space, "the dataset", error=DatasetMismatchError, param="--dataset")
        if (normalize_obs or getattr(dataset, "normalize", False)) and not isinstance(dataset, RecordedData):
            self.normalizer = _statistics(dataset)
        self.generator = torch_generator(self.seed, "update", self.device)
        self._stream = TorchStream(self.seed, "update/global")
        self._figures = Figures(self, set(vars(self)) - own)

    def _finish(self) -> None:
        """Move the subclass's networks to the device and tell the callbacks; runs after its constructor."""
        for network in self._networks():
            network.to(self.device)
            network.eval()
        self._figures.note()
        self.callbacks.on_attach(self)

    def _update(self, batch: Batch) -> Mapping[str, Any]:
        """Make one gradient step and return metrics; the method that a subclass owes."""
        raise ConfigError(f"{type(self).__name__} does not implement _update(batch)")

    def train(self, n_gradient_steps: int) -> dict[str, Any]:
        """Make so many more gradient steps.

        Parameters
        ----------
        n_gradient_steps : int
            ≥ 0.

        Returns
        -------
        dict
            Metrics of the last update, ``n_updates`` and ``reason``; empty for 0 steps.
        """
        metrics = super().train(n_gradient_steps)
        return metrics if n_gradient_steps else {}

    def advance(self) -> Iterator[Progress]:
        """Make one gradient step."""
        phases = self.phases
        phases.switch("buffer")
        batch = self._batch(derive(self.seed, "sample", self.step))
        phases.switch("update")
        with self._stream.use(), training_mode(self._trained()):
            metrics = self._update(batch)
        if metrics is not None and not isinstance(metrics, Mapping):
            got = type(metrics).__name__
            raise UserCodeError(f"{type(self).__name__}._update returned a {got}, must be a dict of metrics")
        yield Updated(metrics or {})
        yield Stepped(1)

    def _trained(self) -> list[nn.Module]:
        return [n for n in self._networks() if any(p.requires_grad for p in n.parameters())]

    def _networks(self) -> Iterator[nn.Module]:
        for _, value in stateful(self):
            if isinstance(value, nn.Module):
                yield value
            elif isinstance(value, Learner):
                yield from value.networks()

    def _probe(self) -> dict[str, NDArray[Any]]:
        """Return a first batch as arrays, its keys and sizes checked."""
        n = min(self.batch_size, len(self.dataset)) or self.batch_size
        if isinstance(self.dataset, RecordedData):
            return self.dataset.sample(n, 0)
        if len(self.dataset) < self.batch_size:
            raise DatasetMismatchError(
                f"the dataset has {len(self.dataset)} rows, fewer than batch_size {self.batch_size}", param="--batch-size"
            )
        probe = self._sample(derive(self.seed, "probe"))
        missing = [k for k in (*REQUIRED, *self.requires) if k not in probe]
        if missing:
            raise DatasetError(f"{type(self.dataset).__name__}.sample returned no {missing[0]!r}, only {sorted(probe)}")
        arrays = {k: _to_numpy(v) for k, v in probe.items()}
        for key in (k for k in arrays if k in REQUIRED or k in FIGURES):
            shape = arrays[key].shape
            if shape[:1] != (n,) or (key in FIGURES and shape != (n,)):  # (n, 1) would be broadcast against (n,)
                wanted = f"be ({n},)" if key in FIGURES else f"have {n} rows"
                raise DatasetError(f"sample({n}, seed) returned {key!r} of shape {shape}, must {wanted}")
        return arrays

    def _sample(self, seed: int) -> Batch:
        """Draw from the dataset; rlox's own writes into the same memory each time."""
        if isinstance(self.dataset, OfflineDatasetBuffer):
            batch: Batch = self.dataset.sample(self.batch_size, seed, out=self._out, rows=self.rows)
            self._out = batch
        else:
            batch = self.dataset.sample(self.batch_size, seed)
        return batch

    def _batch(self, seed: int) -> Batch:
        """Return a batch of tensors on the device, actions in [-1, 1]."""
        if isinstance(self.dataset, RecordedData):
            raise ConfigError(
                f"{type(self).__name__} was loaded without its dataset",
                hint=f"give one: {type(self).__name__}.from_checkpoint(path, dataset=...)",
                param="dataset",
            )
        batch: Batch = {}
        for key, value in self._sample(seed).items():
            array = _to_numpy(value)
            if key in ("obs", "next_obs"):
                array = array.reshape(len(array), -1).astype(np.float32, copy=False)
                if self.normalizer is not None and not getattr(self.dataset, "normalize", False):
                    array = self.normalizer(array)
            elif key == "actions":
                flat = array if self.act_space.discrete else array.reshape(len(array), -1)
                if self._guessed:
                    self._guessed = check_guess(self.dataset, flat, self.act_space.space)
                array = self.act_space.from_env(flat)
            elif key in FIGURES or array.dtype.kind in "fb":
                array = array.astype(np.float32, copy=False)
            batch[key] = torch.from_numpy(np.require(array, requirements=("C", "W"))).to(self.device)
        return batch

    def _act(self, obs: Tensor, deterministic: bool, generator: torch.Generator) -> Tensor:
        act = getattr(self, "act", None)
        if callable(act):
            return act(obs, deterministic, generator)  # type: ignore[no-any-return]
        actor = getattr(self, "actor", None)
        if actor is None:
            return super()._act(obs, deterministic, generator)
        if callable(getattr(actor, "sample", None)) and callable(getattr(actor, "deterministic", None)):
            return actor.deterministic(obs) if deterministic else actor.sample(obs)[0]  # type: ignore[no-any-return]
        out: Tensor = actor(obs)
        return out.argmax(-1) if self.act_space.discrete else out.clamp(-1, 1)

    @property
    def can_act(self) -> bool:
        """Whether there is a policy."""
        return callable(getattr(self, "act", None)) or getattr(self, "actor", None) is not None

    def _model_state(self) -> dict[str, Any]:
        return {"parts": gather_state(self, skip=_NOT_PARTS), "figures": self._figures.changed()}

    def _weights(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {"parts": {**state["parts"], **gather_state(self, skip=(*_NOT_PARTS, *self._learnt()))}}

    def _learnt(self) -> list[str]:
        """Return the attributes with a state that are no random streams."""
        return [name for name, value in vars(self).items() if not isinstance(value, torch.Generator | TorchStream)]

    def _load_model_state(self, state: Mapping[str, Any]) -> None:
        restore_state(self, state["parts"], skip=_NOT_PARTS)
        self._figures.load(state["figures"])

    def resume_state(self) -> dict[str, Any]:
        return {**super().resume_state(), "dataset": self._fingerprint()}

    def load_resume_state(self, state: Mapping[str, Any]) -> None:
        saved = state["dataset"]  # None: of a dataset that cannot be told from others, or left out by a fork
        if saved is not None and not isinstance(self.dataset, RecordedData) and saved != self._fingerprint():
            raise CheckpointMismatchError(
                f"the checkpoint was trained on a dataset with sha256 {printable(str(saved)[:12])}…, "
                f"this one has {str(self._fingerprint())[:12]}…",
                hint="give the dataset of the run that wrote it, or start a new run from it with `--fork`",
                param="--dataset",
            )
        super().load_resume_state(state)

    def _fingerprint(self) -> str | None:
        fingerprint = getattr(self.dataset, "fingerprint", None)
        return str(fingerprint()) if callable(fingerprint) else None

    def manifest(self) -> dict[str, Any]:
        """Return what a checkpoint says about itself, the dataset and the origin of the action bounds included."""
        data = {
            "path": getattr(self.dataset, "source", None),
            "fingerprint": self._fingerprint(),
            "rows": len(self.dataset),
        }
        return {
            **super().manifest(),
            "batch_size": self.batch_size,
            "dataset": data,
            "bounds_from": self.bounds_from,
        }

    @classmethod
    def _construct(cls, manifest: Mapping[str, Any], env: Any, device: Any, parts: Mapping[str, Any]) -> Self:
        data: Any = RecordedData(*recorded_spaces(manifest))
        given = dict(parts)
        dataset = given.pop("dataset", None)
        known = {**cls._recorded_options(manifest), "seed": recorded_seed(manifest), "device": device}
        algo = cls(data, **_accepted(cls, known), **given)
        if dataset is not None:
            algo.dataset = _check_dataset(dataset)
            check_fits("the checkpoint", algo.obs_space.space, algo.act_space.space, algo._probe())
        if env is None:
            algo.env_source = recorded_source(manifest)
        else:
            algo.env_source = EnvSource.of(env)
            algo._check_env(algo.env_source)
        return algo

    @classmethod
    def _recorded_options(cls, manifest: Mapping[str, Any]) -> dict[str, Any]:
        return {"batch_size": recorded(manifest, "batch_size", int)}

    def _check_env(self, source: EnvSource) -> None:
        """Refuse an environment that the policy does not fit; bounds may differ, since data need not show them all."""
        observation, action = source.spaces()
        actions, ours = ActionSpace(action), self.act_space
        if (ObsSpace(observation).dim, actions.dim, actions.n) != (self.obs_space.dim, ours.dim, ours.n):
            raise CheckpointMismatchError(
                f"{source} has {describe(observation)} observations and {describe(action)} actions, the checkpoint was "
                f"trained on {describe(self.obs_space.space)} and {describe(self.act_space.space)}",
                param="--env",
            )


__all__ = ["OfflineAlgorithm", "OfflineDataset"]

_NOT_PARTS = ("dataset", "callbacks", "loggers", "logger", "phases", "metrics", "episodes", "normalizer", "env",
              "env_source", "run", "_sampler")  # fmt: skip


def _accepted(cls: type, options: dict[str, Any]) -> dict[str, Any]:
    """Leave out the options that a constructor of the user's own does not take."""
    parameters = inspect.signature(cls).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return options
    names = {p.name for p in parameters}
    return {name: value for name, value in options.items() if name in names}


def _check_dataset(dataset: Any) -> Any:
    missing = [m for m in ("sample", "__len__") if not callable(getattr(dataset, m, None))]
    if missing:
        raise ConfigError(f"dataset is a {type(dataset).__name__} without {', '.join(missing)}", param="dataset")
    return dataset


def _statistics(dataset: Any) -> Normalizer:
    if getattr(dataset, "obs_mean", None) is None or getattr(dataset, "obs_std", None) is None:
        raise ConfigError(f"normalize_obs needs obs_mean and obs_std, {type(dataset).__name__} has none",
                          param="--normalize-obs")  # fmt: skip
    return Normalizer.fixed(dataset.obs_mean, dataset.obs_std)


def _to_numpy(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
