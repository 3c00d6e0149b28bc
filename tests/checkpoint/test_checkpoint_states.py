"""What goes into a checkpoint comes out of it."""

from __future__ import annotations

import collections
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlox.checkpoint import describe_tensors, load, read_manifest, save, verify
from rlox.errors import CheckpointError, CheckpointNotFoundError

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
]  # fmt: skip


def there_and_back(tmp_path: Path, state: Any) -> Any:
    return load(save(tmp_path / "a.pt", state, {}))[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3)], ids=str)
def test_tensors_of_every_dtype_and_shape_come_back_bit_for_bit(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensor = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
    back = there_and_back(tmp_path, {"x": tensor})["x"]
    assert back.dtype == dtype and back.shape == shape
    assert back.contiguous().reshape(-1).view(torch.uint8).equal(tensor.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 255, 65536, -(2**31), 2**63, -(2**127), 2**2038, 1.5, math.inf, -0.0, "", "ü\ud800\0",
        (), (1,), (1, 2, 3, 4), [], {}, [[(), {}], ({"a": [None]},)], {1: "a", "1": "b", -5: "c"},
    ],
    ids=repr,
)  # fmt: skip
def test_primitives_and_containers_keep_type_and_value(tmp_path: Path, value: object) -> None:
    back = there_and_back(tmp_path, {"x": value})["x"]
    assert repr(back) == repr(value)
    assert type(back) is type(value)


