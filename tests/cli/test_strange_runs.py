"""Run directories from strangers, and runs whose files are gone: nobody's files are touched, nothing waits for ever."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cli_run import environment, refused, run, spawn
from run_folders import make_run

from rlox.cli._errors import save_traceback
from rlox.errors import NotFoundError, RunError, WriteError
from rlox.logging import JSONLLogger
from rlox.runs import lock
from rlox.runs.directory import Run, write_crash_log

TINY = ("train", "sac", "--env", "Pendulum-v1", "--preset", "none", "--learning-starts", 50, "--net-arch", "[16]",
        "--batch-size", 16, "--buffer-size", 120, "--eval-episodes", 1, "--no-link", "--eval-freq", 0, "--log-interval",
        20, "--no-tensorboard", "--steps", 60)  # fmt: skip
FILES = ("run.lock", "meta.json", "status.json", "config.toml", "metrics.jsonl", "crash.log", "events.out.tfevents.1.a.0")
FOLDERS = ("checkpoints", "resume", "videos", "wandb")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of 60 steps."""
    from rlox.cli.main import main

    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main([str(a) for a in (*TINY, "--run-dir", folder, "-q")]) == 0
    return folder


@pytest.fixture
def mine(tmp_path):
    """Files of the user's that a stranger would like to have destroyed."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("step_000000001.pt", "manifest.json", "best.pt", "model-000000001"):
        (folder / name).write_text(f"precious {name}")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def linked(folder: Path, name: str, target: Path) -> Path:
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_a_run_with_a_link_is_refused_by_name_and_nothing_is_written(whole, mine, capsys, tmp_path, name):
    folder = shutil.copytree(whole, tmp_path / "run")
    linked(folder, name, mine if name in FOLDERS else mine / "best.pt")
    before, ours = content(folder), content(mine)
    for words in (("--resume", folder, "--steps", 90), ("--resume", folder, "--fork", "--run-dir", tmp_path / "fork")):
        refused(run(capsys, "train", "sac", *words), 4, "damaged run directory", f"{name} is a link")
    refused(run(capsys, *TINY, "--run-dir", folder, "--resume", "auto"), 4, f"{name} is a link")
    with pytest.raises(RunError, match="is a link"):
        Run.reopen(folder)
    refused(run(capsys, "checkpoint", "prune", folder, "--keep-last", 1, "--yes"), 4, "is a link")
    assert content(folder) == before and content(mine) == ours


@pytest.mark.parametrize("name", ["run.lock", "checkpoints"])
def test_a_link_in_a_run_that_never_began_is_refused_too(mine, capsys, tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ("checkpoints" if name == "run.lock" else "resume")).mkdir()
    (tmp_path / "run" / "run.lock").touch()
    linked(tmp_path / "run", name, mine if name == "checkpoints" else tmp_path / "nowhere")
    refused(run(capsys, *TINY, "--run-dir", tmp_path / "run", "--resume", "auto"), 4, f"{name} is a link")
    assert not (tmp_path / "nowhere").exists() and len(content(mine)) == 4


def test_a_lock_that_becomes_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"):
        lock.hold(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "x"


@pytest.mark.parametrize("write", [write_crash_log, lambda folder, error: save_traceback(error, folder)])
def test_a_crash_log_replaces_a_link(tmp_path, write):
    (tmp_path / "precious").write_text("x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "crash.log").symlink_to(tmp_path / "precious")
    assert write(tmp_path / "run", ValueError("odd \udc80")) == tmp_path / "run" / "crash.log"
    assert "ValueError: odd" in (tmp_path / "run" / "crash.log").read_text()
    assert (tmp_path / "precious").read_text() == "x" and not (tmp_path / "run" / "crash.log").is_symlink()
    assert write_crash_log(tmp_path / "gone", ValueError()) is None and not (tmp_path / "gone").exists()


def test_a_log_may_be_a_link_outside_of_runs_and_not_inside(tmp_path):
    class InRun:
        path = tmp_path / "run"

    for folder in ("run", "logs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "metrics.jsonl").symlink_to(tmp_path / f"{folder}.txt")
    outside = JSONLLogger(tmp_path / "logs" / "metrics.jsonl")
    outside.open(InRun)
    outside.close()
    assert (tmp_path / "logs.txt").read_text().startswith('{"schema"')
    with pytest.raises(WriteError, match="symbolic link"):
        JSONLLogger(tmp_path / "run" / "metrics.jsonl").open(InRun)
    assert not (tmp_path / "run.txt").exists()


@pytest.mark.parametrize("kept", ["last.pt", "step_000000060.pt"])
def test_a_run_whose_state_is_gone_is_not_started_over(whole, capsys, tmp_path, kept):
    folder = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(folder / "resume")
    for path in folder.glob("checkpoints/*.pt"):
        if path.name not in (kept, "best.pt"):
            path.unlink()
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"status": "running"}))
    before = content(folder)
    for words in ((*TINY, "--run-dir", folder, "--resume", "auto"), ("train", "--resume", folder)):
        refused(run(capsys, *words), 3, "the state to go on from is gone", f"--init-from run/checkpoints/{kept}")
        after = content(folder)
        assert {**after, "run.lock": b""} == {**before, "run.lock": b""}
    with pytest.raises(NotFoundError, match="state to go on from is gone"):
        Run.reopen(folder)
    assert run(capsys, *TINY, "--run-dir", tmp_path / "new", "--init-from", folder / "checkpoints" / kept).code == 0


def test_a_finished_run_without_its_state_is_still_finished(whole, capsys, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(folder / "resume")
    ran = run(capsys, *TINY, "--run-dir", folder, "--resume", "auto")
    assert ran.code == 0 and "is finished at step 60" in ran.err


def test_starting_over_removes_what_the_run_wrote_and_refuses_where_there_was_a_state(tmp_path):
    folder = make_run(tmp_path / "run", [1.0], status="running")
    for name in ("checkpoints/best.pt", "checkpoints/mine.pt", "events.out.tfevents.1.a.0", "notes.txt"):
        (folder / name).touch()
    held = Run.reopen(folder)
    (folder / "checkpoints" / "last.pt").touch()
    with pytest.raises(NotFoundError):
        held.start_over()
    assert (folder / "checkpoints" / "best.pt").exists() and (folder / "metrics.jsonl").exists()
    (folder / "checkpoints" / "last.pt").unlink()
    held.start_over()
    held.close()
    assert sorted(content(folder)) == ["checkpoints/mine.pt", "config.toml", "meta.json", "notes.txt", "run.lock", "status.json"]


def test_whoever_only_asks_does_not_keep_a_run_from_starting(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run")
    asking = os.open(folder / "run.lock", os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    monkeypatch.setattr(lock, "sleep", lambda seconds: fcntl.flock(asking, fcntl.LOCK_UN))
    held = Run.reopen(folder)
    try:
        assert (lock.lock_holder(folder) or "").startswith(f"pid {os.getpid()} since")
        monkeypatch.setattr(lock, "sleep", lambda seconds: pytest.fail("waited for a living process"))
        with pytest.raises(WriteError, match=f"locked by pid {os.getpid()}"):
            Run.reopen(folder)
    finally:
        held.close()
        os.close(asking)


def test_whoever_asks_for_long_is_given_up_on_and_nobody_is_named(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run")
    asking = os.open(folder / "run.lock", os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    monkeypatch.setattr(lock, "PATIENCE_S", 0.0)
    with pytest.raises(WriteError) as error:
        Run.reopen(folder)
    assert "pid" not in error.value.message  # that of the lock file is of a process that ended
    os.close(asking)


def test_a_pipe_in_place_of_the_lock_keeps_nobody_waiting(capsys, tmp_path):
    folder = make_run(tmp_path / "runs" / "run", [1.0], status="running")
    (folder / "run.lock").unlink()
    os.mkfifo(folder / "run.lock")
    late = threading.Timer(60, lambda: os.close(os.open(folder / "run.lock", os.O_RDWR)))  # lets go of who waits
    late.start()
    try:
        assert run(capsys, "runs", "list", tmp_path / "runs").code == 0
        assert run(capsys, "runs", "show", folder).code == 0
        refused(run(capsys, "train", "--resume", folder), 4, "run.lock is no plain file")
        assert late.is_alive()
    finally:
        late.cancel()


def test_steps_that_no_run_makes_are_left_out(capsys, tmp_path):
    folder = make_run(tmp_path / "runs" / "run", [1.0, 2.0])
    with (folder / "metrics.jsonl").open("a") as file:
        for step in ("9" * 400, str(2**53 + 1)):
            file.write('{"kind": "eval", "step": %s, "metrics": {"eval/return_mean": 3.0}}\n' % step)  # noqa: UP031
    for words in (("plot", folder), ("show", folder), ("list", tmp_path / "runs")):
        ran = run(capsys, "runs", *words)
        assert ran.code == 0, ran.err
        assert "left out 2 lines" in ran.err


@pytest.mark.parametrize("number", ["9" * 400, "-1", "1e999"])
def test_figures_that_no_run_reaches_are_shown_or_left_out(capsys, tmp_path, number):
    folder = make_run(tmp_path / "runs" / "run", [1.0], status="interrupted")
    (folder / "status.json").write_text('{"status": "interrupted", "step": %s}' % number)  # noqa: UP031
    config = (folder / "config.toml").read_text()
    if number.isdigit():
        (folder / "config.toml").write_text(config.replace("steps = 20000", f"steps = {number}"))
    for words in (("plot", folder), ("show", folder), ("list", tmp_path / "runs")):
        assert run(capsys, "runs", *words).code == 0


def stopped_in(tmp_path: Path, hook: str, *more: object) -> subprocess.CompletedProcess[str]:
    """Start a run in a process that gets SIGTERM where ``hook`` puts it."""
    script = f"import os, signal, sys\n{hook}\nfrom rlox.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"
    words = [str(a) for a in (*TINY, *more)]
    return subprocess.run([sys.executable, "-c", script, *words], env=environment(), capture_output=True, text=True, timeout=120)


IN_TORCH = """
class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == 'torch' and any(os.path.exists(os.path.join(d, 'run.lock')) for d in ('run', *[r for r, _, _ in os.walk('runs')])):
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Hook())
"""


@pytest.mark.parametrize("where", ["run", None])
def test_a_run_that_is_stopped_before_it_began_leaves_no_folder(tmp_path, where):
    ended = stopped_in(tmp_path, IN_TORCH, *(("--run-dir", where) if where else ()))
    assert ended.returncode == 143, ended.stderr
    assert os.listdir(tmp_path) == []


def test_a_run_that_was_there_stays_when_it_is_stopped_before_it_goes_on(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    before = sorted(content(folder))
    ended = stopped_in(tmp_path, IN_TORCH, "--run-dir", "run", "--resume", "auto", "--steps", 90)
    assert ended.returncode == 143, ended.stderr
    assert sorted(content(folder)) == before
    assert spawn("train", "--resume", folder, "--steps", 70, "-q").code == 0


def test_videos_that_were_being_written_are_cleared_away(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "videos").mkdir()
    names = [".step_000000100_episode_1.0badcafe.mp4", "step_000000100_episode_1.mp4", ".step_by_step.mp4"]
    for name in names:
        (folder / "videos" / name).touch()
    Run.reopen(folder).close()
    assert sorted(os.listdir(folder / "videos")) == sorted(names[1:])


def test_a_video_in_the_making_has_the_name_that_is_cleared_away(tmp_path, monkeypatch):
    import numpy as np

    from rlox.callbacks import video

    folder, seen = make_run(tmp_path / "run"), []

    class Killed:
        @staticmethod
        def get_writer(path, **more):
            seen.append(Path(path))
            raise KeyboardInterrupt

    monkeypatch.setattr(video, "_import_imageio", lambda: Killed)
    with pytest.raises(KeyboardInterrupt):
        video._write_video(folder / "videos" / "step_000000100_episode_1.mp4", iter([np.zeros((2, 2, 3), np.uint8)]), 30.0)
    seen[0].touch()
    Run.reopen(folder).close()
    assert not seen[0].exists()


