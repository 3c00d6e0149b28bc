"""The manifest: strict JSON with limits, read without torch."""

from __future__ import annotations

import enum
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import MANIFEST, forge, pickled_dict, tensor_opcodes

from rlox import checkpoint
from rlox.errors import CheckpointError, CheckpointMismatchError

ROOT = Path(__file__).resolve().parents[2]
GOOD = pickled_dict(tensor_opcodes())


class Colour(enum.Enum):
    RED = 1


def test_fields_come_back_with_ours_added(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "a.pt", {"w": torch.ones(1)}, MANIFEST)
    manifest = checkpoint.read_manifest(path)
    assert {key: manifest.pop(key) for key in MANIFEST} == MANIFEST
    assert manifest.pop("torch") == str(torch.__version__) and isinstance(manifest.pop("rlox"), str)
    assert {"data.pkl", "data/0", "byteorder", "version"} <= manifest.pop("digests").keys()
    assert manifest == {"schema": "rlox.checkpoint", "format": 1}
    assert checkpoint.load(path)[1] == checkpoint.read_manifest(path)


def test_a_loaded_manifest_can_be_saved_again(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "a.pt", {"w": torch.ones(1)}, MANIFEST)
    state, manifest = checkpoint.load(path)
    again = checkpoint.save(tmp_path / "b.pt", state, manifest | {"format": 7, "schema": "x"})
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "value", [None, True, 0, -(2**200), 1.5, 1e-300, 5e-324, "ü\ud800\x1b[31m", [], {}, [{"a": [1]}]], ids=repr
)
def test_values_keep_type_and_value(tmp_path: Path, value: object) -> None:
    back = checkpoint.read_manifest(checkpoint.save(tmp_path / "a.pt", {}, {"x": value}))["x"]
    assert repr(back) == repr(value)


def test_tuples_become_lists(tmp_path: Path) -> None:
    manifest = {"net_arch": (256, 256)}
    assert checkpoint.read_manifest(checkpoint.save(tmp_path / "a.pt", {}, manifest))["net_arch"] == [256, 256]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "manifest['x'] is nan"),
        ([math.inf], "manifest['x'][0] is inf"),
        ({1: 2}, "manifest['x'] has a key that is not a string"),
        ({"y": {1, 2}}, "manifest['x']['y'] is a set"),
        (b"x", "manifest['x'] is a bytes"),
        (Path("/a"), "manifest['x'] is a PosixPath"),
        (Colour.RED, "manifest['x'] is a Colour"),
        (torch.ones(1), "manifest['x'] is a Tensor"),
        ("x" * 5_000_000, "at most 4194304"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else type(value).__name__,
)
def test_what_json_would_change_is_refused_by_place(tmp_path: Path, value: object, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.save(tmp_path / "a.pt", {}, {"x": value})
    assert words in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_holds_itself_is_refused(tmp_path: Path) -> None:
    manifest: dict[str, Any] = {}
    manifest["me"] = manifest
    with pytest.raises(CheckpointError, match="nested more than 64 levels deep"):
        checkpoint.save(tmp_path / "a.pt", {}, manifest)


def good_json(**fields: object) -> bytes:
    return json.dumps({"schema": "rlox.checkpoint", "format": 1, "digests": {}, **fields}).encode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff\xfe{}", "is not valid JSON"),
        (good_json()[:-1] + b', "x": NaN}', "NaN is not a JSON number"),
        (good_json()[:-1] + b', "x": -Infinity}', "-Infinity is not a JSON number"),
        (good_json()[:-1] + b', "x": 1e999}', "1e999 is beyond the range of numbers"),
        (good_json()[:-1] + b', "x": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (good_json()[:-1] + b', "format": 1}', "key 'format' is given twice"),
        (good_json()[:-1] + b', "x": {"a\x1b": 1, "a\x1b": 2}}', "is not valid JSON"),
        (good_json(x=[[[]]])[:-1] + b', "y": ' + b"[" * 70 + b"]" * 70 + b"}", "more than 64 levels"),
        (b"[" * 100_000, "more than 64 levels"),
        (b'{"a":' * 100_000, "more than 64 levels"),
        (b" " * (4 * 2**20 + 1), "at most 4194304"),
        (b"[]", "is not one of rlox"),
        (b"null", "is not one of rlox"),
        (b"{}", "is not one of rlox"),
        (good_json(schema="rlox.dataset"), "is not one of rlox"),
        (good_json(format="1"), "format version is '1'"),
        (good_json(format=1.5), "format version is 1.5"),
        (good_json(format=True), "format version is True"),
        (good_json(format=0), "format version is 0"),
        (good_json(digests=None), "has no list of digests"),
        (good_json(digests={"data.pkl": "00"}), "has no list of digests"),
        (good_json(digests={"data.pkl": ["0" * 64]}), "has no list of digests"),
        (good_json(digests={"../x": "0" * 64}), "is damaged"),
    ],
)
def test_manifests_from_strangers_are_read_strictly(tmp_path: Path, text: bytes, words: str) -> None:
    path = forge(tmp_path / "a.pt", GOOD, manifest=text)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_manifest(path)
    assert words in caught.value.message and caught.value.exit_code == 4
    assert len(caught.value.message) < 500 and caught.value.message.isprintable()


def test_a_forged_but_sound_file_loads(tmp_path: Path) -> None:
    """The forgeries of these tests differ from a sound file in the one point that each is about."""
    path = forge(tmp_path / "a.pt", GOOD, manifest={"step": 3, "env": "evil:X-v0"})
    assert checkpoint.load(path)[0]["w"].tolist() == [0, 0, 0, 0]
    assert checkpoint.read_manifest(path)["env"] == "evil:X-v0"
    assert "evil" not in sys.modules


@pytest.mark.parametrize("read", [checkpoint.load, checkpoint.verify, checkpoint.read_manifest])
def test_a_newer_format_says_both_versions(tmp_path: Path, read: Any) -> None:
    path = forge(tmp_path / "a.pt", GOOD, manifest={"format": 2, "rlox": "9.1\x1b[0m", "digests": None})
    with pytest.raises(CheckpointMismatchError) as caught:
        read(path)
    assert caught.value.exit_code == 5
    assert caught.value.message == f"{path}: its format version is 2, this rlox reads up to 1"
    assert caught.value.hint == "use the rlox that wrote it (9.1\\x1b[0m) or a newer one"


def test_reading_without_loading_imports_no_heavy_package(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "a.pt", {"w": torch.ones(1)}, MANIFEST)
    code = (
        "import sys; from rlox import checkpoint as c; p = sys.argv[1]\n"
        "c.read_manifest(p), c.verify(p), c.describe_tensors(p), c.kind_of_file(p)\n"
        "print([name for name in ('torch', 'numpy', 'h5py', 'gymnasium') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_public_names_are_the_ones_listed() -> None:
    assert sorted(checkpoint.__all__) == [
        "describe_tensors", "file_digest", "kind_of_file", "load", "read_manifest", "save", "verify", "writer",
    ]  # fmt: skip
    assert all(callable(getattr(checkpoint, name)) for name in checkpoint.__all__)
