"""Space codecs: observations to flat vectors, actions to the environment's units, spaces to JSON and back."""

import json

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import assume, given
from hypothesis import strategies as st

from rlox.envs import ActionSpace, ObsSpace, same_space, space_from_json, space_to_json
from rlox.errors import CheckpointError, DatasetError, SpaceError

MIXED = spaces.Dict({
    "b": spaces.Box(-1.0, 1.0, (2, 2), np.float64),
    "a": spaces.Discrete(3, start=5),
    "c": spaces.MultiBinary(2),
    "d": spaces.MultiDiscrete([2, 3]),
})
SAMPLE = {"b": np.array([[0.1, 0.2], [0.3, 0.4]]), "a": 6, "c": np.array([1, 0], np.int8), "d": np.array([1, 2])}
ENCODED = [0, 1, 0, 0.1, 0.2, 0.3, 0.4, 1, 0, 0, 1, 0, 0, 1]


def test_dict_is_encoded_in_sorted_key_order_with_one_hots():
    codec = ObsSpace(MIXED)
    assert codec.dim == 14
    assert codec.encode(SAMPLE).tolist() == pytest.approx(ENCODED)
    assert codec.encode(SAMPLE).dtype == np.float32


def test_batch_of_dicts_and_dict_of_batches_are_the_same():
    codec = ObsSpace(MIXED)
    batched = {key: np.stack([value, value]) for key, value in SAMPLE.items()}
    rows = codec.encode_batch([SAMPLE, SAMPLE])
    assert rows.shape == (2, 14)
    np.testing.assert_array_equal(rows, codec.encode_batch(batched))


@pytest.mark.parametrize("space", [
    spaces.Box(-5, 5, (), np.float64),
    spaces.Box(-5, 5, (3,), np.float32),
    spaces.Box(0, 255, (7,), np.uint8),
    spaces.Box(-5, 5, (2, 3), np.int32),
    spaces.Discrete(4),
    spaces.MultiBinary((2, 2)),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.Dict({"x": spaces.Dict({"y": spaces.Discrete(2)}), "z": spaces.Box(0, 1, (2,))}),
])  # fmt: skip
def test_samples_of_every_supported_space_encode_alone_and_in_batches(space):
    codec = ObsSpace(space)
    space.seed(0)
    samples = [space.sample() for _ in range(5)]
    rows = np.stack([codec.encode(s) for s in samples])
    assert rows.shape == (5, codec.dim) and np.isfinite(rows).all()
    np.testing.assert_array_equal(rows, codec.encode_batch(samples))
    if not isinstance(space, spaces.Dict):
        np.testing.assert_array_equal(rows, codec.encode_batch(np.stack(samples)))
    for sample in samples:
        codec.check(sample)


def test_encoding_gives_fresh_memory():
    obs = np.zeros(3, np.float32)
    out = ObsSpace(spaces.Box(-1, 1, (3,))).encode(obs)
    obs[:] = 1
    assert out.tolist() == [0, 0, 0]


@pytest.mark.parametrize("space, word", [
    (spaces.Tuple([spaces.Discrete(2)]), "Tuple"),
    (spaces.Text(5), "Text"),
    (spaces.Graph(spaces.Box(0, 1), None), "Graph"),
    (spaces.Sequence(spaces.Discrete(2)), "Sequence"),
    (spaces.Box(0, 255, (84, 84, 3), np.uint8), "images"),
    (spaces.Dict({"camera": spaces.Dict({"left": spaces.Text(3)})}), "camera/left"),
    (spaces.Discrete(10**9), "1000000000 values"),
    (spaces.Box(0, 1, (0,)), "0 values"),
])  # fmt: skip
def test_unsupported_observation_spaces_are_refused_by_name(space, word):
    with pytest.raises(SpaceError, match=word):
        ObsSpace(space)


@pytest.mark.parametrize("space, obs, message", [
    (spaces.Box(-1, 1, (3,)), np.zeros(1, np.float32), r"shape \(1,\), must be \(3,\)"),
    (spaces.Box(-1, 1, (3,)), 0.5, r"shape \(\), must be \(3,\)"),
    (spaces.Box(-1, 1, (3,)), np.zeros(3, complex), "dtype complex128"),
    (spaces.Box(-1, 1, (3,)), np.array(["a", "b", "c"]), "dtype <U1"),
    (spaces.Box(0, 9, (1,), np.int64), np.array([0.5]), "dtype float64, must be int64"),
    (spaces.Discrete(3), 3, "is 3, must be in 0…2"),
    (spaces.Discrete(3), 1.0, "dtype float64"),
    (MIXED, {"a": 5}, "no 'b', it has keys"),
    (MIXED, np.zeros(3), "ndarray"),
])  # fmt: skip
def test_observations_outside_the_structure_are_named(space, obs, message):
    with pytest.raises(ValueError, match=message):
        ObsSpace(space).encode(obs)


def test_check_names_the_entry_out_of_bounds():
    with pytest.raises(ValueError, match=r"entry 1 is 2\.0, outside its space \[-1\.0, 1\.0\]"):
        ObsSpace(spaces.Box(-1, 1, (3,))).check(np.array([0, 2, 0], np.float32))
    with pytest.raises(ValueError, match="0 and 1 only"):
        ObsSpace(spaces.MultiBinary(2)).check(np.array([0, 2]))


def test_float64_just_at_the_float32_bound_is_inside():
    ObsSpace(spaces.Box(-0.1, 0.1, (1,))).check(np.array([0.1]))


