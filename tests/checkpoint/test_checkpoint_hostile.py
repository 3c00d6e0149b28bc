"""No file makes a reader run, import, open or allocate anything: each is refused in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hostile_files
import pytest
import torch

from rlox import checkpoint
from rlox.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Write every hostile file, load each in a watched process, and return all that is known of it."""
    base = tmp_path_factory.mktemp("hostile")
    folder, canary = base / "files", base / "canary"
    folder.mkdir()
    written = hostile_files.write_all(folder, canary)
    (folder / "kept.pt").unlink()
    (folder / "evil_module.py").write_text(f"open({str(canary)!r}, 'w')")
    good = checkpoint.save(base / "good.pt", {"w": torch.ones(2), "u": torch.ones(2, dtype=torch.uint16)}, {})
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(Path(__file__).with_name("watched_load.py")), str(folder), str(good)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return {"written": written, "canary": canary, "stderr": done.stderr, **report}


def test_every_hostile_file_is_refused_in_the_right_words(hostile: dict[str, Any]) -> None:
    assert len(hostile["written"]) > 100
    wrong = {
        p.name: (w, hostile["errors"][p.name]) for p, w in hostile["written"] if w not in hostile["errors"][p.name]
    }
    assert wrong == {}


def test_no_payload_ran(hostile: dict[str, Any]) -> None:
    assert not hostile["canary"].exists()


def test_the_canary_would_have_shown_a_payload_that_ran(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"w": hostile_files.Evil(canary)}, tmp_path / "a.pt")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert canary.exists()


def test_the_audit_hook_saw_no_command_socket_import_or_other_file(hostile: dict[str, Any]) -> None:
    assert hostile["seen"] == ["probe: os.system (b'true',)"]  # the probe shows that the hook sees


def test_nothing_is_allocated_for_what_is_only_declared(hostile: dict[str, Any]) -> None:
    assert hostile["grown_mib"] < 300


def test_messages_fit_on_a_line_and_never_relay_the_advice_of_torch(hostile: dict[str, Any]) -> None:
    assert hostile["stderr"] == ""
    for message in hostile["errors"].values():
        assert message.isprintable() and "weights_only" not in message and "safe_globals" not in message


def test_torch_failing_after_all_checks_is_said_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint.save(tmp_path / "a.pt", {"w": torch.ones(2)}, {})

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("retry with weights_only=False")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(CheckpointError, match="passes every check, but this version of torch cannot read it") as caught:
        checkpoint.load(path)
    assert "weights_only" not in str(caught.value)


def test_torch_reading_something_else_than_was_checked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint.save(tmp_path / "a.pt", {"w": torch.ones(2), "n": 1}, {})
    for other in ({"w": torch.ones(3), "n": 1}, {"w": torch.ones(2).double(), "n": 1}, {"w": torch.ones(2), "n": True}):
        monkeypatch.setattr(torch, "load", lambda *args, state=other, **kwargs: state)
        with pytest.raises(CheckpointError, match="torch reads another state than the one that was checked"):
            checkpoint.load(path)


@pytest.mark.parametrize("name", ["HDF5", "SB3", "torch state", "text", "folder", "pipe", "empty"])
def test_kind_of_file_says_what_it_looks_like(tmp_path: Path, name: str) -> None:
    write, words = hostile_files.foreign_files(tmp_path, tmp_path / "canary")[name]
    path = tmp_path / "x"
    write(path)
    assert checkpoint.kind_of_file(path) == words.removeprefix("is ").split(", not")[0]


def test_kind_of_file_knows_a_checkpoint_and_nothing(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "a.pt", {}, {})
    assert checkpoint.kind_of_file(path) == "an rlox checkpoint"
    assert checkpoint.kind_of_file(tmp_path / "b.pt") == "nothing"
    path.write_bytes(path.read_bytes() + b"x")
    assert checkpoint.kind_of_file(path) == "a damaged rlox checkpoint: its end is not where it should be"


def test_a_folder_points_to_the_checkpoint_inside(tmp_path: Path) -> None:
    for name in ("step_000000010.pt", "step_000000020.pt", "last.pt"):
        checkpoint.save(tmp_path / name, {}, {})
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load(tmp_path)
        assert caught.value.exit_code == 4 and caught.value.hint == f"give the file inside: `{tmp_path / name}`"
