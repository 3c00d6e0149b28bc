import errno
import math
import os
import shutil
import sys

import numpy as np
import pytest

from rlox.errors import ConfigError, MissingDependencyError
from rlox.logging import LoggerList, TensorBoardLogger


class Run:
    def __init__(self, path):
        self.path = path


def scalars(folder):
    """Return {tag: [(step, value)]} of all event files of a folder, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_constructor_arguments_are_attributes():
    logger = TensorBoardLogger("here", 7)
    assert (logger.log_dir, logger.log_interval) == ("here", 7)
    with pytest.raises(ConfigError, match="log_interval is 0"):
        TensorBoardLogger(log_interval=0)


def test_scalars_are_readable_at_once_under_their_outside_names(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.open()
    logger.on_train_step(10, {"critic_loss": np.float32(0.5), "return_mean": -3.0, "steps_per_second": 100})
    assert scalars(tmp_path) == {
        "train/critic_loss": [(10, 0.5)],
        "rollout/return_mean": [(10, -3.0)],
        "time/steps_per_second": [(10, 100.0)],
    }
    logger.on_eval(20, {"return_mean": 1.0})
    logger.on_rollout_end(30, {"return_mean": 2.0})
    assert scalars(tmp_path)["eval/return_mean"] == [(20, 1.0)]
    assert scalars(tmp_path)["rollout/return_mean"] == [(10, -3.0), (30, 2.0)]
    logger.close()


def test_the_interval_decides_how_many_points_there_are(tmp_path):
    loggers = LoggerList(TensorBoardLogger(tmp_path, log_interval=20))
    for step in range(1, 101):
        loggers.on_train_step(step, {"a": 1.0})
    loggers.close()
    assert [step for step, _ in scalars(tmp_path)["train/a"]] == [20, 40, 60, 80, 100]


def test_texts_are_left_out_and_nan_is_kept(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.on_train_step(1, {"phase": "online"})
    assert list(tmp_path.iterdir()) == []
    logger.on_train_step(2, {"phase": "online", "a": math.nan})
    logger.close()
    [(step, value)] = scalars(tmp_path)["train/a"]
    assert step == 2 and math.isnan(value)


def test_the_folder_of_the_run_replaces_the_default_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "run")
    default, chosen, outside = TensorBoardLogger(), TensorBoardLogger("mine"), TensorBoardLogger()
    for logger, given in ((default, run), (chosen, run), (outside, None)):
        logger.open(given)
        logger.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "run", "runs"]


def test_a_second_training_adds_to_the_same_folder(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    for step in (1, 2):
        logger.open()
        logger.on_train_step(step, {"a": 1.0})
        logger.flush()
        logger.close()
    logger.close()
    # Files of one second are read in the order of their names, which hold random letters.
    assert sorted(scalars(tmp_path)["train/a"]) == [(1, 1.0), (2, 1.0)]


def test_a_folder_deleted_in_mid_run_is_made_again_with_a_warning(tmp_path):
    folder = tmp_path / "events"
    logger = TensorBoardLogger(folder)
    logger.on_train_step(1, {"a": 1.0})
    shutil.rmtree(folder)
    with pytest.warns(RuntimeWarning, match="is gone, a new one is made"):
        logger.on_train_step(2, {"a": 2.0})
    logger.on_train_step(3, {"a": 3.0})
    logger.close()
    assert scalars(folder)["train/a"] == [(2, 2.0), (3, 3.0)]


def test_a_folder_that_cannot_be_made_again_switches_the_logger_off(tmp_path):
    folder = tmp_path / "events"
    loggers = LoggerList(TensorBoardLogger(folder, log_interval=1))
    loggers.on_train_step(1, {"a": 1.0})
    shutil.rmtree(folder)
    folder.write_text("in the way")
    with pytest.warns(RuntimeWarning) as caught:
        loggers.on_train_step(2, {"a": 2.0})
    assert "is switched off, it raised WriteError" in str(caught[-1].message)
    loggers.on_train_step(3, {"a": 3.0})
    assert loggers.active == []


def test_a_full_disk_drops_a_record_whole(tmp_path, monkeypatch):
    logger = TensorBoardLogger(tmp_path)
    logger.on_train_step(1, {"a": 1.0})
    write = os.write

    def half(fd, data):
        write(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.warns(RuntimeWarning, match="metrics dropped.*No space left"):
        logger.on_train_step(2, {"a": 2.0})
    monkeypatch.setattr(os, "write", write)
    logger.on_train_step(3, {"a": 3.0})
    logger.close()
    assert scalars(tmp_path)["train/a"] == [(1, 1.0), (3, 3.0)]


def test_a_missing_package_is_said_at_open(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingDependencyError, match="needs the package tensorboard"):
        TensorBoardLogger(tmp_path).open()
