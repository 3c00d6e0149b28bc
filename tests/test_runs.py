"""Run directories: who makes and holds them, what they say, and the ``checkpoints`` link."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlox.errors import WriteError
from rlox.runs import Run, create_run
from rlox.runs.limits import Once, ReturnReached, TimeLimit
from rlox.runs.lock import lock_holder
from rlox.runs.meta import code, machine


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make():
    """Make runs that are let go of at the end."""
    runs = []

    def new(path="runs/a") -> Run:
        runs.append(Run.create(Path(path)))
        return runs[-1]

    yield new
    for run in runs:
        run.close()


def test_a_generated_name_has_time_seed_and_four_digits():
    run = create_run(Path("runs"), "sac", "my/Env-v0", 7, "a name")
    assert re.fullmatch(r"\d{8}T\d{6}Z-s7-[0-9a-f]{4}-a-name", run.path.name)
    assert run.path.parent == Path.cwd() / "runs" / "sac" / "my-Env-v0"
    run.close()


def test_a_taken_name_is_drawn_again(monkeypatch):
    draws = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("rlox.runs.directory.secrets.token_hex", lambda n: next(draws))
    monkeypatch.setattr("rlox.runs.directory.datetime", _Clock)
    runs = [create_run(Path("runs"), "sac", "E", 0) for _ in range(2)]
    assert [r.path.name[-4:] for r in runs] == ["aaaa", "bbbb"]
    for run in runs:
        run.close()


class _Clock:
    @staticmethod
    def now(zone):
        from datetime import datetime

        return datetime(2026, 1, 1, tzinfo=zone)


def test_a_folder_that_exists_is_refused_and_left_alone(make):
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/mine").write_text("x")
    with pytest.raises(WriteError, match="runs/a exists already") as error:
        make()
    assert "--run-dir" in (error.value.hint or "")
    assert os.listdir("runs/a") == ["mine"]


def test_a_run_of_another_process_is_named_by_its_pid_and_time(make):
    text = "import sys; from pathlib import Path; from rlox.runs import Run; Run.create(Path('runs/a')); print('made'); sys.stdin.read()"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"made\n"
        with pytest.raises(WriteError, match=rf"locked by pid {other.pid} since 20\d\d-"):
            make()
        other.kill()
    with pytest.raises(WriteError, match="exists already"):  # a killed process holds nothing
        make()


def test_a_run_that_is_let_go_has_no_holder(make):
    run = make()
    assert (lock_holder(run.path) or "").startswith(f"pid {os.getpid()} since")
    run.close()
    assert lock_holder(run.path) is None
    assert lock_holder(Path("nowhere")) is None


def test_whoever_asks_for_the_holder_is_not_taken_for_one(make):
    run = make()
    run.close()
    asking = os.open(run.path / "run.lock", os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)  # what another process does in the same instant
    assert lock_holder(run.path) is None
    os.close(asking)


def test_a_run_that_may_only_be_read_can_be_asked_for_its_holder(make, monkeypatch):
    run, opened = make(), os.open

    def read_only(path, flags, *mode, **more):
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", read_only)
    assert (lock_holder(run.path) or "").startswith(f"pid {os.getpid()} since")


def test_status_is_always_whole_json(make):
    run = make()
    run.status("running")
    run.status("finished", 0, step=3)
    status = json.loads((run.path / "status.json").read_text())
    assert (status["status"], status["exit_code"], status["step"]) == ("finished", 0, 3)
    assert sorted(os.listdir(run.path)) == ["checkpoints", "run.lock", "status.json"]


def test_a_run_that_never_began_leaves_nothing(make):
    run = make()
    run.discard()
    assert not run.path.exists()


def test_the_link_is_relative_and_follows_the_newest_run(make):
    first, second = make("runs/a"), make("runs/b")
    first.link()
    assert os.readlink("checkpoints") == "runs/a/checkpoints"
    second.link()
    assert os.readlink("checkpoints") == "runs/b/checkpoints"
    assert second.shown("best.pt") == "checkpoints/best.pt"
    assert sorted(os.listdir()) == ["checkpoints", "runs"]


def test_a_real_folder_or_file_of_that_name_stays(make):
    Path("checkpoints").mkdir()
    Path("checkpoints/precious").write_text("x")
    run = make()
    run.link()
    assert not os.path.islink("checkpoints") and os.listdir("checkpoints") == ["precious"]
    assert run.shown("best.pt") == "runs/a/checkpoints/best.pt"


@pytest.mark.parametrize("target", ["data", "data/checkpoints"])
def test_a_link_to_something_else_stays(make, target):
    Path(target).mkdir(parents=True)
    os.symlink(target, "checkpoints")
    make().link()
    assert os.readlink("checkpoints") == target


def test_a_link_to_a_deleted_run_is_replaced(make):
    os.symlink("runs/gone/checkpoints", "checkpoints")
    make().link()
    assert os.readlink("checkpoints") == "runs/a/checkpoints"


def test_without_links_the_full_path_is_shown(make, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    run = make()
    run.link()
    assert os.listdir() == ["runs"] and run.shown("last.pt") == "runs/a/checkpoints/last.pt"


def test_a_time_limit_counts_from_the_start_of_training(monkeypatch):
    clock = iter([100.0, 104.9, 105.0])
    monkeypatch.setattr("rlox.runs.limits.monotonic", lambda: next(clock))
    limit = TimeLimit(5.0)
    assert limit.on_step() is True  # not started
    limit.on_training_start()
    assert limit.on_step() is True and not limit.reached
    assert limit.on_step() is False and limit.reached


def test_a_return_counts_only_once_the_evaluation_is_whole():
    limit = ReturnReached(10.0)
    limit.on_eval(episode=1, n_episodes=2, return_mean=50.0)
    assert limit.on_step() is True
    limit.on_eval(episode=2, n_episodes=2, return_mean=float("nan"))
    assert limit.on_step() is True
    limit.on_eval(episode=2, n_episodes=2, return_mean=10.0)
    assert limit.on_step() is False


def test_once_acts_once():
    ready, done = [], []
    once = Once(lambda: bool(ready), lambda: done.append(1))
    once.on_step()
    assert done == []
    ready.append(1)
    once.on_step()
    once.on_step()
    once.on_training_end()
    assert done == [1]


def test_the_state_of_the_code_is_recorded(monkeypatch):
    for name in list(os.environ):
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)
    assert code() == ({}, "")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    Path("a.py").write_text("one\n")
    for words in (["init", "-q"], ["add", "a.py"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    state, diff = code()
    assert re.fullmatch("[0-9a-f]{40}", state["commit"]) and state["dirty"] is False and diff == ""
    Path("a.py").write_text("two\n")
    state, diff = code()
    assert state["dirty"] is True and "-one\n+two\n" in diff


def test_the_machine_is_recorded_without_its_name():
    found = machine()
    assert {"python", "rlox", "torch", "numpy"} <= set(found["versions"])
    assert os.uname().nodename not in json.dumps(found)


def test_a_name_that_is_too_long_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="File name too long") as caught:
        create_run(tmp_path / ("a" * 300), "sac", "E", 0)
    assert caught.value.exit_code == 6 and list(tmp_path.iterdir()) == []


def test_a_run_that_never_began_takes_the_folders_made_for_it_along(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    Run.create(tmp_path / "mine" / "runs" / "sac" / "a").discard()
    assert list((tmp_path / "mine").iterdir()) == []
    kept = Run.create(tmp_path / "mine" / "runs" / "sac" / "b")
    Run.create(tmp_path / "mine" / "runs" / "cql" / "c").discard()
    assert [p.name for p in (tmp_path / "mine" / "runs").iterdir()] == ["sac"]
    kept.close()