@pytest.mark.parametrize("n", [999, 1000, 1001, 70_000])
def test_long_lists_and_many_tensors_come_back(tmp_path: Path, n: int) -> None:
    state = {"numbers": list(range(n)), "tensors": [torch.tensor(i) for i in range(n // 100)]}
    back = there_and_back(tmp_path, state)
    assert back["numbers"] == state["numbers"]
    assert [int(t) for t in back["tensors"]] == list(range(n // 100))


def test_views_of_one_buffer_share_it_again(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    state = {
        "flat": flat,
        "weight": flat[:8].view(2, 4),
        "column": flat.view(3, 4)[:, 1],
        "turned": flat.view(3, 4).t(),
    }
    back = there_and_back(tmp_path, state)
    back["flat"].mul_(2)
    for name, tensor in state.items():
        assert back[name].equal(tensor if name == "flat" else tensor * 2) or name == "flat"
        assert back[name].untyped_storage().data_ptr() == back["flat"].untyped_storage().data_ptr()


def test_a_slice_of_a_large_buffer_is_stored_alone(tmp_path: Path) -> None:
    big = torch.zeros(1_000_000)
    path = save(tmp_path / "a.pt", {"x": big[5:8], "y": big[::500_000], "z": big[:0]}, {})
    assert path.stat().st_size < 10_000
    state, _ = load(path)
    assert [t.shape[0] for t in state.values()] == [3, 2, 0]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(50),
        torch.arange(6.0).as_strided((4, 3), (1, 1)),
        torch.arange(6).reshape(2, 3).t()[1:],
        torch.arange(8.0).view(torch.complex64).conj(),
        torch.nn.Parameter(torch.ones(3)),
        (torch.ones(3, requires_grad=True) * 2),
    ],
    ids=["expanded", "overlapping", "transposed part", "lazily conjugated", "parameter", "inside a graph"],
)
def test_unusual_tensors_come_back_as_plain_ones(tmp_path: Path, tensor: torch.Tensor) -> None:
    back = there_and_back(tmp_path, {"x": tensor})["x"]
    assert back.equal(tensor.detach())
    assert type(back) is torch.Tensor and not back.requires_grad and not back.is_conj()


def test_one_buffer_seen_as_two_dtypes_comes_back(tmp_path: Path) -> None:
    x = torch.arange(4.0)
    back = there_and_back(tmp_path, {"x": x, "bits": x.view(torch.int32)})
    assert back["x"].equal(x) and back["bits"].equal(x.view(torch.int32))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1],
        np.array(3.5),
        np.zeros((0, 4), np.uint8),
        np.arange(3, dtype=">i4"),
        np.broadcast_to(np.float64(2), (2, 2)),
        np.asfortranarray(np.arange(6, dtype=np.uint16).reshape(2, 3)),
    ],
    ids=["reversed", "0-d", "empty", "big-endian", "read-only", "fortran"],
)
def test_arrays_come_back_as_tensors(tmp_path: Path, array: np.ndarray) -> None:
    back = there_and_back(tmp_path, {"x": array})["x"].numpy()
    assert back.dtype == array.dtype.newbyteorder("=") and back.shape == array.shape
    assert np.array_equal(back, array)


def test_module_and_optimizer_states_come_back(tmp_path: Path) -> None:
    net = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    adam.step()
    back = there_and_back(tmp_path, {"net": net.state_dict(), "adam": adam.state_dict(), "scale": np.float32(0.5)})
    assert type(back["net"]) is dict and back["scale"] == 0.5
    other = torch.nn.Linear(3, 2)
    other.load_state_dict(back["net"])
    assert other.weight.equal(net.weight)
    second = torch.optim.Adam(other.parameters())
    second.load_state_dict(back["adam"])
    assert second.state[other.weight]["exp_avg"].equal(adam.state[net.weight]["exp_avg"])


def test_saving_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    state = {"p": torch.nn.Parameter(torch.ones(2)), "d": collections.OrderedDict(a=[1])}
    save(tmp_path / "a.pt", state, {})
    assert isinstance(state["p"], torch.nn.Parameter) and state["p"].requires_grad
    assert type(state["d"]) is collections.OrderedDict


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    one, two = ({"x": torch.ones(3), "y": ["a", "a", 1]} for _ in range(2))
    first, second = save(tmp_path / "a.pt", one, {"step": 1}), save(tmp_path / "b.pt", two, {"step": 1})
    assert first.read_bytes() == second.read_bytes()


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({1, 2}, "is a set"),
        (b"bytes", "is a bytes"),
        (Point(1, 2), "is a Point"),
        (object(), "is a object"),
        (print, "is a builtin_function_or_method"),
        (torch.nn.Linear(1, 1), "is a Linear"),
        (2**2039, "2040 bits"),
        (np.array(["a"]), "dtype str"),
        (np.array([None]), "dtype object"),
        (np.zeros(1, np.longdouble), "dtype float128"),
        (np.zeros(1, "datetime64[s]"), "dtype datetime64"),
        (torch.ones(2).to(torch.float8_e4m3fn), "dtype float8_e4m3fn"),
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.ones(2, device="meta"), "meta"),
        ({(1, 2): 3}, "keys must be str or int"),
        ({True: 3}, "keys must be str or int"),
        ({None: 3}, "keys must be str or int"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_a_checkpoint_cannot_hold_is_refused_by_place(tmp_path: Path, value: object, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        save(tmp_path / "a.pt", {"policy": [value]}, {})
    assert "state['policy'][0]" in caught.value.message and words in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_holds_itself_is_refused(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    state["me"] = [state]
    with pytest.raises(CheckpointError, match="nested more than 64 levels deep"):
        save(tmp_path / "a.pt", state, {})


def test_too_many_loose_values_are_refused_when_saving(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.pt: its state has more than 1000000 opcodes"):
        save(tmp_path / "a.pt", {"x": list(range(1_100_000))}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64], ids=str
)
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, bad: float, dtype: torch.dtype) -> None:
    weight = torch.ones(4, 5, dtype=dtype)
    weight[2, 3] = bad
    path = save(tmp_path / "a.pt", {"policy": {"actor.0.weight": weight.t(), "ok": torch.ones(2)}, "best": bad}, {})
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert "policy.actor.0.weight has 1 of 20 values" in caught.value.message
    assert caught.value.hint is not None and "--allow-nonfinite" in caught.value.hint
    state, _ = load(path, allow_nonfinite=True)
    assert state["policy"]["actor.0.weight"].shape == (5, 4)


def test_integers_are_finite(tmp_path: Path) -> None:
    state = {"x": torch.tensor([2**63 - 1]), "u": torch.tensor([255], dtype=torch.uint8), "best": -math.inf}
    assert there_and_back(tmp_path, state)["best"] == -math.inf


def test_tensors_are_described_by_name(tmp_path: Path) -> None:
    state = {"policy": {"actor.0.weight": torch.ones(2, 3)}, "counts": [torch.tensor(1), 5], "n": torch.ones(2).short()}
    assert describe_tensors(save(tmp_path / "a.pt", state, {})) == [
        {"name": "policy.actor.0.weight", "dtype": "float32", "shape": [2, 3], "bytes": 24},
        {"name": "counts.0", "dtype": "int64", "shape": [], "bytes": 8},
        {"name": "n", "dtype": "int16", "shape": [2], "bytes": 4},
    ]


def test_verify_reports_members_and_sizes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"x": torch.ones(10), "y": 1}, {"step": 3})
    report = verify(path)
    assert (report["n_tensors"], report["tensor_bytes"], report["format"]) == (1, 40, 1)
    assert report["bytes"] == path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        assert {f"archive/{member['name']}" for member in report["members"]} == set(archive.namelist())
        assert archive.comment.hex() == report["digest"] and archive.testzip() is None
    digests = {m["name"]: m["sha256"] for m in report["members"] if m["name"] != "rlox.json"}
    assert digests == read_manifest(path)["digests"]


