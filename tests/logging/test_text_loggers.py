import contextlib
import csv
import json
import math
import warnings

import numpy as np
import pytest

from rlox import __version__
from rlox.errors import ConfigError, WriteError
from rlox.logging import CSVLogger, JSONLLogger, LoggerList, append


def rows(path):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def table(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def warns_of_a_torn_line(torn):
    what = f"ended in the middle of a line, the last {len(torn)} bytes were cut off$"
    return pytest.warns(RuntimeWarning, match=what) if torn else contextlib.nullcontext()


@pytest.mark.parametrize("make", [JSONLLogger, CSVLogger])
def test_constructor_arguments_are_attributes(make, tmp_path):
    logger = make(tmp_path / "m", log_interval=7)
    assert (logger.path, logger.log_interval) == (tmp_path / "m", 7)
    with pytest.raises(ConfigError, match="log_interval is 0"):
        make(tmp_path / "m", log_interval=0)


@pytest.mark.parametrize("make", [JSONLLogger, CSVLogger])
def test_constructing_writes_nothing(make, tmp_path):
    make(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [JSONLLogger, CSVLogger])
def test_the_interval_decides_how_many_rows_there_are(make, tmp_path):
    for interval, n in ((10, 5), (25, 2)):
        loggers = LoggerList(make(tmp_path / f"{interval}", log_interval=interval))
        loggers.open()
        for step in range(1, 51):
            loggers.on_train_step(step, {"critic_loss": 0.5})
        loggers.close()
        assert len((tmp_path / f"{interval}").read_text().splitlines()) == n + 1


def test_every_kind_of_json_line(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    logger = JSONLLogger(path)
    logger.open()
    logger.on_train_step(1000, {"critic_loss": np.float32(0.5), "return_mean": -3.0, "share_env": 0.25})
    logger.on_rollout_end(1024, {"return_mean": 1})
    logger.on_eval(2000, {"return_mean": -1.5, "n_episodes": 5})
    logger.on_event(2000, "checkpoint", {"path": "a/b.pt", "best": True})
    logger.on_event(2001, "warning", {"message": "slow\ndisk"})
    logger.close()
    assert rows(path) == [
        {"schema": "rlox.metrics/1", "rlox": __version__},
        {
            "kind": "train",
            "step": 1000,
            "metrics": {"train/critic_loss": 0.5, "rollout/return_mean": -3.0, "time/share_env": 0.25},
        },
        {"kind": "train", "step": 1024, "metrics": {"rollout/return_mean": 1}},
        {"kind": "eval", "step": 2000, "metrics": {"eval/return_mean": -1.5, "eval/n_episodes": 5}},
        {"kind": "checkpoint", "step": 2000, "path": "a/b.pt", "best": True},
        {"kind": "warning", "step": 2001, "message": "slow\\ndisk"},
    ]


def test_nan_and_infinities_become_null_and_are_listed(tmp_path):
    logger = JSONLLogger(tmp_path / "m")
    logger.on_train_step(1, {"a": math.nan, "b": np.float32(-np.inf), "c": 1.0})
    assert rows(tmp_path / "m")[1] == {
        "kind": "train",
        "step": 1,
        "metrics": {"train/a": None, "train/b": None, "train/c": 1.0},
        "nonfinite": ["/metrics/train~1a", "/metrics/train~1b"],
    }


def test_the_phase_stands_beside_the_metrics_and_texts_are_tolerated(tmp_path):
    logger = JSONLLogger(tmp_path / "m")
    logger.on_train_step(1, {"phase": "online", "note": "é", "odd": [1, 2]})
    expected = {"train/note": "é", "train/odd": "[1, 2]"}
    assert rows(tmp_path / "m")[1] == {"kind": "train", "step": 1, "phase": "online", "metrics": expected}


def test_every_json_line_is_in_the_file_when_the_call_returns(tmp_path):
    logger = JSONLLogger(tmp_path / "m")
    for step in range(5):
        logger.on_train_step(step, {"a": 1.0})
        assert rows(tmp_path / "m")[-1]["step"] == step


@pytest.mark.parametrize("torn", ['{"kind":"tr', "", '{"kind":"train"}x' + "y" * 200_000])
def test_a_file_is_continued_and_a_torn_last_line_is_cut_off(tmp_path, torn):
    path = tmp_path / "m"
    JSONLLogger(path).on_train_step(1, {"a": 1.0})
    with open(path, "a") as file:
        file.write(torn)
    logger = JSONLLogger(path)
    with warns_of_a_torn_line(torn):
        logger.open()
    logger.on_train_step(2, {"a": 2.0})
    assert [row.get("step") for row in rows(path)] == [None, 1, 2]


def test_a_torn_first_line_starts_the_file_again(tmp_path):
    (tmp_path / "m").write_text('{"schema":"rlox.met')
    with warns_of_a_torn_line('{"schema":"rlox.met'):
        JSONLLogger(tmp_path / "m").on_train_step(1, {})
    assert [row.get("schema") for row in rows(tmp_path / "m")] == ["rlox.metrics/1", None]


@pytest.mark.parametrize("make", [JSONLLogger, CSVLogger])
@pytest.mark.parametrize("content", ["my notes, no newline", "{}\n", '{"a":1}'])
def test_a_file_of_somebody_else_is_refused_and_untouched(make, tmp_path, content):
    (tmp_path / "m").write_text(content)
    with pytest.raises(WriteError, match="exists and was not written by this logger"):
        make(tmp_path / "m").open()
    assert (tmp_path / "m").read_text() == content


@pytest.mark.parametrize("make", [JSONLLogger, CSVLogger])
def test_a_path_that_cannot_be_written_is_said_at_open(make, tmp_path):
    with pytest.raises(WriteError, match="cannot write"):
        make(tmp_path).open()
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot write"):
        make(tmp_path / "file" / "m").open()


@pytest.mark.parametrize("make", [JSONLLogger, CSVLogger])
def test_a_full_disk_drops_rows_with_one_warning_a_minute_and_logging_goes_on(
    make, tmp_path, full_disk, monkeypatch, recwarn
):
    now = [0.0]
    monkeypatch.setattr(append, "monotonic", lambda: now[0])
    warnings.simplefilter("always")
    path = tmp_path / "m"
    logger = make(path)
    logger.on_train_step(1, {"a": 1.0})
    full_disk["on"] = True
    for step in range(2, 12):
        now[0] += 10.0
        logger.on_train_step(step, {"a": 1.0})
    full_disk["on"] = False
    logger.on_train_step(12, {"a": 1.0})
    assert len(recwarn) == 2
    assert "metrics dropped, 1 so far" in str(recwarn[0].message) and "No space left" in str(recwarn[0].message)
    assert "metrics dropped, 7 so far" in str(recwarn[1].message)
    steps = [row[1] for row in table(path)[1:]] if make is CSVLogger else [str(row["step"]) for row in rows(path)[1:]]
    assert steps == ["1", "12"]


def test_a_disk_that_is_full_from_the_start_leaves_a_file_that_can_be_continued(tmp_path, full_disk):
    logger = JSONLLogger(tmp_path / "m")
    full_disk["on"] = True
    with pytest.warns(RuntimeWarning, match="metrics dropped"):
        logger.open()
        logger.on_train_step(1, {})
    full_disk["on"] = False
    logger.on_train_step(2, {})
    logger.close()
    logger.on_train_step(3, {})
    assert [row.get("step") for row in rows(tmp_path / "m")] == [None, 2, 3]


def test_a_changed_working_directory_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = JSONLLogger("m")
    logger.open()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    logger.on_train_step(1, {})
    assert len(rows(tmp_path / "m")) == 2


def test_closing_twice_is_harmless_and_logging_again_opens_again(tmp_path):
    logger = JSONLLogger(tmp_path / "m")
    logger.close()
    logger.on_train_step(1, {})
    logger.close()
    logger.close()
    logger.on_train_step(2, {})
    assert len(rows(tmp_path / "m")) == 3


def test_csv_rows_have_kind_step_and_a_column_per_metric(tmp_path):
    logger = CSVLogger(tmp_path / "m.csv")
    logger.on_train_step(10, {"critic_loss": 0.5, "return_mean": -3.25})
    logger.on_train_step(20, {"return_mean": 1, "critic_loss": math.nan})
    assert table(tmp_path / "m.csv") == [
        ["kind", "step", "train/critic_loss", "rollout/return_mean"],
        ["train", "10", "0.5", "-3.25"],
        ["train", "20", "nan", "1"],
    ]


def test_a_new_metric_adds_a_csv_column_at_the_end(tmp_path):
    logger = CSVLogger(tmp_path / "m.csv")
    logger.on_rollout_end(10, {"a": 1.0})
    logger.on_eval(20, {"return_mean": 2.0})
    logger.on_train_step(30, {"a": "x,\ny"})
    assert table(tmp_path / "m.csv") == [
        ["kind", "step", "train/a", "eval/return_mean"],
        ["train", "10", "1.0", ""],
        ["eval", "20", "", "2.0"],
        ["train", "30", "x,\\ny", ""],
    ]


def test_a_csv_file_is_continued_with_its_columns(tmp_path):
    path = tmp_path / "m.csv"
    first = CSVLogger(path)
    first.on_train_step(1, {"a": 1.0, "b": 2.0})
    first.close()
    with open(path, "a") as file:
        file.write("train,2,to")
    second = CSVLogger(path)
    with warns_of_a_torn_line("train,2,to"):
        second.open()
    second.on_train_step(3, {"b": 5.0, "c": 6.0})
    assert table(path) == [
        ["kind", "step", "train/a", "train/b", "train/c"],
        ["train", "1", "1.0", "2.0", ""],
        ["train", "3", "", "5.0", "6.0"],
    ]


def test_a_csv_file_that_cannot_be_widened_drops_the_row(tmp_path, monkeypatch):
    from rlox.logging import text

    logger = CSVLogger(tmp_path / "m.csv")
    logger.on_train_step(1, {"a": 1.0})

    def refuse(path, write):
        raise WriteError("cannot write m.csv: No space left on device")

    monkeypatch.setattr(text, "atomic_write", refuse)
    with pytest.warns(RuntimeWarning, match="metrics dropped, 1 so far.*No space left"):
        logger.on_train_step(2, {"b": 1.0})
    logger.on_train_step(3, {"a": 3.0})
    assert [row[1] for row in table(tmp_path / "m.csv")[1:]] == ["1", "3"]
