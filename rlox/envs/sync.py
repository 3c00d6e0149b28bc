"""Environments in this process, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from numpy.typing import NDArray

from ..errors import EnvError
from .slot import EpisodePlan, Outcome, Slot
from .source import EnvSource, close_quietly
from .spaces import Float32, describe, same_space
from .unfinished import Own, Unfinished
from .vector import SeededVectorEnv
from .watchdog import Hanging


class SyncVectorEnv(SeededVectorEnv):
    """N environments in this process, one after the other."""

    def __init__(self, source: EnvSource, plan: EpisodePlan) -> None:
        super().__init__(source.spaces(), plan)
        self._source = source
        self._slots: list[Slot] = []
        self._lent = False
        try:
            for i in range(self.n_envs):
                env = self._lend() if source.instance is not None and not source.in_use else source.make()
                self._check_spaces(i, env)
                self._slots.append(Slot(env, i, plan, self.obs_space, self.act_space))
        except BaseException:
            self.close()
            raise

    def _lend(self) -> gym.Env[Any, Any]:
        """Use the user's own instance; nobody else may until :meth:`close`, which leaves it open."""
        assert self._source.instance is not None
        self._source.in_use = self._lent = True
        return self._source.instance

    def _check_spaces(self, i: int, env: gym.Env[Any, Any]) -> None:
        pairs = ((env.observation_space, self.observation_space), (env.action_space, self.action_space))
        for own, first in pairs:
            if not same_space(own, first):
                raise EnvError(f"environment {i} has space {describe(own)}, environment 0 has {describe(first)}")

    def _reset_all(self) -> list[Float32]:
        for slot in self._slots:
            slot.episode = self.plan.first
        try:
            return [slot.reset() for slot in self._slots]
        except Hanging as hanging:
            raise hanging.failure() from hanging

    def _step_all(self, actions: NDArray[Any], next_obs: Float32) -> Sequence[Outcome | None]:
        try:
            if self.n_envs == 1:  # the common case, without the cost of three iterators
                return [self._slots[0].step(actions[0], next_obs[0])] if self._playing[0] else [None]
            each = zip(self._slots, actions, next_obs, self._playing, strict=True)
            return [slot.step(action, row) if on else None for slot, action, row, on in each]
        except Hanging as hanging:
            raise hanging.failure() from hanging

    def _own_all(self) -> list[tuple[Own, str | None]]:
        try:
            return [(slot.own(), slot.drew) for slot in self._slots]
        except Hanging as hanging:
            raise hanging.failure() from hanging

    def _restore_all(self, saved: list[Unfinished]) -> list[tuple[Float32, str | None, str | None]]:
        try:
            return [(*slot.restore(one), slot.drew) for slot, one in zip(self._slots, saved, strict=True)]
        except Hanging as hanging:
            raise hanging.failure() from hanging

    def close(self) -> None:
        for slot in self._slots:
            if slot.env is not self._source.instance:
                close_quietly(slot.env)
        self._slots = []
        self._started = False
        if self._lent:
            self._source.in_use = self._lent = False
