"""What users import is there, is listed, and costs nothing until it is used."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys

import pytest

PUBLIC = [
    "rlox",
    "rlox.callbacks",
    "rlox.logging",
    "rlox.protocols",
    "rlox.offline",
    "rlox.offline.base",
    "rlox.online",
    "rlox.networks",
    "rlox.config",
    "rlox.buffers",
    "rlox.data",
    "rlox.envs",
    "rlox.checkpoint",
]
PINNED = {
    "rlox": {"SAC", "BC", "CQL", "ReplayBuffer", "OfflineDatasetBuffer", "OfflineAlgorithm", "RloxError", "evaluate"},
    "rlox.callbacks": {
        "Callback", "CallbackList", "EvalCallback", "CheckpointCallback", "TimingCallback", "EarlyStoppingCallback",
        "ProgressBarCallback", "VideoRecordingCallback",
    },
    "rlox.logging": {
        "LoggerCallback", "ConsoleLogger", "TensorBoardLogger", "WandbLogger", "JSONLLogger", "CSVLogger",
    },
    "rlox.protocols": {
        "OnPolicyActor", "StochasticActor", "DeterministicActor", "ExplorationStrategy", "ReplayBufferProtocol",
        "OfflineDataset",
    },
    "rlox.offline.base": {"OfflineAlgorithm", "OfflineDataset"},
    "rlox.networks": {"MLP"},
    "rlox.config": {"SACConfig", "BCConfig", "CQLConfig"},
}  # fmt: skip


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_in_all_can_be_imported(name):
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for exported in module.__all__:
        assert getattr(module, exported) is not None, exported


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_class_and_function_of_a_module_is_in_all(name):
    module = importlib.import_module(name)
    own = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__.startswith(name)
    }
    assert own <= set(module.__all__)


@pytest.mark.parametrize("name", PINNED)
def test_the_pinned_names_are_exported(name):
    assert PINNED[name] <= set(importlib.import_module(name).__all__)


@pytest.mark.parametrize("where", ["rlox.algorithms.sac.SAC", "rlox.algorithms.bc.BC", "rlox.algorithms.cql.CQL"])
def test_algorithms_are_where_their_names_say(where):
    import rlox

    module, _, name = where.rpartition(".")
    assert getattr(importlib.import_module(module), name) is getattr(rlox, name)


def test_importing_rlox_imports_nothing_heavy():
    code = "import sys, json, rlox; print(json.dumps([m for m in ('torch', 'gymnasium', 'h5py', 'numpy') if m in sys.modules]))"
    assert json.loads(run(code)) == []


@pytest.mark.parametrize("module", ["rlox.data", "rlox.buffers", "rlox.envs", "rlox.config", "rlox.errors", "rlox.files"])
def test_light_packages_import_no_torch(module):
    assert run(f"import sys, {module}; print('torch' in sys.modules)").strip() == "False"


def test_attributes_of_rlox_are_imported_when_they_are_used():
    code = "import sys, rlox; assert 'torch' not in sys.modules; print(rlox.SAC.__name__, 'torch' in sys.modules)"
    assert run(code).split() == ["SAC", "True"]


def test_a_name_that_rlox_does_not_have_is_an_attribute_error():
    import rlox

    with pytest.raises(AttributeError, match="nonsense"):
        _ = rlox.nonsense
    assert {"SAC", "evaluate", "__version__"} <= set(dir(rlox))
    assert not {"Any", "TYPE_CHECKING", "import_module", "annotations"} & set(dir(rlox))


def test_the_version_is_that_of_the_package():
    import tomllib
    from pathlib import Path

    import rlox

    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert rlox.__version__ == pyproject["project"]["version"]


def test_protocols_are_checked_by_shape():
    from rlox.protocols import ExplorationStrategy, OfflineDataset, ReplayBufferProtocol

    class Data:
        def sample(self, batch_size, seed): ...

        def __len__(self):
            return 0

    assert isinstance(Data(), OfflineDataset)
    assert not isinstance(Data(), ReplayBufferProtocol | ExplorationStrategy)


def test_the_offline_dataset_protocol_is_one():
    from rlox.offline import base
    from rlox.protocols import OfflineDataset

    assert base.OfflineDataset is OfflineDataset


def test_what_rlox_ships_keeps_its_own_protocols():
    from rlox import OfflineDatasetBuffer, ReplayBuffer
    from rlox.networks import DeterministicTanhActor, SquashedGaussianActor
    from rlox.protocols import DeterministicActor, OfflineDataset, ReplayBufferProtocol, StochasticActor

    assert isinstance(ReplayBuffer(4, 2, 1), ReplayBufferProtocol)
    assert isinstance(OfflineDatasetBuffer([[0.0]] * 4, None, [[0.0]] * 4, [0.0] * 4, [1] * 4), OfflineDataset)
    assert isinstance(SquashedGaussianActor(2, 1, [4]), StochasticActor)
    assert isinstance(DeterministicTanhActor(2, 1, [4]), DeterministicActor)
