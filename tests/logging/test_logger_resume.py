"""Logs of a training that was killed and gone on with are those of one that was never interrupted."""

import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from rlox.errors import MissingDependencyError, WriteError
from rlox.logging import (
    ConsoleLogger,
    CSVLogger,
    JSONLLogger,
    LoggerCallback,
    LoggerList,
    TensorBoardLogger,
    WandbLogger,
    append,
    board,
)
from rlox.logging.read import read_metrics

END = 60
INTERVAL = 3


@pytest.fixture(autouse=True)
def standing_clock(monkeypatch):
    """Wall clock times are in the records of event files."""
    monkeypatch.setattr(board, "time", lambda: 1_700_000_000.25)


def three(folder):
    return [
        JSONLLogger(folder / "metrics.jsonl", log_interval=INTERVAL),
        CSVLogger(folder / "metrics.csv", log_interval=INTERVAL),
        TensorBoardLogger(folder, log_interval=INTERVAL),
    ]


def opened(loggers, state=None):
    """Return a list of new loggers that goes on from a state, as it comes back from a file."""
    found = LoggerList(loggers)
    if state is not None:
        found.load_state_dict(json.loads(json.dumps(state)))
    found.open()
    return found


def log(loggers, first, last):
    """Log the steps of a training whose figures depend on the step alone; some begin late."""
    for step in range(first, last + 1):
        metrics = {"critic_loss": 1 / step, "n_updates": step}
        if step >= 20:
            metrics["ent_coef"] = step / 7
        if step >= 40:
            metrics["return_mean"] = -1.5 * step
        loggers.on_train_step(step, metrics)
        if step % 10 == 5:
            loggers.on_eval(step, {"return_mean": step / 3, "return_std": 0.5})
            loggers.on_event(step, "checkpoint", {"path": f"step_{step}.pt"})
    if last == END:
        loggers.finish(END, metrics)
        loggers.close()


def tear(folder):
    """Leave what a crash in the middle of each record leaves."""
    for path in folder.iterdir():
        with open(path, "ab") as file:
            file.write(b'{"kind":"tr')


def contents(folder):
    """Return the bytes of every file; event files, whose names differ from training to training, by number."""
    return {path.name.replace(path.name.split(".")[-2], "*", path.name.startswith("events")): path.read_bytes()
            for path in sorted(folder.iterdir())}  # fmt: skip


def scalars(folder):
    """Return {tag: [(step, value)]} of all event files of a folder, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def steps_of(folder):
    """Return the steps of the training rows by JSON lines, CSV and TensorBoard."""
    with open(folder / "metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = [row["step"] for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "train"]
    rows = [int(row["step"]) for row in table if row["kind"] == "train"]
    return lines, rows, [step for step, _ in scalars(folder)["train/critic_loss"]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board, "time", lambda: 1_700_000_000.25)
        log(opened(three(folder)), 1, END)
    return folder


@pytest.mark.parametrize(
    ("saved", "killed"), [(1, 1), (1, 45), (6, 7), (14, 19), (19, 26), (25, 59), (44, 50), (59, 60)]
)
def test_logs_of_a_killed_training_equal_those_of_an_uninterrupted_one_byte_for_byte(
    tmp_path, uninterrupted, saved, killed
):
    loggers = opened(three(tmp_path))
    log(loggers, 1, saved)
    state = loggers.state_dict()
    log(loggers, saved + 1, killed)
    del loggers
    again = opened(three(tmp_path), state)
    log(again, saved + 1, END)
    assert contents(tmp_path) == contents(uninterrupted)
    assert scalars(tmp_path) == scalars(uninterrupted)
    expected = sorted({*range(INTERVAL, END + 1, INTERVAL), END})
    assert steps_of(tmp_path) == (expected, expected, expected)


def test_a_training_killed_again_and_again_logs_every_step_once(tmp_path, uninterrupted):
    state, saved = None, 0
    for killed in (4, 9, 9, 22, 23, 41, 58):
        loggers = opened(three(tmp_path), state)
        log(loggers, saved + 1, killed - 1)
        state, saved = loggers.state_dict(), killed - 1
        log(loggers, killed, killed)
    log(opened(three(tmp_path), state), saved + 1, END)
    assert contents(tmp_path) == contents(uninterrupted)


CHILD = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_logger_resume import END, log, opened, three
from rlox.files import atomic_write_text

loggers = opened(three(Path(sys.argv[2])))
for step in range(1, END):
    log(loggers, step, step)
    if step % 4 == 0:
        atomic_write_text(sys.argv[3], json.dumps([step, loggers.state_dict()]))
    print(step, flush=True)
"""


