import os

import pytest
from fake_algorithm import Events, FakeAlgorithm, Run

from rlox.callbacks import CheckpointCallback
from rlox.errors import ConfigError, WriteError
from rlox.logging import ConsoleLogger


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def quiet(folder, **kwargs):
    return CheckpointCallback(**{"save_path": folder, "verbose": False, "save_freq": 10, **kwargs})


def test_constructor_arguments_are_attributes():
    callback = CheckpointCallback(5, "here", False, keep_last=3)
    assert (callback.save_freq, callback.save_path, callback.verbose, callback.keep_last) == (5, "here", False, 3)
    assert callback.saved == []


def test_files_are_written_when_the_period_is_crossed_and_at_the_end(tmp_path):
    callback = quiet(tmp_path / "a" / "b")
    FakeAlgorithm(callback).train(25, stride=4)
    assert names(tmp_path / "a" / "b") == ["last.pt", "step_000000012.pt", "step_000000020.pt", "step_000000028.pt"]
    assert [path.name for path in callback.saved] == ["step_000000012.pt", "step_000000020.pt", "step_000000028.pt"]
    assert callback.saved[0].read_text() == "model at 12"


def test_a_last_step_that_was_saved_is_not_saved_again(tmp_path):
    algo = FakeAlgorithm(quiet(tmp_path))
    algo.train(20)
    assert len(algo.saves) == 2


def test_a_frequency_of_zero_saves_only_at_the_end(tmp_path):
    FakeAlgorithm(quiet(tmp_path, save_freq=0)).train(25)
    assert names(tmp_path) == ["last.pt", "step_000000025.pt"]


@pytest.mark.parametrize(
    "reason, n", [("finished", 1), ("stopped", 1), ("interrupted", 1), ("diverged", 0), ("failed", 0)]
)
def test_the_end_is_saved_unless_the_model_may_be_broken(tmp_path, reason, n):
    algo = FakeAlgorithm(quiet(tmp_path))
    algo.train(5, reason=reason)
    assert len(algo.saves) == n


def test_last_is_always_the_newest(tmp_path):
    algo = FakeAlgorithm(quiet(tmp_path))
    algo.train(10)
    assert (tmp_path / "last.pt").read_text() == "model at 10"
    algo.train(10)
    assert (tmp_path / "last.pt").read_text() == "model at 20"
    assert (tmp_path / "last.pt").samefile(tmp_path / "step_000000020.pt")


def test_last_is_a_copy_where_links_are_not_possible(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    FakeAlgorithm(quiet(tmp_path)).train(10)
    assert (tmp_path / "last.pt").read_text() == "model at 10"
    assert not (tmp_path / "last.pt").samefile(tmp_path / "step_000000010.pt")


def test_saving_the_same_step_twice_leaves_one_entry_and_no_temporary_file(tmp_path):
    callback = quiet(tmp_path)
    algo = FakeAlgorithm(callback)
    algo.train(10)
    callback._save(10, "scheduled")
    assert names(tmp_path) == ["last.pt", "step_000000010.pt"] and len(callback.saved) == 1


def test_keep_last_removes_the_oldest_of_its_own_files_only(tmp_path):
    (tmp_path / "step_000000001.pt").write_text("somebody else's")
    callback = quiet(tmp_path, keep_last=2)
    FakeAlgorithm(callback).train(40)
    assert names(tmp_path) == ["last.pt", "step_000000001.pt", "step_000000030.pt", "step_000000040.pt"]
    assert [path.name for path in callback.saved] == ["step_000000030.pt", "step_000000040.pt"]


def test_the_file_of_an_interruption_takes_nobodys_place_and_goes_with_the_next_save(tmp_path):
    callback = quiet(tmp_path, keep_last=2)
    algo = FakeAlgorithm(callback)
    algo.train(27, reason="interrupted")
    assert names(tmp_path) == ["last.pt", "step_000000010.pt", "step_000000020.pt", "step_000000027.pt"]
    resumed = quiet(tmp_path, keep_last=2)
    resumed.load_state_dict(callback.state_dict())
    other = FakeAlgorithm(resumed)
    other.step = 27
    other.train(2, reason="interrupted")
    assert names(tmp_path) == ["last.pt", "step_000000010.pt", "step_000000020.pt", "step_000000029.pt"]
    other.train(1)
    assert names(tmp_path) == ["last.pt", "step_000000020.pt", "step_000000030.pt"]
    assert [path.name for path in resumed.saved] == ["step_000000020.pt", "step_000000030.pt"]


def test_without_keep_last_all_files_stay(tmp_path):
    FakeAlgorithm(quiet(tmp_path)).train(40)
    assert len(names(tmp_path)) == 5


def test_a_file_that_is_gone_already_does_not_stop_training(tmp_path):
    callback = quiet(tmp_path, keep_last=1)
    algo = FakeAlgorithm(callback)
    algo.train(10)
    callback.saved[0].unlink()
    algo.train(10)
    assert names(tmp_path) == ["last.pt", "step_000000020.pt"]


def test_the_folder_of_the_run_replaces_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FakeAlgorithm(CheckpointCallback(10, verbose=False), run=Run(tmp_path / "run")).train(10)
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run" / "checkpoints") == ["last.pt", "step_000000010.pt"]


def test_a_folder_of_the_user_stays_inside_a_run(tmp_path):
    FakeAlgorithm(quiet(tmp_path / "mine"), run=Run(tmp_path / "run")).train(10)
    assert names(tmp_path) == ["mine"]


def test_the_default_without_a_run_is_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FakeAlgorithm(CheckpointCallback(10, verbose=False)).train(10)
    assert names(tmp_path / "checkpoints") == ["last.pt", "step_000000010.pt"]


@pytest.fixture
def linked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    (tmp_path / "other" / "config.toml").write_text("")
    (tmp_path / "checkpoints").symlink_to("other/checkpoints")
    return tmp_path


def test_nothing_is_written_through_a_link_into_another_run(linked):
    FakeAlgorithm(CheckpointCallback(10, verbose=False), run=Run(linked / "mine")).train(10)
    assert names(linked / "mine" / "checkpoints") == ["last.pt", "step_000000010.pt"]
    algo = FakeAlgorithm(CheckpointCallback(10, verbose=False))
    with pytest.raises(WriteError, match="belongs to another run") as caught:
        algo.train(10)
    assert algo.step == 0 and "link" in caught.value.hint
    assert names(linked / "other" / "checkpoints") == []


def test_a_link_of_the_user_to_a_plain_folder_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "here").symlink_to("disk")
    FakeAlgorithm(quiet(tmp_path / "here")).train(10)
    assert names(tmp_path / "disk") == ["last.pt", "step_000000010.pt"]


