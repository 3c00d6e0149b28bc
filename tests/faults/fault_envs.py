"""An environment that does something bad once, where the file named in FAULT is there to say what and when."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import threading
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
from resume_envs import RandomLengths


class Faulty(RandomLengths):
    """RandomLengths until its n-th step; the first environment that comes there removes the file, and then fails."""

    steps = 0

    def step(self, action):
        self.steps += 1
        fault = self._fault()
        if fault is not None:
            _fail(fault)
        obs, reward, *rest = super().step(action)
        if fault == "nan reward":
            reward = float("nan")
        if fault == "nan obs":
            obs["position"][1] = np.nan
        if fault == "wrong shape":
            obs["position"] = np.zeros(3, np.float32)
        return obs, reward, *rest

    def _fault(self) -> str | None:
        path = os.environ.get("FAULT")
        if path is None or not os.path.exists(path):
            return None
        fault = json.loads(Path(path).read_text())
        if self.steps < fault["at"]:
            return None
        try:
            os.unlink(path)
        except FileNotFoundError:
            return None  # another one was first
        return str(fault["kind"])


def _fail(fault: str) -> None:
    kind, *signals = fault.split()
    if kind == "raise":
        raise OSError("the simulator is gone")
    if kind == "hang":
        rlox = os.getpid() if parent_process() is None else os.getppid()
        for name in signals:
            os.kill(rlox, getattr(signal, name))
            threading.Event().wait(0.02)  # signals of one moment come in the order of their numbers
        threading.Event().wait()
    if kind == "die":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)
    if kind == "exit":
        os._exit(3)


class Constant(RandomLengths):
    """The same observation and reward for ever."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._same(), {}

    def step(self, action):
        _, _, terminated, truncated, info = super().step(action)
        return self._same(), 1.0, terminated, truncated, info

    def _same(self):
        return {"position": np.ones(2, np.float32), "mode": 1}
