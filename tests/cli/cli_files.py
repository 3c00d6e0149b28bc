"""Checkpoints, environments and broken files for the tests of the commands."""

from __future__ import annotations

import io
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "checkpoint"))

from checkpoint_files import Evil, forge, pickled_dict, tensor_opcodes

ENVIRONMENTS = '''
import gymnasium as gym
import numpy as np

class Good(gym.Env):
    """Ten steps; the reward is the action's first dimension, times ``scale``."""
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(np.float32([-1, 0]), np.float32([3, 5]))
    def __init__(self, scale=1.0):
        self.scale = scale
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.obs(), {}
    def obs(self):
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)
    def step(self, action):
        self.t += 1
        return self.obs(), self.scale * float(action[0]), False, self.t == 10, {}

class Endless(Good):
    def step(self, action):
        return self.obs(), 0.0, False, False, {}

class Raises(Good):
    def step(self, action):
        if self.t == 3:
            raise RuntimeError("the arm fell off")
        return super().step(action)

class NotANumber(Good):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, float("nan") if self.t == 4 else reward, *rest

class WrongShape(Good):
    def step(self, action):
        return np.zeros(3, np.float32), *super().step(action)[1:]

class OldStyle(Good):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, info

class Wider(Good):
    observation_space = gym.spaces.Box(-1, 1, (7,), np.float32)

class Text(Good):
    observation_space = gym.spaces.Text(5)

class Unbounded(Good):
    action_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)

not_an_env = 3
'''


def write_environments(folder: Path) -> Path:
    path = folder / "myenvs.py"
    path.write_text(ENVIRONMENTS)
    return path


def write_checkpoint(path: Path, made_in: str = "Pendulum-v1", *, seed: int = 0, **manifest: Any) -> Path:
    """Save an untrained SAC; ``manifest`` replaces what the file says about itself."""
    from rlox import checkpoint
    from rlox.algorithms.sac import SAC
    from rlox.envs import EnvSource

    algo = SAC(EnvSource.of(made_in, typed=True), seed=seed, net_arch=[8], batch_size=8, buffer_size=16)
    checkpoint.save(path, algo.state_dict(), {**algo.manifest(), **manifest})
    return path


def write_nonfinite(path: Path, source: Path) -> Path:
    """Write the checkpoint ``source`` with a NaN in its actor."""
    from rlox import checkpoint

    state, manifest = checkpoint.load(source)

    def spoil(value: Any) -> bool:
        if isinstance(value, dict):
            return any(spoil(v) for v in value.values())
        if getattr(value, "is_floating_point", lambda: False)() and value.numel() > 1:
            value.view(-1)[0] = float("nan")
            return True
        return False

    assert spoil(state["learner"])
    checkpoint.save(path, state, manifest)
    return path


def _zip(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _bytes(data: Callable[[Path, bytes], bytes]) -> Callable[[Path, Path, Path], None]:
    return lambda path, canary, good: path.write_bytes(data(canary, good.read_bytes())) and None


def _forged(pickled: Callable[[Path], bytes], **extra: Any) -> Callable[[Path, Path, Path], None]:
    return lambda path, canary, good: forge(path, pickled(canary), **extra) and None


# name -> how it is written: (path, canary, a sound checkpoint). All of them are exit 4.
BROKEN_CHECKPOINTS: dict[str, Callable[[Path, Path, Path], Any]] = {
    "folder": lambda path, canary, good: path.mkdir(),
    "empty": _bytes(lambda canary, good: b""),
    "text": _bytes(lambda canary, good: b"hello\n" * 50),
    "truncated": _bytes(lambda canary, good: good[: len(good) // 2]),
    "flipped": _bytes(lambda canary, good: good[:3000] + bytes([good[3000] ^ 1]) + good[3001:]),
    "hdf5": _bytes(lambda canary, good: b"\x89HDF\r\n\x1a\n" + bytes(2000)),
    "sb3": _bytes(lambda canary, good: _zip({"data": b"{}", "policy.pth": b"x", "_stable_baselines3_version": b"2.9"})),
    "safetensors": _bytes(lambda canary, good: (2).to_bytes(8, "little") + b"{}" + bytes(100)),
    "pickle": _bytes(lambda canary, good: pickle.dumps(Evil(canary))),
    "pickle0": _bytes(lambda canary, good: pickle.dumps(Evil(canary), 0)),
    "torch zip": _forged(lambda canary: pickle.dumps(Evil(canary), 2)),
    "tar": _bytes(lambda canary, good: _tar({"storages": pickle.dumps(Evil(canary))})),
    "torchscript": _bytes(lambda canary, good: _zip({"a/constants.pkl": b"x", "a/code/x.py": b"import os", "a/data.pkl": b"x"})),
    "bomb": _bytes(lambda canary, good: _zip({"archive/data.pkl": bytes(10**7)}, zipfile.ZIP_DEFLATED)),
    "huge tensor": _forged(lambda canary: pickled_dict(tensor_opcodes(n=4, shape=(10**12,)))),
}  # fmt: skip