def test_actions_are_scaled_per_dimension_with_both_bounds():
    space = ActionSpace(spaces.Box(np.array([-1, 0], np.float32), np.array([1, 5], np.float32)))
    assert (space.dim, space.discrete, space.n) == (2, False, 0)
    np.testing.assert_allclose(space.to_env(np.array([[0.5, 0.6], [-1, -1], [1, 1]])), [[0.5, 4], [-1, 0], [1, 5]])
    np.testing.assert_allclose(space.from_env(np.array([0.5, 4.0])), [0.5, 0.6], rtol=1e-6)
    assert space.to_env(np.zeros(2)).dtype == np.float32


def test_discrete_actions_start_where_the_space_starts():
    space = ActionSpace(spaces.Discrete(3, start=4))
    assert (space.discrete, space.n, space.dim) == (True, 3, 1)
    assert space.to_env(np.array([0, 2])).tolist() == [4, 6]
    assert space.from_env(np.array([4, 6])).tolist() == [0, 2]


floats = st.floats(-1e6, 1e6, width=32)


@given(a=floats, b=floats, x=st.floats(-1, 1, width=32))
def test_scaled_actions_never_leave_the_bounds(a, b, x):
    low, high = np.float32(min(a, b)), np.float32(max(a, b))
    assume(high / 2 > low / 2)
    space = ActionSpace(spaces.Box(low, high, (1,)))
    for value in (x, -1.0, 1.0):
        env = space.to_env(np.array([value], np.float32))
        assert low <= env[0] <= high
        assert -1 <= space.from_env(env)[0] <= 1


def box(low, high):
    space = spaces.Box(-1, 1, (len(low),))
    space.low, space.high = np.array(low, np.float32), np.array(high, np.float32)  # Box itself refuses some of these
    return space


@pytest.mark.parametrize("space, message", [
    (box([-1, -np.inf], [1, 1]), r"low\[1\] is unbounded \(-inf\)"),
    (box([-1, -1], [1, np.inf]), r"high\[1\] is unbounded \(inf\)"),
    (box([np.nan], [1]), r"low\[0\] is NaN"),
    (box([0, 2], [1, 1]), r"low\[1\] 2\.0 and high\[1\] 1\.0, low must be below high"),
    (box([1], [1]), r"low\[0\] 1\.0 and high\[0\] 1\.0"),
    (box([-3e38], [3e38]), "unbounded at index 0"),
    (spaces.Box(-1, 1, (0,)), "at least one dimension"),
    (spaces.Box(0, 9, (2,), np.int64), "dtype int64"),
    (spaces.MultiDiscrete([2, 2]), "MultiDiscrete"),
])  # fmt: skip
def test_unusable_action_spaces_name_bound_and_index(space, message):
    with pytest.raises(SpaceError, match=message):
        ActionSpace(space)


@pytest.mark.parametrize("space", [
    MIXED,
    spaces.Box(-np.inf, np.inf, (3,), np.float64),
    spaces.Box(np.array([-1, 0.1], np.float32), np.array([0.3, 5], np.float32)),
    spaces.Box(0, 255, (8, 8, 3), np.uint8),
    spaces.Box(-1, 1, ()),
    spaces.Discrete(3, start=-1),
    spaces.MultiBinary((2, 3)),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 1], [0, 0]]),
])  # fmt: skip
def test_spaces_survive_json_exactly(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    again = space_from_json(json.loads(text))
    assert same_space(space, again)
    if isinstance(space, spaces.Box):
        assert space.low.tobytes() == again.low.tobytes()


def test_spaces_with_other_bounds_differ():
    assert not same_space(spaces.Box(-1, 1, (2,)), spaces.Box(-1, 2, (2,)))
    assert not same_space(spaces.Discrete(2), spaces.Discrete(3))


@pytest.mark.parametrize("value", [
    None, [], "Box", {}, {"type": "os.system"}, {"type": "Box"},
    {"type": "Box", "shape": [10**13], "dtype": "float32", "low": 0, "high": 1},
    {"type": "Box", "shape": [-1], "dtype": "float32", "low": 0, "high": 1},
    {"type": "Box", "shape": [2], "dtype": "object", "low": 0, "high": 1},
    {"type": "Box", "shape": [2], "dtype": "float32", "low": [0], "high": 1},
    {"type": "Box", "shape": [2], "dtype": "float32", "low": "zero", "high": 1},
    {"type": "Box", "shape": [2], "dtype": "float32", "low": [[0], 1], "high": 1},
    {"type": "Discrete", "n": 2.5, "start": 0}, {"type": "Discrete", "n": -1, "start": 0},
    {"type": "Discrete", "n": 10**30, "start": 0}, {"type": "Discrete", "n": True, "start": 0},
    {"type": "MultiDiscrete", "nvec": ["a"], "start": [0], "dtype": "int64"},
    {"type": "MultiDiscrete", "nvec": [[1], [2, 3]], "start": [0], "dtype": "int64"},
    {"type": "Dict", "spaces": [1]}, {"type": "Dict", "spaces": {"x": 1}},
])  # fmt: skip
def test_anything_but_a_description_of_a_space_is_refused(value):
    with pytest.raises(CheckpointError, match="not the description of a space"):
        space_from_json(value)


def test_deep_nesting_is_refused_with_the_error_asked_for():
    value = {"type": "Discrete", "n": 2, "start": 0}
    for _ in range(50):
        value = {"type": "Dict", "spaces": {"x": value}}
    with pytest.raises(DatasetError):
        space_from_json(value, error=DatasetError)