def test_a_process_killed_at_any_time_is_gone_on_from_without_gaps_or_duplicates(tmp_path):
    """The process does not wait for the signal: it hits whatever the process is doing then."""
    folder, saved = tmp_path / "run", tmp_path / "state.json"
    arguments = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder), str(saved)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        while int(child.stdout.readline()) < 23:
            continue
        child.kill()
    step, state = json.loads(saved.read_text())
    assert step >= 20
    log(opened(three(folder), state), step + 1, END)
    expected = list(range(INTERVAL, END + 1, INTERVAL))
    assert steps_of(folder) == (expected, expected, expected)


def test_torn_last_lines_are_cut_with_a_warning_each(tmp_path, uninterrupted):
    loggers = opened(three(tmp_path))
    log(loggers, 1, 30)
    state = loggers.state_dict()
    log(loggers, 31, 38)
    tear(tmp_path)
    with pytest.warns(RuntimeWarning) as caught:
        again = opened(three(tmp_path), state)
    assert [str(warning.message).partition("metrics")[2] for warning in caught] == [
        ".jsonl ended in the middle of a line, the last 11 bytes were cut off",
        ".csv ended in the middle of a line, the last 11 bytes were cut off",
    ]
    log(again, 31, END)
    assert contents(tmp_path) == contents(uninterrupted)


def test_a_record_torn_right_at_the_checkpoint_is_cut(tmp_path, uninterrupted):
    loggers = opened(three(tmp_path))
    log(loggers, 1, 30)
    state = loggers.state_dict()
    tear(tmp_path)
    with pytest.warns(RuntimeWarning, match="ended in the middle of a line"):
        again = opened(three(tmp_path), state)
    log(again, 31, END)
    assert contents(tmp_path) == contents(uninterrupted)


def test_a_state_saved_after_closing_goes_on_where_the_files_were_closed(tmp_path):
    loggers = opened(three(tmp_path))
    log(loggers, 1, 30)
    loggers.close()
    state = loggers.state_dict()
    loggers.open()
    log(loggers, 31, 44)
    loggers.close()
    log(opened(three(tmp_path), state), 31, END)
    expected = list(range(INTERVAL, END + 1, INTERVAL))
    assert steps_of(tmp_path) == (expected, expected, expected)
    assert len(list(tmp_path.glob("events*"))) == 1


def test_a_state_that_was_loaded_and_not_yet_used_is_passed_on(tmp_path, uninterrupted):
    loggers = opened(three(tmp_path))
    log(loggers, 1, 44)
    state = loggers.state_dict()
    log(loggers, 45, 50)
    between = LoggerList(three(tmp_path))
    between.load_state_dict(state)
    assert between.state_dict() == state
    log(opened(three(tmp_path), between.state_dict()), 45, END)
    assert contents(tmp_path) == contents(uninterrupted)


def test_only_the_first_opening_goes_back(tmp_path):
    loggers = opened(three(tmp_path))
    log(loggers, 1, 30)
    again = opened(three(tmp_path), loggers.state_dict())
    log(again, 31, 45)
    again.close()
    again.open()
    log(again, 46, END)
    expected = list(range(INTERVAL, END + 1, INTERVAL))
    assert steps_of(tmp_path) == (expected, expected, expected)


