import numpy as np
import pytest
from numpy_ring import KEYS, NumpyRing, stream

from rlox._ext import layout
from rlox.buffers import ReplayBuffer
from rlox.errors import CheckpointError, CheckpointMismatchError


def filled(n, capacity=20, known=0.5, end=0.3, seed=0):
    buffer, rest = (
        ReplayBuffer(capacity, 2, 1, n_envs=3),
        list(stream(np.random.default_rng(seed), 200, n_envs=3, known=known, end=end)),
    )
    for *row, env in rest[:n]:
        buffer.push(*row, env=env)
    return buffer, rest[n:]


@pytest.mark.parametrize("n", [0, 1, 5, 19, 20, 21, 90])
@pytest.mark.parametrize("wide", [False, True])
def test_a_loaded_buffer_goes_on_bit_for_bit(n, wide, monkeypatch):
    if wide:
        monkeypatch.setattr(layout, "_NARROW_LIMIT", 1)
    saved, rest = filled(n)
    loaded = ReplayBuffer(20, 2, 1, n_envs=3)
    loaded.push([9, 9], [9], 9, True, False)  # what it held before is gone
    loaded.load_state_dict(saved.state_dict())
    for k, (*row, env) in enumerate(rest):
        for buffer in (saved, loaded):
            buffer.push(*row, env=env)
        if saved._store.n_unknown < len(saved):
            one, other = saved.sample(16, k), loaded.sample(16, k)
            assert all(np.array_equal(one[key], other[key]) for key in (*KEYS, "indices"))
    final = saved.state_dict(), loaded.state_dict()
    for key, value in final[0].items():
        np.testing.assert_array_equal(value, final[1][key], err_msg=key)


def test_state_holds_copies_of_the_rows_in_use_only():
    buffer, _ = filled(5, capacity=1000)
    state = buffer.state_dict()
    assert len(state["rows"]) == 5 and len(state["slots"]) <= 5
    before = state["rows"].copy()
    for _ in range(2000):
        buffer.push([7, 7], [7], 7, True, False, [8, 8])
    np.testing.assert_array_equal(state["rows"], before)


def test_equal_contents_have_equal_states_down_to_the_padding():
    states = []
    for _ in range(2):
        buffer = ReplayBuffer(9, 3, 1, obs_dtype="uint8")
        buffer.push([1, 2, 3], [0.5], 1, False, False, [4, 5, 6])
        buffer.push([4, 5, 6], [0.5], 1, True, False, [7, 8, 9])
        states.append(buffer.state_dict())
        np.empty(1 << 20, np.uint8).fill(255)  # dirty memory for whoever allocates next
    for key, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][key])


def test_tensors_and_tuples_from_a_file_are_taken():
    class Tensor:
        def __init__(self, array):
            self.array = array

        def __array__(self, dtype=None, copy=None):
            return np.array(self.array, dtype)

    saved, _ = filled(50)
    state = {
        k: Tensor(v) if isinstance(v, np.ndarray) else tuple(v) if isinstance(v, list) else v
        for k, v in saved.state_dict().items()
    }
    loaded = ReplayBuffer(20, 2, 1, n_envs=3)
    loaded.load_state_dict(state)
    assert np.array_equal(loaded.sample(9, 1)["obs"], saved.sample(9, 1)["obs"])


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"capacity": 21}, "capacity"),
        ({"obs_dim": 3}, "obs_shape"),
        ({"act_dim": 2}, "act_shape"),
        ({"n_envs": 2}, "n_envs"),
        ({"obs_dtype": "float64"}, "obs_dtype"),
        ({"discrete": True}, "act_shape"),
    ],
)
def test_a_state_of_other_arguments_is_refused_by_name(arguments, field):
    saved, _ = filled(5)
    other = ReplayBuffer(**{"capacity": 20, "obs_dim": 2, "act_dim": 1, "n_envs": 3, **arguments})
    with pytest.raises(CheckpointMismatchError, match=f"the saved buffer has {field}"):
        other.load_state_dict(saved.state_dict())


def put_word(state, row, word):
    state["rows"][row, -4:] = np.frombuffer(np.uint32(word).tobytes(), np.uint8)


def free_list_cycle(state):
    state["slots"][state["free_slot"], :8] = np.frombuffer(np.int64(state["free_slot"]).tobytes(), np.uint8)


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: put_word(s, 3, 1000 << 3),
        lambda s: put_word(s, 3, (1000 << 3) | 4),
        lambda s: [put_word(s, row, (2 << 3) | 4) for row in (3, 4)],
        lambda s: s.update(free_slot=len(s["slots"])),
        lambda s: s.update(free_slot=-2),
        lambda s: s.update(free_slot=-1),
        free_list_cycle,
        lambda s: s.update(total=-1),
        lambda s: s.update(total=2),
        lambda s: s.update(total=True),
        lambda s: s.update(total=2**70),
        lambda s: s.update(free_slot=-(2**70)),
        lambda s: s.update(total="60"),
        lambda s: s.update(rows=s["rows"][:-1]),
        lambda s: s.update(rows=s["rows"].astype(np.int8)),
        lambda s: s.update(rows=s["rows"].ravel()),
        lambda s: s.update(slots=np.zeros((21, 8), np.uint8)),
        lambda s: s["newest"].fill(60),
        lambda s: s["newest"].fill(-2),
        lambda s: s.pop("newest"),
        lambda s: s.pop("free_slot"),
    ],
)
def test_a_state_that_contradicts_itself_is_refused_and_leaves_a_usable_buffer(damage):
    saved, rest = filled(60, known=1.0)
    state = saved.state_dict()
    assert state["free_slot"] >= 0
    damage(state)
    buffer = ReplayBuffer(20, 2, 1, n_envs=3)
    with pytest.raises(CheckpointError, match="the saved buffer"):
        buffer.load_state_dict(state)
    assert len(buffer) == 0
    ring = NumpyRing(20)
    for *row, env in rest:
        buffer.push(*row, env=env)
        ring.push(*row, env)
    ring.check(buffer)