def test_plain_torch_reads_a_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"x": torch.arange(5), "y": 2**70}, {"step": 3})
    for mmap in (False, True):
        state = torch.load(path, weights_only=True, mmap=mmap)
        assert state["x"].tolist() == [0, 1, 2, 3, 4] and state["y"] == 2**70


def test_saving_replaces_and_creates_parents(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.pt"
    assert save(str(path), {"x": 1}, {}) == path
    save(path, {"x": 2}, {})
    assert load(str(path))[0] == {"x": 2}
    assert [entry.name for entry in path.parent.iterdir()] == ["a.pt"]


def test_a_missing_file_names_what_is_beside_it(tmp_path: Path) -> None:
    save(tmp_path / "last.pt", {}, {})
    with pytest.raises(CheckpointNotFoundError) as caught:
        load(tmp_path / "best.pt")
    assert caught.value.exit_code == 3
    assert caught.value.hint == f"there is `{tmp_path / 'last.pt'}`"
    with pytest.raises(CheckpointNotFoundError) as caught:
        load(tmp_path / "none" / "best.pt")
    assert caught.value.hint is None
    for name, hint in (("nope.pt", None), ("lasst.pt", f"there is `{tmp_path / 'last.pt'}`")):
        with pytest.raises(CheckpointNotFoundError) as caught:
            load(tmp_path / name)
        assert caught.value.hint == hint
    with pytest.raises(CheckpointNotFoundError) as caught:
        load(tmp_path / "checkpoints" / "best.pt")
    assert caught.value.hint == "train first, e.g. `rlox train sac --env Pendulum-v1`"


def test_a_state_larger_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.pt", {"x": torch.ones(1000)}, {})
    monkeypatch.setattr("rlox.checkpoint.store.available_memory", lambda: 4000)
    with pytest.raises(CheckpointError, match=r"needs .* kB of memory, 4\.0 kB are free"):
        load(path)


def test_the_64_bit_records_of_large_archives_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    path = save(tmp_path / "a.pt", {"w": torch.arange(1000), "v": torch.ones(3)}, {"step": 1})
    assert b"PK\x06\x06" in path.read_bytes()[-200:]
    state, manifest = load(path)
    assert state["w"].equal(torch.arange(1000)) and manifest["step"] == 1