def test_a_later_opening_keeps_what_another_logger_added_in_between(tmp_path):
    loggers = opened(three(tmp_path)[:2])
    log(loggers, 1, 30)
    again = opened(three(tmp_path)[:2], loggers.state_dict())
    again.close()
    log(opened(three(tmp_path)[:2]), 31, 39)
    added = contents(tmp_path)
    again.open()
    assert contents(tmp_path) == added


def test_loggers_that_never_opened_have_no_state_and_continue_a_file(tmp_path):
    loggers = LoggerList(three(tmp_path))
    state = loggers.state_dict()
    assert [entry["state"] for entry in state["loggers"]] == [{}, {}, {}]
    log(opened(three(tmp_path)[:2]), 1, 8)
    log(opened(three(tmp_path), state), 9, END)
    expected = list(range(INTERVAL, END + 1, INTERVAL))
    assert steps_of(tmp_path) == (expected, expected, expected[2:])


def test_missing_files_are_said_once_each_and_begun_again(tmp_path):
    loggers = opened(three(tmp_path))
    log(loggers, 1, 30)
    state = loggers.state_dict()
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.warns(RuntimeWarning) as caught:
        again = opened(three(tmp_path), state)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 3
    assert "metrics.jsonl has 0 of the" in messages[0] and "that were logged before" in messages[0]
    assert "metrics.csv has 0 of the" in messages[1]
    assert "is not there as it was logged before: a new event file goes on" in messages[2]
    log(again, 31, END)
    expected = list(range(33, END + 1, INTERVAL))
    assert steps_of(tmp_path) == (expected, expected, expected)


def test_files_that_are_shorter_than_recorded_are_said_once_each_and_continued(tmp_path):
    loggers = opened(three(tmp_path))
    log(loggers, 1, 30)
    state = loggers.state_dict()
    for path in tmp_path.iterdir():
        os.truncate(path, path.stat().st_size - 5)
    with pytest.warns(RuntimeWarning) as caught:
        again = opened(three(tmp_path), state)
    assert len(caught) == 3
    log(again, 31, END)
    expected = [step for step in range(INTERVAL, END + 1, INTERVAL) if step != 30]  # 30 was cut into
    assert steps_of(tmp_path) == (expected, expected, expected)


def test_files_of_another_training_keep_their_lines(tmp_path):
    """The names are those of the state, what they hold is not."""
    loggers = opened(three(tmp_path))
    log(loggers, 1, 30)
    state = loggers.state_dict()
    [events] = tmp_path.glob("events*")
    for path in tmp_path.iterdir():
        path.unlink()
    other = opened(three(tmp_path)[:2])
    for step in range(1, 400):
        other.on_train_step(step, {"other_loss": 1.0})
    other.close()
    shutil.copy(tmp_path / "metrics.csv", events)
    before = contents(tmp_path)
    with pytest.warns(RuntimeWarning) as caught:
        opened(three(tmp_path), state).close()
    said = [str(warning.message).rpartition("metrics")[2] for warning in caught]
    assert [".jsonl does not hold the lines" in said[0], ".csv does not hold the lines" in said[1]] == [True, True]
    assert len(said) == 3 and "is not there as it was logged before" in said[2]
    after = contents(tmp_path)
    assert before.items() <= after.items() and len(after) == len(before) + 1


def test_a_column_that_came_after_the_checkpoint_is_taken_back(tmp_path):
    path = tmp_path / "metrics.csv"
    loggers = opened([CSVLogger(path, log_interval=1)])
    loggers.on_train_step(1, {"a": 1.0})
    state, then = loggers.state_dict(), path.read_bytes()
    loggers.on_train_step(2, {"a": 2.0, "late": 5.0})
    again = opened([CSVLogger(path, log_interval=1)], state)
    assert path.read_bytes() == then
    again.on_train_step(2, {"a": 2.0})
    assert path.read_text() == "kind,step,train/a\ntrain,1,1.0\ntrain,2,2.0\n"


