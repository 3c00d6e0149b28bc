import sys
import types

import pytest

from rlox.errors import ConfigError, MissingDependencyError
from rlox.logging import LoggerList, WandbLogger


class FakeRun:
    id = "abc123"

    def __init__(self):
        self.logged, self.finished = [], False

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    module = types.ModuleType("wandb")
    module.inits, module.runs = [], []

    def init(**kwargs):
        module.inits.append(kwargs)
        module.runs.append(FakeRun())
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


class Run:
    def __init__(self, path):
        self.path = path


def test_constructor_arguments_are_attributes(wandb):
    logger = WandbLogger("mine", 7, entity="team", tags=["a"])
    assert (logger.project, logger.log_interval) == ("mine", 7)
    assert logger.init_kwargs == {"entity": "team", "tags": ["a"]}
    assert wandb.inits == []
    with pytest.raises(ConfigError, match="log_interval is 0"):
        WandbLogger(log_interval=0)


@pytest.mark.parametrize("module", [None, types.ModuleType("wandb")])
def test_a_missing_package_is_said_at_construction(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "wandb", module)  # None: no package; empty: the folder of an offline run
    with pytest.raises(MissingDependencyError, match="wandb, which is not installed") as caught:
        WandbLogger()
    assert caught.value.hint == "`pip install 'rlox[wandb]'`" and "pip" not in caught.value.message


def test_the_run_opens_in_open_with_all_arguments(wandb):
    logger = WandbLogger("mine", entity="team")
    logger.open()
    logger.open()
    assert wandb.inits == [{"project": "mine", "entity": "team"}]


def test_inside_a_run_directory_name_folder_and_config_have_defaults(wandb, tmp_path):
    (tmp_path / "config.toml").write_text("gamma = 0.98\n")
    WandbLogger().open(Run(tmp_path))
    WandbLogger(name="mine").open(Run(tmp_path))
    expected = {"project": "rlox", "dir": str(tmp_path), "name": tmp_path.name, "config": {"gamma": 0.98}}
    assert wandb.inits == [expected, {**expected, "name": "mine"}]


def test_metrics_go_out_under_their_outside_names(wandb):
    logger = WandbLogger()
    logger.on_train_step(10, {"critic_loss": 0.5, "phase": "online"})
    logger.on_rollout_end(11, {"return_mean": 1.0})
    logger.on_eval(12, {"return_mean": 2.0})
    assert wandb.runs[0].logged == [
        (10, {"train/critic_loss": 0.5, "train/phase": "online"}),
        (11, {"rollout/return_mean": 1.0}),
        (12, {"eval/return_mean": 2.0}),
    ]


def test_closing_finishes_the_run_and_opening_again_goes_on_with_it(wandb):
    logger = WandbLogger()
    logger.open()
    logger.close()
    logger.close()
    logger.open()
    assert wandb.runs[0].finished
    assert wandb.inits[1] == {"project": "rlox", "id": "abc123", "resume": "allow"}


def test_a_run_that_cannot_start_is_said_before_training(wandb):
    def init(**kwargs):
        raise ConnectionError("no network")

    wandb.init = init
    with pytest.raises(MissingDependencyError, match="cannot start a run: no network"):
        LoggerList(WandbLogger()).open()


def test_an_error_in_mid_run_switches_it_off_with_a_warning(wandb):
    loggers = LoggerList(WandbLogger(log_interval=1))
    loggers.open()

    def log(values, step):
        raise RuntimeError("quota")

    wandb.runs[0].log = log
    with pytest.warns(RuntimeWarning, match="WandbLogger is switched off, it raised RuntimeError: quota"):
        loggers.on_train_step(1, {"a": 1.0})
    loggers.on_train_step(2, {"a": 1.0})
    assert wandb.runs[0].finished and loggers.active == []
