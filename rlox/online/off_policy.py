"""How off-policy training advances: step the environments, store, and update from the replay buffer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..algorithm import Algorithm
from ..buffers import ReplayBuffer
from ..checkpoint.recorded import recorded, recorded_config, recorded_seed, recorded_source, recorded_spaces
from ..config.fields import make_config
from ..config.off_policy import OffPolicyConfig
from ..envs import ActionSpace, EnvSource, Normalizer, ObsSpace, VecStep, VectorEnv, same_space, vectorize
from ..envs.unfinished import read_unfinished
from ..errors import CheckpointMismatchError, ConfigError
from ..files import available_memory, human_bytes
from ..learner import Learner, training_mode
from ..loop import Collected, Progress, Stepped, Updated
from ..policy import Policy
from ..protocols import Batch, ExplorationStrategy, ReplayBufferProtocol
from ..registry import check_actions
from ..seeding import TorchStream, derive, torch_generator
from .parts import check_batch, check_n_envs, check_ring


@dataclass
class Recorded:
    """The environment of a checkpoint: its spaces, and where it can be made, the environment."""

    source: EnvSource | None
    observation_space: Any
    action_space: Any


class OffPolicyAlgorithm(Algorithm):
    """Base of the off-policy algorithms: a subclass names its config and makes its learner.

    Attributes
    ----------
    buffer : ReplayBufferProtocol
        Transitions with actions in [-1, 1] and observations as the environment gave them, encoded as flat vectors.
    """

    config_class: ClassVar[type[OffPolicyConfig]]
    config: OffPolicyConfig
    learner: Any
    actor: Any = None
    critic: Any = None

    def _prepare(
        self,
        env: Any,
        n_envs: int,
        seed: int,
        config: OffPolicyConfig | None,
        overrides: Mapping[str, Any],
        callbacks: Any,
        logger: Any,
        device: Any,
        buffer: ReplayBufferProtocol | None,
        exploration: ExplorationStrategy | None,
    ) -> None:
        """Check everything that can be known now, and build the learner."""
        self._begin(seed, device, callbacks, logger)
        self.config = make_config(self.config_class, config, overrides)
        self.env = env
        self._take_env(env)
        self.n_envs = check_n_envs(n_envs, self.env_source)
        self.exploration = exploration
        self._buffer = buffer
        self._require(buffer=("push", "sample", "__len__"), exploration=("select_action", "reset"))
        self.custom = [n for n in ("actor", "critic") if getattr(self, n) is not None]
        self.draws_globally = bool(self.custom) or self.config.dropout > 0
        with TorchStream(self.seed, "init").use():
            self.learner: Learner = self._make_learner()
        for network in self.learner.networks():
            network.eval()
        self.normalizer = Normalizer(self.obs_space.dim) if self.config.normalize_obs else None
        self.generator = torch_generator(self.seed, "update", self.device)
        self._warm_up = torch_generator(self.seed, "warm-up")
        self._update_stream = TorchStream(self.seed, "update/global")
        self._behaviour = Policy(self, self.seed, "explore", self.normalizer)
        self._explorers = [copy.deepcopy(exploration) for _ in range(self.n_envs)] if exploration is not None else []
        self._envs: VectorEnv | None = None
        self._envs_state: dict[str, Any] | None = None  # of a run that goes on, until the environments are made
        self._obs: NDArray[np.float32] | None = None
        self._actions: NDArray[Any] | None = None  # chosen, not yet taken
        self._collected = 0  # transitions since the last phase of updates
        self._owed = 0  # updates owed, in units of 1 / train_freq
        self._out: Batch | None = None
        self._stored = 0  # transitions
        if isinstance(buffer, ReplayBuffer):
            check_ring(buffer, self)
        if not self.config.save_buffer:
            self.exact.append("the replay buffer was not saved")
        for name, part in (("exploration", exploration), ("buffer", buffer)):
            if part is not None and not hasattr(part, "state_dict"):
                self.exact.append(f"the {name} has no state_dict")
        if buffer is None and not isinstance(env, Recorded):  # a loaded model may only be there to act
            self._check_memory()
        self.callbacks.on_attach(self)

    def _make_learner(self) -> Learner:
        raise TypeError(f"{type(self).__name__} does not make a learner")

    @property
    def buffer(self) -> Any:
        """The replay buffer; rlox's own is allocated when it is first needed."""
        if self._buffer is None:
            self._buffer = ReplayBuffer(
                self.config.buffer_size,
                self.obs_space.dim,
                self.act_space.dim,
                n_envs=self.n_envs,
                discrete=self.act_space.discrete,
            )
        return self._buffer

    @property
    def estimate_nbytes(self) -> int:
        """Bytes that the replay buffer takes, known before it is allocated."""
        return int(
            ReplayBuffer.estimate_nbytes(
                self.config.buffer_size,
                self.obs_space.dim,
                self.act_space.dim,
                n_envs=self.n_envs,
                discrete=self.act_space.discrete,
            )
        )

    def advance(self) -> Iterator[Progress]:
        """Make one vector step, then the updates that it earns."""
        envs, phases, config = self._start(), self.phases, self.config
        assert self._obs is not None
        warming_up = self.step < config.learning_starts

        if self._actions is None:
            phases.switch("inference")
            chosen = self._choose_actions(self._obs, warming_up)
            if not np.isfinite(chosen).all():
                self.check_finite()  # names what made it so
                raise self._diverged("an action is not finite", "actions")
            self._actions = chosen
        actions = self._actions  # of a step that an environment failed in, where training goes on from there
        phases.switch("env")
        result = envs.step(self.act_space.to_env(actions))
        self._actions = None
        phases.switch("buffer")
        n = self._store(self._obs, actions, result)
        self._obs = result.obs
        if self.normalizer is not None:  # by what is acted on: no final observations
            self.normalizer.update(result.obs if envs.waiting is None else result.obs[~envs.waiting])
        if self._explorers:
            for episode in result.episodes:
                self._explorers[episode["env"]].reset()
        rewards = result.rewards if n == self.n_envs else result.rewards[result.valid]
        yield Stepped(n, float(rewards.mean()) if n else None, result.episodes)

        # Not len(buffer) alone: one of the user's may be smaller. Not step alone: a loaded model starts with an empty one.
        if warming_up or max(self._stored, len(self.buffer)) < config.learning_starts:
            return
        self._collected += n
        if self._collected < config.train_freq:
            return
        yield Collected()
        per_phase = config.train_freq if config.gradient_steps == -1 else config.gradient_steps
        n_updates, self._owed = divmod(self._owed + per_phase * self._collected, config.train_freq)
        self._collected = 0
        for _ in range(n_updates):
            phases.switch("buffer")
            batch = self._sample(derive(self.seed, "sample", self.n_updates))
            phases.switch("update")
            yield Updated(self._learn(batch))

    def close(self) -> None:
        """Close the environments and end their processes; training again makes new ones, with episodes of other seeds."""
        self._envs_state = self._actions = None
        if self._envs is not None:
            self._envs.close()
            self._envs = self._obs = None

    def _start(self) -> VectorEnv:
        """Return the running environments, made at the first step."""
        if self._envs is None:
            if self.env_source is None:
                raise ConfigError(
                    f"{self.name} was loaded without an environment",
                    hint=f"give one: {type(self).__name__}.from_checkpoint(path, env=...)",
                    param="env",
                )
            if self.step and not len(self.buffer):
                warnings.warn(
                    f"training goes on from step {self.step} with an empty replay buffer: it was not saved",
                    stacklevel=2,
                )
            config = self.config
            # An episode takes a step at least, so that environments made at step s and left at step t have not come to
            # episode 2t yet: whatever is made later starts with episodes that nobody has seen.
            self._envs = vectorize(
                self.env_source,
                self.n_envs,
                seed=self.seed,
                vec=config.vec,
                timeout_s=config.env_timeout,
                first_episode=2 * self.step,
            )
            self._note_exactness(self._envs)
            fresh = range(self.n_envs) if self._envs_state is None else self._rebuild(self._envs, self._envs_state)
            self._obs = self._envs.reset() if self._envs_state is None else self._envs.obs.copy()
            self._envs_state = None
            if self.normalizer is not None and fresh:
                self.normalizer.update(self._obs[list(fresh)])
        return self._envs

    def _note_exactness(self, envs: VectorEnv) -> None:
        if envs.exact is not None and envs.exact not in self.exact:
            self.exact.append(envs.exact)

    def _rebuild(self, envs: VectorEnv, state: dict[str, Any]) -> list[int]:
        """Put the environments back into their unfinished episodes; return those that start a new one, and say why."""
        fresh = envs.load_state_dict(state)
        self._note_exactness(envs)
        why = [f"environment {i} starts a new episode: {reason}" for i, reason in fresh.items()]
        if why:
            self.exact += [reason for reason in why if reason not in self.exact]
            warnings.warn(f"exact_resume: no: {'; '.join(why[:3])}", stacklevel=4)
            for i in fresh:
                if self._explorers:
                    self._explorers[i].reset()
        return list(fresh)

    def _choose_actions(self, obs: NDArray[np.float32], warming_up: bool) -> NDArray[Any]:
        """Return actions (N, A) in [-1, 1]: uniform while warming up, else the policy's, disturbed by exploration."""
        if warming_up:
            uniform = torch.rand(len(obs), self.act_space.dim, generator=self._warm_up)
            return (2 * uniform - 1).numpy()
        actions = self._behaviour.squashed(obs, deterministic=False)
        if not self._explorers:
            return actions
        chosen = [e.select_action(a, self.step, self.total_steps) for e, a in zip(self._explorers, actions, strict=True)]
        for one in chosen:
            if np.shape(one) != actions.shape[1:]:
                raise ConfigError(f"exploration.select_action returned shape {np.shape(one)}, must be {actions.shape[1:]}",
                                  param="exploration")  # fmt: skip
        return np.clip(np.asarray(chosen, np.float32), -1, 1)

    def _store(self, obs: NDArray[np.float32], actions: NDArray[Any], result: VecStep) -> int:
        """Store the transitions of one vector step and return how many there were."""
        rows = (obs, actions, result.rewards, result.terminated, result.truncated, result.next_obs)
        keep = np.flatnonzero(result.valid)
        if len(keep) < len(obs):
            rows = tuple(column[keep] for column in rows)  # type: ignore[assignment]
        if isinstance(self.buffer, ReplayBuffer):
            self.buffer.push_many(*rows, envs=keep)
        elif hasattr(self.buffer, "push_many"):
            self.buffer.push_many(*rows)
        else:
            for row in zip(*rows, strict=True):
                self.buffer.push(*row)
        self._stored += len(keep)
        return len(keep)

    def _sample(self, seed: int) -> Batch:
        """Return a batch of tensors on the device, observations normalised."""
        if isinstance(self.buffer, ReplayBuffer):
            self._out = arrays = self.buffer.sample(self.config.batch_size, seed, out=self._out)
        else:
            arrays = check_batch(self.buffer.sample(self.config.batch_size, seed), self)
        for key in ("obs", "next_obs"):
            raw = arrays[key]
            seen = raw.astype(np.float32, copy=False) if self.normalizer is None else self.normalizer(raw)
            arrays = {**arrays, key: seen}
        return {k: torch.as_tensor(v).to(self.device) for k, v in arrays.items()}

    def _learn(self, batch: Batch) -> Mapping[str, Any]:
        """Make one update of the learner."""
        if not self.draws_globally:
            return self.learner.update(batch, self.generator)  # type: ignore[no-any-return]
        with ExitStack() as stack:
            stack.enter_context(self._update_stream.use())
            stack.enter_context(training_mode(self.learner.networks()))
            return self.learner.update(batch, self.generator)  # type: ignore[no-any-return]

    def _act(self, obs: Tensor, deterministic: bool, generator: torch.Generator) -> Tensor:
        return self.learner.act(obs, deterministic, generator)  # type: ignore[no-any-return]

    def _value(self, obs: Tensor, actions: Tensor) -> Tensor:
        return self.learner.value(obs, actions)  # type: ignore[no-any-return]

    def _trained(self) -> Iterator[nn.Module]:
        return self.learner.networks()  # type: ignore[no-any-return]

    def _model_state(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "generator": self.generator.get_state(),
            "warm_up": self._warm_up.get_state(),
            "update_stream": self._update_stream.state_dict(),
            "behaviour": self._behaviour.state_dict(),
            "collected": self._collected,
            "owed": self._owed,
        }

    def resume_state(self) -> dict[str, Any]:
        buffer: Any = None if isinstance(self._buffer, ReplayBuffer) or not self.config.save_buffer else self._buffer
        envs = self._envs_state if self._envs is None else self._envs.state_dict()
        if self._envs is not None:
            self._note_exactness(self._envs)
        return {
            **super().resume_state(),
            "envs": envs,
            "actions": self._actions,
            "explorers": [e.state_dict() if hasattr(e, "state_dict") else None for e in self._explorers],
            "buffer": buffer.state_dict() if hasattr(buffer, "state_dict") else None,
            "stored": self._stored if self.config.save_buffer else 0,
        }

    def load_resume_state(self, state: Mapping[str, Any]) -> None:
        super().load_resume_state(state)
        # Empty: of a foreign vector environment, which has none
        self._envs_state, self._actions = state["envs"] or None, state["actions"]
        if self._envs_state is not None:
            read_unfinished(self._envs_state, self.n_envs, self.seed, self.obs_space, self.act_space)
        actions = (self.n_envs,) if self.act_space.discrete else (self.n_envs, self.act_space.dim)
        if self._actions is not None and np.shape(self._actions) != actions:
            raise ValueError(f"actions have shape {np.shape(self._actions)}, must be {actions}")
        explorers: list[Any] = self._explorers
        for explorer, saved in zip(explorers, state["explorers"], strict=True):
            if saved is not None:
                explorer.load_state_dict(saved)
        if state["buffer"] is not None:
            self.buffer.load_state_dict(state["buffer"])
        self._stored = int(state["stored"])

    def _ring(self, make: bool = False) -> ReplayBuffer | None:
        buffer = self.buffer if make else self._buffer
        return buffer if self.config.save_buffer and isinstance(buffer, ReplayBuffer) else None

    def _weights(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {"learner": {**state["learner"], "n_updates": 0}}

    def _load_model_state(self, state: Mapping[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.generator.set_state(state["generator"])
        self._warm_up.set_state(state["warm_up"])
        self._update_stream.load_state_dict(state["update_stream"])
        self._behaviour.load_state_dict(state["behaviour"])
        self._collected, self._owed = int(state["collected"]), int(state["owed"])
        train_freq = self.config.train_freq
        if not (0 <= self._collected < train_freq and 0 <= self._owed < train_freq):
            raise ValueError(f"collected {self._collected} and owed {self._owed}, must be in 0…{train_freq - 1}")

    def manifest(self) -> dict[str, Any]:
        return {**super().manifest(), "n_envs": self.n_envs}

    def _take_env(self, env: Any) -> None:
        """Find the spaces and refuse those that the algorithm cannot act in."""
        if isinstance(env, Recorded):
            self.env_source = env.source
            observation, action = env.observation_space, env.action_space
        else:
            self.env_source = EnvSource.of(env)
            observation, action = self.env_source.spaces()
        check_actions(self.name, action, self.env_source or "the environment", otherwise=("Box",))
        self.obs_space, self.act_space = ObsSpace(observation), ActionSpace(action)

    def _require(self, **parts: tuple[str, ...]) -> None:
        """Say at once which method a part of the user's own lacks."""
        for name, methods in parts.items():
            part = self._buffer if name == "buffer" else getattr(self, name)
            if part is None:
                continue
            missing = [m for m in methods if not callable(getattr(part, m, None))]
            if missing:
                raise ConfigError(f"{name} is a {type(part).__name__} without {', '.join(missing)}", param=name)
            if "parameters" in methods and not isinstance(part, nn.Module):
                raise ConfigError(f"{name} is a {type(part).__name__}, must be an nn.Module", param=name)

    def _check_memory(self) -> None:
        needed, free = self.estimate_nbytes, available_memory()
        if needed > free:
            raise ConfigError(
                f"buffer_size {self.config.buffer_size} needs {human_bytes(needed)}, {human_bytes(free)} are free",
                hint="lower --buffer-size",
                param="--buffer-size",
                value=self.config.buffer_size,
            )

    @classmethod
    def _construct(cls, manifest: Mapping[str, Any], env: Any, device: Any, parts: Mapping[str, Any]) -> Self:
        observation, action = recorded_spaces(manifest)
        if env is not None:
            source: EnvSource | None = EnvSource.of(env)
            assert source is not None
            for what, old, new in zip(("observation", "action"), (observation, action), source.spaces(), strict=True):
                if not same_space(old, new):
                    raise CheckpointMismatchError(
                        f"{source} has {what}s {new}, the checkpoint was trained on {old}", param="--env"
                    )
        else:
            source = recorded_source(manifest)
        n_envs, config = recorded(manifest, "n_envs", int), recorded_config(manifest, cls.config_class)
        known: Any = {"n_envs": max(n_envs, 1), "seed": recorded_seed(manifest), "config": config, "device": device}
        construct: Any = cls
        return construct(Recorded(source, observation, action), **known, **parts)  # type: ignore[no-any-return]


__all__ = ["OffPolicyAlgorithm", "Recorded"]