def test_later_event_files_of_the_same_training_are_removed_and_others_are_left(tmp_path):
    other = opened([TensorBoardLogger(tmp_path)])
    other.on_eval(1, {"x": 1.0})
    other.close()
    theirs = set(tmp_path.iterdir())
    foreign = tmp_path / "events.out.tfevents.9999999999.host.1.0"
    foreign.write_bytes(b"")
    loggers = opened([TensorBoardLogger(tmp_path)])
    loggers.on_eval(1, {"y": 1.0})
    state = loggers.state_dict()
    [mine] = set(tmp_path.iterdir()) - theirs - {foreign}
    for step in (2, 3):
        loggers.close()
        loggers.open()
        loggers.on_eval(step, {"y": 1.0})
    assert len(list(tmp_path.iterdir())) == 5
    opened([TensorBoardLogger(tmp_path)], state).close()
    assert set(tmp_path.iterdir()) == {*theirs, foreign, mine}


def test_a_later_event_file_that_cannot_be_removed_is_said_at_open(tmp_path, monkeypatch):
    loggers = opened([TensorBoardLogger(tmp_path)])
    state = loggers.state_dict()
    loggers.close()
    loggers.open()

    def refuse(path, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(board.Path, "unlink", refuse)
    with pytest.raises(WriteError, match=r"events.*001: Permission denied"):
        opened([TensorBoardLogger(tmp_path)], state)


def test_a_clock_that_was_set_back_does_not_change_the_order_of_event_files(tmp_path, monkeypatch):
    now = iter([1_700_000_000, 1_700_000_000, 1_600_000_000, 1_600_000_000, 1_600_000_000, 1_600_000_000])
    monkeypatch.setattr(board, "time", lambda: next(now))
    logger = TensorBoardLogger(tmp_path)
    logger.open()
    logger.close()
    logger.open()
    logger.on_eval(1, {"a": 1.0})
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert [name.rpartition(".")[2] for name in names] == ["000", "001"]
    assert (tmp_path / names[1]).stat().st_size > (tmp_path / names[0]).stat().st_size


def test_what_was_void_before_a_lost_event_file_is_void_for_readers(tmp_path):
    """Only the newest event file is lost; an older one of the folder has steps that will be logged again."""
    older = opened([TensorBoardLogger(tmp_path)])
    for step in (1, 2, 3, 4):
        older.on_eval(step, {"a": float(step)})
    older.close()
    loggers = opened([TensorBoardLogger(tmp_path)])
    loggers.on_eval(2, {"a": 20.0})
    state = loggers.state_dict()
    loggers.close()
    [lost] = [path for path in tmp_path.iterdir() if path.name == state["loggers"][0]["state"]["file"]]
    lost.unlink()
    with pytest.warns(RuntimeWarning, match="a new event file goes on"):
        again = opened([TensorBoardLogger(tmp_path)], state)
    again._each(lambda logger: logger.close())
    # readers take files in the order of their names, and those of one second by a random part of it
    files = sorted(tmp_path.iterdir(), key=lambda path: lost.name.split(".")[4] in path.name)
    for i, path in enumerate(files):
        path.rename(tmp_path / f"events.out.tfevents.170000000{i}.x")
    assert scalars(tmp_path)["eval/a"] == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "metrics.jsonl", "events.out.tfevents.1700000000.00000000.000/..", ""]
)
def test_a_state_cannot_name_a_file_that_is_no_event_file(tmp_path, name):
    state = {"file": name, "step": 1, "size": 0, "tail": ""}
    with pytest.raises(ValueError, match="is not the name of an event file"):
        TensorBoardLogger(tmp_path).load_state_dict(state)


