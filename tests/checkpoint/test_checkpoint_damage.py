"""Every damage to a checkpoint is found before it is used."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import replace_member

from rlox.checkpoint import describe_tensors, load, read_manifest, save, verify
from rlox.errors import CheckpointError


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    state = {"policy": {"w": torch.randn(40, 5, generator=torch.Generator().manual_seed(0))}, "step": 5}
    return save(tmp_path / "sound.pt", state, {"algorithm": "sac", "step": 5})


def refused(path: Path, data: bytes, read: Callable[[Path], Any] = verify) -> str:
    """Write ``data`` to a file, check that it is refused, and return the message."""
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert caught.value.exit_code == 4
    assert caught.value.message.startswith(f"{path}: ")
    return caught.value.message


def test_200_random_bit_flips_are_all_found(sound: Path, tmp_path: Path) -> None:
    data, draw = sound.read_bytes(), random.Random(0)
    for _ in range(200):
        at, bit = draw.randrange(len(data)), draw.randrange(8)
        refused(tmp_path / "x.pt", data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])


@pytest.mark.parametrize("read", [load, read_manifest, describe_tensors], ids=lambda f: f.__name__)
def test_every_reader_finds_a_flip_in_the_weights(sound: Path, tmp_path: Path, read: Callable[[Path], Any]) -> None:
    data = bytearray(sound.read_bytes())
    with zipfile.ZipFile(sound) as archive:
        at = data.index(archive.read("archive/data/0"))
    data[at + 11] ^= 4
    message = refused(tmp_path / "x.pt", bytes(data), read)
    assert "is damaged: digest mismatch in data/0" in message
    assert torch.load(tmp_path / "x.pt", weights_only=True)["step"] == 5  # torch alone sees nothing


def test_a_cut_at_every_512_bytes_is_found(sound: Path, tmp_path: Path) -> None:
    data = sound.read_bytes()
    assert len(data) > 3000
    for n in range(512, len(data), 512):
        assert "is a cut off or damaged rlox checkpoint" in refused(tmp_path / "x.pt", data[:n])
    for n in (0, 1, 3, 4, 30, len(data) - 54, len(data) - 33, len(data) - 32, len(data) - 1):
        refused(tmp_path / "x.pt", data[:n])


@pytest.mark.parametrize("junk", [b"\0", b"x" * 32, bytes(512), bytes(70_000), b"PK\x05\x06" + bytes(18)], ids=len)
def test_bytes_after_the_end_are_found(sound: Path, tmp_path: Path, junk: bytes) -> None:
    refused(tmp_path / "x.pt", sound.read_bytes() + junk)


def test_two_checkpoints_in_one_file_are_found(sound: Path, tmp_path: Path) -> None:
    refused(tmp_path / "x.pt", sound.read_bytes() * 2)


def test_a_part_of_another_generation_is_found(sound: Path, tmp_path: Path) -> None:
    older = save(tmp_path / "older.pt", {"policy": {"w": torch.zeros(40, 5)}, "step": 4}, {"step": 4})
    with zipfile.ZipFile(older) as archive:
        for name in ("data/0", "data.pkl"):
            part = archive.read(f"archive/{name}")
            mixed = replace_member(sound, tmp_path / "mixed.pt", name, part)
            assert f"digest mismatch in {name}" in refused(mixed, mixed.read_bytes())


@pytest.mark.parametrize(
    ("at", "words"),
    [(-1, "its parts"), (-54, "cut off or damaged rlox checkpoint"), (-40, "zip directory"), (5, "its parts")],
)
def test_the_damaged_part_is_named(sound: Path, tmp_path: Path, at: int, words: str) -> None:
    data = bytearray(sound.read_bytes())
    data[at] ^= 255
    assert words in refused(tmp_path / "x.pt", bytes(data))


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.pt", {}, {})

    def refuse(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("rlox.checkpoint.archive.os.open", refuse)
    with pytest.raises(CheckpointError, match=r"cannot read .*a\.pt: Permission denied"):
        verify(path)


@pytest.mark.parametrize(
    ("name", "code"), [("a\0b", 4), ("x" * 300, 4), ("loop", 4), ("", 4), ("a.txt/b", 3), ("c\x1b[31m", 3)]
)
def test_odd_names_are_refused_in_one_line(tmp_path: Path, name: str, code: int) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "a.txt").touch()
    with pytest.raises(CheckpointError) as caught:
        verify(f"{tmp_path}/{name}")
    assert caught.value.exit_code == code
    assert caught.value.message.isprintable()
