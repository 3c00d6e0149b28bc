import os
import subprocess
import sys
from pathlib import Path

import rlox.callbacks
import rlox.logging

HEAVY = ("torch", "gymnasium", "h5py", "rich", "tensorboard", "wandb", "imageio")


def test_callbacks_and_loggers_import_none_of_the_heavy_packages():
    code = f"import sys, rlox.callbacks, rlox.logging; print([name for name in {HEAVY!r} if name in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_users_import_is_exported():
    assert set(rlox.callbacks.__all__) == {
        "Callback",
        "CallbackList",
        "CheckpointCallback",
        "EarlyStoppingCallback",
        "EvalCallback",
        "PhaseTimer",
        "ProgressBarCallback",
        "TimingCallback",
        "VideoRecordingCallback",
    }
    assert set(rlox.logging.__all__) == {
        "CSVLogger",
        "ConsoleLogger",
        "JSONLLogger",
        "LoggerCallback",
        "LoggerList",
        "TensorBoardLogger",
        "WandbLogger",
        "prefixed",
    }
    for module in (rlox.callbacks, rlox.logging):
        assert all(getattr(module, name).__module__.startswith(module.__name__) for name in module.__all__)