def test_an_event_file_that_became_a_link_is_not_written_through(tmp_path):
    folder = tmp_path / "run"
    loggers = opened([TensorBoardLogger(folder)])
    loggers.on_eval(1, {"a": 1.0})
    state = loggers.state_dict()
    [path] = folder.iterdir()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    with pytest.warns(RuntimeWarning, match="a new event file goes on"):
        opened([TensorBoardLogger(folder)], state).on_eval(2, {"a": 2.0})
    assert (tmp_path / "elsewhere").read_bytes() == before


@pytest.mark.parametrize(
    "bad", [{"size": -1, "tail": ""}, {"size": "1", "tail": ""}, {"size": 1, "tail": 2}, {"size": 1}]
)
def test_a_state_that_is_none_switches_the_logger_off_before_it_cuts_anything(tmp_path, bad):
    path = tmp_path / "metrics.jsonl"
    JSONLLogger(path).on_train_step(1, {})
    before = path.read_bytes()
    loggers = LoggerList(JSONLLogger(path))
    entry = {"type": "JSONLLogger", "row": 1, "state": bad}
    with pytest.warns(RuntimeWarning, match="JSONLLogger is switched off, it raised"):
        loggers.load_state_dict({"train": 1, "rollout": 1, "loggers": [entry]})
    loggers.open()
    loggers.close()
    assert loggers.active == [] and path.read_bytes() == before


