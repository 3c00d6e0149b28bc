import json
from collections import Counter

import numpy as np
import pytest
import torch

from rlox.algorithms.sac import SAC
from rlox.callbacks import CheckpointCallback, EarlyStoppingCallback, EvalCallback, ProgressBarCallback, TimingCallback
from rlox.logging import ConsoleLogger, CSVLogger, JSONLLogger, TensorBoardLogger

STEPS = 130


def flat(state, name=""):
    """Yield (name, array) of everything numeric in a nested state."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield from flat(value, f"{name}/{key}")
    elif isinstance(state, list | tuple):
        for i, value in enumerate(state):
            yield from flat(value, f"{name}/{i}")
    elif isinstance(state, torch.Tensor | np.ndarray | int | float):
        yield name, np.asarray(state)


def train(callbacks=None, logger=None):
    algo = SAC(
        "Pendulum-v1", seed=1, callbacks=callbacks, logger=logger, learning_starts=60, net_arch=[16], batch_size=16
    )
    algo.train(STEPS)
    return algo


@pytest.fixture(scope="module")
def alone():
    return dict(flat(train().state_dict()))


def test_evaluation_checkpoints_and_loggers_do_not_change_training_by_one_bit(alone, tmp_path):
    timing = TimingCallback()
    evaluation = EvalCallback(
        eval_freq=25, n_eval_episodes=2, best_model_path=tmp_path / "best.pt", verbose=False, deterministic=False
    )
    checkpoints = CheckpointCallback(40, tmp_path, verbose=False, keep_last=2)
    callbacks = [timing, evaluation, checkpoints, EarlyStoppingCallback(100), ProgressBarCallback()]
    loggers = [
        ConsoleLogger(10),
        TensorBoardLogger(tmp_path, 10),
        JSONLLogger(tmp_path / "metrics.jsonl", log_interval=10),
        CSVLogger(tmp_path / "metrics.csv", log_interval=10),
    ]
    watched = dict(flat(train(callbacks, loggers).state_dict()))
    networks = [name for name in alone if "callbacks" not in name]
    assert len(networks) > 20
    for name in networks:
        np.testing.assert_array_equal(watched[name], alone[name], err_msg=name)
    assert [step for step, _ in evaluation.eval_results] == [25, 50, 75, 100, 125, 130]
    assert [path.name for path in checkpoints.saved] == ["step_000000120.pt", "step_000000130.pt"]
    summary = timing.summary()
    assert all(summary[phase]["seconds"] > 0 for phase in ("env", "update", "eval", "log", "save"))
    assert sum(entry["share"] for entry in summary.values()) == pytest.approx(1.0)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()[1:]]
    kinds = Counter(row["kind"] if not row.get("best") else "best" for row in rows)
    assert (kinds["train"], kinds["eval"], kinds["checkpoint"]) == (13, 6, 4) and kinds["best"] >= 1


def test_the_best_model_is_a_checkpoint_that_loads(tmp_path):
    evaluation = EvalCallback(eval_freq=0, n_eval_episodes=1, best_model_path=tmp_path / "best.pt", verbose=False)
    algo = train(evaluation)
    again = SAC.from_checkpoint(tmp_path / "best.pt")
    obs = np.array([1.0, 0.0, 0.5], np.float32)
    np.testing.assert_array_equal(again.predict(obs), algo.predict(obs))