def test_a_folder_that_cannot_be_made_is_known_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    algo = FakeAlgorithm(quiet(tmp_path / "file" / "x"))
    with pytest.raises(WriteError, match="cannot write"):
        algo.train(10)
    assert algo.step == 0


def test_a_failing_save_stops_training_and_keeps_the_older_files(tmp_path):
    class Full(FakeAlgorithm):
        def save(self, path):
            if self.step > 10:
                raise WriteError("cannot write: No space left on device")
            super().save(path)

    callback = quiet(tmp_path, keep_last=1)
    with pytest.raises(WriteError, match="No space"):
        Full(callback).train(30)
    assert names(tmp_path) == ["last.pt", "step_000000010.pt"] and len(callback.saved) == 1


def test_an_algorithm_without_save_is_refused_when_attached():
    class NoSave(FakeAlgorithm):
        save = None

    with pytest.raises(ConfigError, match=r"needs an algorithm with save\(\), NoSave has none"):
        NoSave(CheckpointCallback())


@pytest.mark.parametrize("kwargs", [{"save_freq": -1}, {"save_freq": "often"}, {"keep_last": 0}])
def test_bad_arguments_are_refused_by_name(kwargs):
    with pytest.raises(ConfigError, match=next(iter(kwargs))):
        CheckpointCallback(**kwargs)


def test_loggers_hear_of_each_file(tmp_path):
    events = Events()
    FakeAlgorithm(quiet(tmp_path), logger=events).train(10)
    path = str(tmp_path / "step_000000010.pt")
    assert events.events == [(10, "checkpoint", {"path": path, "best": False})]


def test_verbose_says_each_file_and_a_console_logger_speaks_in_its_place(tmp_path, capsys):
    FakeAlgorithm(quiet(tmp_path)).train(10)
    assert capsys.readouterr() == ("", "")
    line = f"step=10 saved={tmp_path / 'step_000000010.pt'}\n"
    FakeAlgorithm(quiet(tmp_path, verbose=True)).train(10)
    assert capsys.readouterr() == ("", line)
    FakeAlgorithm(quiet(tmp_path, verbose=True), logger=ConsoleLogger()).train(10)
    assert capsys.readouterr() == ("", line)


def test_hooks_work_alone_and_count_for_themselves(tmp_path):
    callback = quiet(tmp_path, save_freq=2)
    callback.on_training_start()
    for _ in range(3):
        assert callback.on_step(reward=1.0) is None
    callback.on_training_end()
    assert names(tmp_path) == []
    algo = FakeAlgorithm()
    callback.on_step(algo=algo)
    assert names(tmp_path) == ["last.pt", "step_000000004.pt"]


def test_state_goes_on_from_where_it_was(tmp_path):
    callback = quiet(tmp_path, keep_last=2)
    FakeAlgorithm(callback).train(25)
    resumed = quiet(tmp_path, keep_last=2)
    resumed.load_state_dict(callback.state_dict())
    algo = FakeAlgorithm(resumed)
    algo.step = 25
    algo.train(6)
    assert names(tmp_path) == ["last.pt", "step_000000030.pt", "step_000000031.pt"]