def test_what_a_state_counts_on_is_on_the_disk_before_the_state_is_handed_out(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def note(fd):
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    loggers = opened(three(tmp_path))
    log(loggers, 1, 30)
    monkeypatch.setattr(os, "fsync", note)
    loggers.state_dict()
    assert {*map(str, tmp_path.iterdir()), str(tmp_path)} == set(synced)


def test_a_sync_that_fails_warns_and_the_log_goes_on(tmp_path, monkeypatch):
    loggers = opened(three(tmp_path))
    log(loggers, 1, 29)

    def fail(fd):
        raise OSError(errno.EIO, "Input/output error")

    with (
        monkeypatch.context() as patch,
        pytest.warns(RuntimeWarning, match="metrics may be lost.*Input/output") as caught,
    ):
        patch.setattr(os, "fsync", fail)
        state = loggers.state_dict()
    assert len(caught) == 1 and [entry["state"] != {} for entry in state["loggers"]] == [True] * 3
    log(loggers, 30, END)
    expected = list(range(INTERVAL, END + 1, INTERVAL))
    assert steps_of(tmp_path) == (expected, expected, expected)


def test_a_full_disk_costs_all_loggers_their_rows_with_one_warning_a_minute_together(tmp_path, full_disk, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(append, "monotonic", lambda: now[0])
    loggers = opened(three(tmp_path))
    log(loggers, 1, 23)
    full_disk["on"] = True
    with pytest.warns(RuntimeWarning) as caught:
        for step in range(24, 39):
            now[0] += 10.0
            log(loggers, step, step)
    full_disk["on"] = False
    assert ["metrics dropped" in str(w.message) and "No space left" in str(w.message) for w in caught] == [True] * 3
    log(loggers, 39, END)
    expected = [step for step in range(INTERVAL, END + 1, INTERVAL) if not 24 <= step < 39]
    assert steps_of(tmp_path) == (expected, expected, expected)


def test_a_checkpoint_on_a_full_disk_is_gone_on_from_once_there_is_space(tmp_path, full_disk, uninterrupted):
    loggers = opened(three(tmp_path))
    log(loggers, 1, 30)
    state = loggers.state_dict()
    full_disk["on"] = True
    with pytest.warns(RuntimeWarning, match="metrics dropped"):
        log(loggers, 31, 38)
    full_disk["on"] = False
    log(opened(three(tmp_path), state), 31, END)
    assert contents(tmp_path) == contents(uninterrupted)


def test_files_that_began_on_a_full_disk_are_gone_on_from_their_beginning(tmp_path, full_disk, uninterrupted):
    full_disk["on"] = True
    with pytest.warns(RuntimeWarning, match="metrics dropped"):
        loggers = opened(three(tmp_path))
        state = loggers.state_dict()
    full_disk["on"] = False
    log(loggers, 1, 20)
    log(opened(three(tmp_path), state), 1, END)
    assert contents(tmp_path) == contents(uninterrupted)


def test_an_events_folder_deleted_in_mid_run_is_gone_on_from_at_the_new_file(tmp_path):
    folder = tmp_path / "events"
    loggers = opened([TensorBoardLogger(folder, log_interval=1)])
    loggers.on_train_step(1, {"a": 1.0})
    before = loggers.state_dict()
    shutil.rmtree(folder)
    with pytest.warns(RuntimeWarning, match="is gone, a new one is made"):
        loggers.on_train_step(2, {"a": 2.0})
    after = loggers.state_dict()
    loggers.on_train_step(3, {"a": 3.0})
    again = opened([TensorBoardLogger(folder, log_interval=1)], after)
    again.on_train_step(3, {"a": 3.5})
    again.close()
    assert scalars(folder)["train/a"] == [(2, 2.0), (3, 3.5)]
    with pytest.warns(RuntimeWarning, match="a new event file goes on"):
        older = opened([TensorBoardLogger(folder, log_interval=1)], before)
    older.on_train_step(2, {"a": 9.0})
    assert scalars(folder)["train/a"] == [(2, 9.0)]


class Keeps(LoggerCallback):
    """Keeps the rows that it had, and says where it stands with them."""

    wants_rollouts = False

    def __init__(self, log_interval=10):
        self.log_interval = log_interval
        self.rows = []

    def on_train_step(self, step, metrics):
        self.rows.append(step)

    def state_dict(self):
        return {"rows": list(self.rows)}

    def load_state_dict(self, state):
        self.rows = list(state["rows"])


class Other(Keeps):
    """Another class with the same state."""


def test_each_state_goes_to_the_logger_of_the_same_class_and_rank():
    first, second, third = Keeps(10), Other(20), Keeps(25)
    loggers = LoggerList([first, second, third])
    for step in range(1, 51):
        loggers.on_train_step(step, {})
    state = loggers.state_dict()
    a, b, c, d = Other(), Keeps(), Keeps(), Keeps()
    LoggerList([a, b, c, d]).load_state_dict(state)
    assert (a.rows, b.rows, c.rows, d.rows) == (second.rows, first.rows, third.rows, [])
    alone = Keeps()
    LoggerList([alone]).load_state_dict(state)  # two states have no taker
    assert alone.rows == first.rows


def test_the_last_row_is_not_given_again_after_a_resume():
    loggers = LoggerList([Keeps(10), Keeps(25)])
    for step in range(1, 31):
        loggers.on_train_step(step, {})
    a, b = Keeps(10), Keeps(25)
    again = LoggerList([a, b])
    again.load_state_dict(loggers.state_dict())
    again.finish(30, {})
    assert (a.rows, b.rows) == ([10, 20, 30], [25, 30])


def test_the_same_logger_twice_has_two_intervals():
    both = Keeps(10)
    loggers = LoggerList([both, both])
    for step in range(1, 11):
        loggers.on_train_step(step, {})
    assert both.rows == [10, 10]


HOOKS = ["open", "set_total", "on_train_step", "on_rollout_end", "on_eval", "on_event", "flush", "close", "state_dict"]


def raising(hook):
    """Return a logger that raises in one hook, and counts how often."""

    class Raises(LoggerCallback):
        log_interval = 1
        n = 0

    def fail(self, *arguments, **more):
        type(self).n += 1
        raise OSError("no space left")

    setattr(Raises, hook, fail)
    return Raises()


@pytest.mark.parametrize("hook", HOOKS)
def test_a_logger_that_raises_changes_neither_training_nor_checkpoint_nor_the_other_logs(tmp_path, hook):
    """What is saved with it is what is saved without it, and goes on as that does."""
    import torch

    from rlox.algorithms.sac import SAC

    def train(folder, *more):
        given = [JSONLLogger(folder / "metrics.jsonl", log_interval=20), *more]
        algo = SAC("Pendulum-v1", logger=given, net_arch=[8], learning_starts=30, batch_size=16, buffer_size=200)
        algo.train(50)
        algo.loggers.on_eval(50, {"return_mean": 1.0})
        algo.loggers.on_event(50, "warning", {"message": "x"})
        algo.save(folder / "model.pt", resume=True)
        again = SAC.from_checkpoint(folder / "model.pt", logger=given[:1])
        again.train(20)
        return algo, again

    plain = train(tmp_path / "plain")
    bad = raising(hook)
    with pytest.warns(RuntimeWarning, match=r"Raises is switched off, it raised OSError: no space left") as caught:
        found = train(tmp_path / "bad", bad)
    assert len(caught) == 1 and type(bad).n == 1 + (hook == "close")  # it is closed when it is switched off
    assert found[0].loggers.active == [found[0].loggers.loggers[0]]
    for one, two in zip(plain, found, strict=True):
        for x, y in zip(leaves(one.state_dict()), leaves(two.state_dict()), strict=True):
            assert torch.equal(torch.as_tensor(x), torch.as_tensor(y))
    rows = [list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("plain", "bad")]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] == [20, 40, 50, 50, 50, 60, 70]


def leaves(state):
    if isinstance(state, dict):
        return [leaf for key in sorted(state, key=str) for leaf in leaves(state[key])]
    if isinstance(state, list | tuple):
        return [leaf for item in state for leaf in leaves(item)]
    return [] if state is None or isinstance(state, str) else [state]


def test_a_logger_that_raises_when_it_is_given_its_state_is_switched_off_and_the_others_go_on():
    class Raises(Keeps):
        def load_state_dict(self, state):
            raise KeyError("rows")

    loggers = LoggerList([Raises(), Other()])
    for step in range(1, 11):
        loggers.on_train_step(step, {})
    good = Other()
    again = LoggerList([Raises(), good])
    with pytest.warns(RuntimeWarning, match="Raises is switched off, it raised KeyError"):
        again.load_state_dict(loggers.state_dict())
    assert again.active == [good] and good.rows == [10]


@pytest.mark.parametrize("state", [{"a": {1, 2}}, {"a": object()}, {1.5: 2}, None, 7])
def test_a_state_that_cannot_be_kept_does_not_cost_the_checkpoint(state):
    class Odd(Keeps):
        def state_dict(self):
            return state

    loggers = LoggerList([Odd(), Other()])
    with pytest.warns(RuntimeWarning, match="Odd is switched off, it raised"):
        found = loggers.state_dict()
    assert [entry["state"] for entry in found["loggers"]] == [{}, {"rows": []}]


class FakeRun:
    """A W&B run that refuses when it is told to."""

    def __init__(self, name):
        self.id, self.logged, self.refuses = name, [], False

    def log(self, values, step):
        if self.refuses:
            raise ConnectionError("502 Bad Gateway")
        self.logged.append(step)

    def finish(self):
        self.logged.append("finished")


@pytest.fixture
def wandb(monkeypatch):
    module = types.ModuleType("wandb")
    module.inits, module.runs, module.refuses = [], [], False

    def init(**arguments):
        if module.refuses:
            raise ConnectionError("api.wandb.ai cannot be reached")
        module.inits.append(arguments)
        module.runs.append(FakeRun(arguments.get("id", f"run{len(module.runs)}")))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_wandb_run_is_gone_on_with_under_its_id(wandb):
    logger = WandbLogger("mine")
    assert logger.state_dict() == {}
    loggers = opened([logger])
    opened([WandbLogger("mine")], loggers.state_dict()).on_eval(5, {"return_mean": 1.0})
    assert wandb.inits == [{"project": "mine"}, {"project": "mine", "id": "run0", "resume": "allow"}]
    assert wandb.runs[1].logged == [5]


def test_wandb_that_fails_at_the_start_is_exit_code_8_also_when_gone_on_with(wandb, tmp_path):
    state = opened([WandbLogger()]).state_dict()
    wandb.refuses = True
    for known in (None, state):
        with pytest.raises(
            MissingDependencyError, match=r"cannot start a run: api\.wandb\.ai cannot be reached"
        ) as caught:
            opened([JSONLLogger(tmp_path / "m"), WandbLogger()], known)
        assert caught.value.exit_code == 8


def test_wandb_that_fails_in_mid_run_is_a_warning_and_training_goes_on(wandb, tmp_path):
    from rlox.algorithms.sac import SAC

    class Breaks(Keeps):
        def on_train_step(self, step, metrics):
            super().on_train_step(step, metrics)
            wandb.runs[0].refuses = step >= 20

    good = Breaks(10)
    sac = SAC(
        "Pendulum-v1", logger=[good, WandbLogger(log_interval=10)], net_arch=[8], learning_starts=30, batch_size=16
    )
    with pytest.warns(RuntimeWarning, match="WandbLogger is switched off, it raised ConnectionError: 502") as caught:
        assert sac.train(50)["reason"] == "finished"
    assert len(caught) == 1 and good.rows == [10, 20, 30, 40, 50]
    assert wandb.runs[0].logged == [10, "finished"]


def console():
    return Console(file=io.StringIO(), width=80)


def test_the_console_shows_the_evaluations_of_the_training_that_is_gone_on_with():
    first = ConsoleLogger(console=console())
    assert first.state_dict() == {}
    first.on_train_step(1000, {"return_mean": -5.0, "time_elapsed_s": 90.0, "n_episodes": 3})
    first.on_eval(1000, {"return_mean": 7.0, "return_std": 1.0})
    first.on_eval(2000, {"return_mean": 4.0, "return_std": 2.0})
    second = ConsoleLogger(console=console())
    opened([second], LoggerList([first]).state_dict())
    assert second.state_dict() == first.state_dict()
    second.on_eval(3000, {"return_mean": 6.0})
    assert second.console.file.getvalue() == "step=3000 eval_return=6 best=7\n"


def test_the_panel_shows_the_past_before_anything_new_is_logged():
    from rlox.logging.panel import render

    first = ConsoleLogger(console=console())
    for step, value in ((1000, -5.0), (2000, -3.0)):
        first.on_train_step(step, {"return_mean": value, "time_elapsed_s": step / 10, "n_episodes": 3})
    first.on_eval(2000, {"return_mean": 7.0, "return_std": 1.0})
    second = ConsoleLogger(console=console())
    second.load_state_dict(first.state_dict())
    second.open()
    second.set_total(4000)
    out = console()
    out.print(render(second._shot, 80, ascii_only=True, color=False))
    shown = out.file.getvalue()
    assert "2,000 / 4,000" in shown and "3m20s elapsed" in shown
    assert "7 +- 1  at 2,000  best 7" in shown and "-3        _#  3 episodes" in shown


def test_elapsed_time_of_its_own_goes_on_where_it_was(monkeypatch):
    from rlox.logging import console as module

    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    first = ConsoleLogger(console=console())
    for step in (1000, 2000):
        first.on_train_step(step, {})
        now[0] += 30.0
    second = ConsoleLogger(console=console())
    second.load_state_dict(first.state_dict())
    for step in (3000, 4000):
        second.on_train_step(step, {})
        now[0] += 7.0
    assert second.state_dict()["elapsed_s"] == 37.0
