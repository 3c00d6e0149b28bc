"""Evaluation, logging, video and the terminal change no parameter of a run started from the command line."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from cli_run import run, spawn, spawn_on_terminal

from rlox import checkpoint

TINY = ["train", "sac", "--env", "Pendulum-v1", "--preset", "none", "--steps", 160, "--learning-starts", 100,
        "--batch-size", 16, "--net-arch", "16", "--no-link", "--eval-episodes", 1]  # fmt: skip


def weights(folder):
    """Return every tensor of the final model by name, the networks' and the optimizers'."""
    found = {}

    def walk(value, name):
        if isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{name}/{key}")
        elif hasattr(value, "numpy"):
            found[name] = value.numpy()

    walk(checkpoint.load(Path(folder) / "checkpoints" / "last.pt")[0]["learner"], "")
    return found


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    assert spawn(*TINY, "--eval-freq", 0, "--no-tensorboard", "-q", "--run-dir", folder).code == 0
    return weights(folder)


def test_another_seed_differs(plain, capsys, tmp_path):
    assert run(capsys, *TINY, "--seed", 1, "--run-dir", tmp_path / "run").code == 0
    assert not same(plain, weights(tmp_path / "run"))


def test_a_terminal_with_its_panel_changes_nothing(plain, tmp_path):
    assert spawn_on_terminal(*TINY, "--log-interval", 10, "--run-dir", tmp_path / "run").code == 0
    assert same(plain, weights(tmp_path / "run"))


@pytest.mark.parametrize(
    "more",
    [
        ["--eval-freq", 20, "--eval-episodes", 2, "--stochastic"],
        ["--log-interval", 1, "--save-freq", 30],
        ["--video", 1, "--eval-freq", 50],
    ],
)
def test_evaluation_logging_saving_and_video_change_nothing(plain, capsys, tmp_path, monkeypatch, more):
    class Writer:
        def __init__(self, path, **options):
            self.path = path

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.path.write_text("frames")

        def append_data(self, frame):
            assert frame.ndim == 3

    if "--video" in more:  # the renderer of the environment is another package too: a picture in its place
        from gymnasium.envs.classic_control import PendulumEnv

        monkeypatch.setitem(sys.modules, "imageio", types.SimpleNamespace(get_writer=Writer))
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", types.ModuleType("imageio_ffmpeg"))
        monkeypatch.setattr(PendulumEnv, "render", lambda self: np.zeros((8, 8, 3), np.uint8))
    ran = run(capsys, *TINY, *more, "--run-dir", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert same(plain, weights(tmp_path / "run"))
    assert "--video" not in more or list((tmp_path / "run" / "videos").iterdir())
