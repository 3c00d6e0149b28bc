"""What differs between two checkpoints is found, named and measured."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rlox.checkpoint import save
from rlox.checkpoint.compare import Comparison, TensorDifference, ValueDifference, compare
from rlox.errors import CheckpointError

MANIFEST = {"algorithm": "sac", "config": {"gamma": 0.99, "net_arch": [8]}, "step": 10, "created": "2026-01-01", "seed": 0}


@pytest.fixture
def two(tmp_path: Path) -> Any:
    """Save two states with manifests and compare them."""

    def made(a: Any, b: Any, about_a: dict[str, Any] = MANIFEST, about_b: dict[str, Any] = MANIFEST, **tolerance: float) -> Comparison:
        return compare(save(tmp_path / "a.pt", a, about_a), save(tmp_path / "b.pt", b, about_b), **tolerance)

    return made


def state(w: Any = (1.0, 2.0), **more: Any) -> dict[str, Any]:
    return {"learner": {"w": torch.tensor(w)}, "step": 10, **more}


def test_a_file_equals_itself_and_its_copy_of_another_day_and_machine(two: Any) -> None:
    other = {**MANIFEST, "created": "2027-01-01", "versions": {"python": "9"}, "threads": 64, "device": "cuda:1"}
    found = two(state(), state(), about_b=other)
    assert found.equal and found == Comparison([], [], [], 1) and found.summary() == "nothing"


def test_config_keys_are_named_with_both_values(two: Any) -> None:
    other = {**MANIFEST, "config": {"gamma": 0.9, "tau": 0.1}, "algorithm": "bc"}
    found = two(state(), state(), about_b=other)
    assert not found.equal
    assert found.config == [
        ValueDifference("algorithm", "sac", "bc"),
        ValueDifference("config.gamma", 0.99, 0.9),
        ValueDifference("config.net_arch", [8], None),
        ValueDifference("config.tau", None, 0.1),
    ]
    assert found.summary() == "4 config keys"


def test_counters_are_all_that_is_no_tensor(two: Any) -> None:
    found = two(state(n_updates=3, flag=True), state(n_updates=4, flag=1))
    assert found.counters == [ValueDifference("n_updates", 3, 4), ValueDifference("flag", True, 1)]
    assert found.summary() == "2 counters"


def test_a_tensor_is_measured_by_its_largest_difference(two: Any) -> None:
    found = two(state([1.0, 2.0, 3.0, 0.0]), state([1.0, 2.5, 2.0, -0.0]))
    assert found.tensors == [TensorDifference("learner.w", "float32 (4,)", "float32 (4,)", 1.0, 2)]
    assert not found.equal and found.summary() == "1 of 1 tensors"


def test_differences_are_found_beyond_the_first_million_elements(two: Any) -> None:
    a, b = torch.zeros(2**20 + 5), torch.zeros(2**20 + 5)
    b[-1] = 0.5
    assert two({"w": a}, {"w": b}).tensors[0].max_difference == 0.5


@pytest.mark.parametrize(
    ("tolerance", "n"), [({}, 2), ({"atol": 0.05}, 2), ({"atol": 0.2}, 1), ({"rtol": 0.1}, 1), ({"atol": 10.0}, 0), ({"rtol": 0.6}, 0)]
)
def test_tolerances_decide_what_counts(two: Any, tolerance: dict[str, float], n: int) -> None:
    found = two(state([1.0, 2.0, 8.0]), state([1.0, 2.125, 18.0]), **tolerance)
    assert found.tensors[0].n_different == n and found.tensors[0].max_difference == 10.0
    assert found.equal == (n == 0)


def test_tolerance_reaches_floats_among_the_counters_and_no_integer(two: Any) -> None:
    a, b = {"x": 1.0, "n": 1, "i": torch.tensor([1])}, {"x": 1.5, "n": 2, "i": torch.tensor([2])}
    found = two(a, b, atol=10.0)
    assert found.counters == [ValueDifference("n", 1, 2)] and found.tensors[0].n_different == 1


def test_nan_equals_nan_and_nothing_else(two: Any) -> None:
    nan, inf = math.nan, math.inf
    assert two(state([nan, inf, -inf]), state([nan, inf, -inf])).equal
    for a, b in (([nan], [1.0]), ([inf], [-inf]), ([1.0], [inf])):
        found = two(state(a), state(b), atol=1e9, rtol=1.0)
        assert found.tensors[0] == TensorDifference("learner.w", "float32 (1,)", "float32 (1,)", inf, 1)


@pytest.mark.parametrize(
    ("a", "b"), [(2**53, 2**53 + 1), (-(2**63), 2**63 - 1), (0, 255)]
)
def test_integers_are_compared_exactly(two: Any, a: int, b: int) -> None:
    found = two({"i": torch.tensor([a, 7])}, {"i": torch.tensor([b, 7])})
    assert found.tensors[0].n_different == 1
    assert found.tensors[0].max_difference == pytest.approx(b - a)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint16, torch.uint64, torch.bfloat16, torch.complex64])
def test_every_dtype_that_a_checkpoint_holds_can_be_compared(two: Any, dtype: torch.dtype) -> None:
    a, b = torch.zeros(3).to(dtype), torch.ones(3).to(dtype)
    assert two({"x": a}, {"x": a.clone()}).equal
    assert two({"x": a}, {"x": b}).tensors[0].max_difference == 1.0


def test_another_shape_or_dtype_or_a_missing_tensor_is_shown_without_a_figure(two: Any) -> None:
    a = {"shape": torch.zeros(2, 3), "dtype": torch.zeros(2), "only a": torch.zeros(1)}
    b = {"shape": torch.zeros(3, 2), "dtype": torch.zeros(2).double(), "only b": torch.zeros(())}
    found = two(a, b, atol=1e9)
    assert found.tensors == [
        TensorDifference("shape", "float32 (2, 3)", "float32 (3, 2)"),
        TensorDifference("dtype", "float32 (2,)", "float64 (2,)"),
        TensorDifference("only a", "float32 (1,)", None),
        TensorDifference("only b", None, "float32 ()"),
    ]
    assert not found.equal and found.n_tensors == 4


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "a.pt", state(), MANIFEST)
    (tmp_path / "b.pt").write_bytes(good.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"b\.pt"):
        compare(good, tmp_path / "b.pt")


def test_torch_is_imported_only_when_something_is_compared() -> None:
    code = "import sys, rlox.checkpoint.compare; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
