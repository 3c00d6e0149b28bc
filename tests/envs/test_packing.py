"""Plain data as bytes: exact both ways, refused where it is not plain, harmless where the bytes are foreign."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rlox.envs.packing import DTYPES, MAX_BYTES, MAX_OUTLINE, pack, unpack

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**300), 2**300), st.floats(), st.text(max_size=5),
    arrays(st.sampled_from([np.dtype(name) for name in DTYPES.values()]), array_shapes(min_dims=0, min_side=0, max_side=3)),
    st.floats(width=32).map(np.float32), st.integers(0, 2**64 - 1).map(np.uint64),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(-3, 3)), inner, max_size=3),
    ),
    max_leaves=8,
)


def same(a, b):
    """Whether two values are equal to the bit, types, order of keys and memory included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(same, a.values(), b.values()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray | np.generic):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return repr(a) == repr(b)


@given(VALUES)
def test_what_is_packed_comes_back_to_the_bit(value):
    assert same(unpack(pack(value)), value)


def test_order_of_memory_and_byte_order_are_kept_or_made_native():
    by_columns = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    back = unpack(pack([by_columns, by_columns[:, ::2], np.arange(3, dtype=">i4")]))
    assert back[0].flags.f_contiguous and not back[0].flags.c_contiguous and (back[0] == by_columns).all()
    assert (back[1] == by_columns[:, ::2]).all() and back[1].flags.writeable
    assert back[2].dtype == np.dtype("=i4") and back[2].tolist() == [0, 1, 2]


def test_arrays_that_come_back_are_the_receivers_own():
    data = pack(np.zeros(3))
    unpack(data)[:] = 7
    assert unpack(data).tolist() == [0, 0, 0]


class Text(str):
    pass


@pytest.mark.parametrize("value, words", [
    ({"a": {1, 2}}, r"state\['a'\] is a set"),
    ([b"x"], r"state\[0\] is a bytes"),
    (object(), "state is a object"),
    (np.random.default_rng(0), "state is a Generator"),
    (Text("x"), "state is a Text"),
    (np.array([None]), "state has dtype object"),
    (np.array(["x"]), "state has dtype <U1"),
    (np.ma.masked_array([1.0]), "state is a MaskedArray"),
    (np.zeros(1, [("a", "f4")]), "state has dtype"),
    ({(1, 2): 3}, r"state has the key \(1, 2\), keys must be str or int"),
    ({True: 3}, "state has the key True"),
    (2**2039, "state is an integer of 2040 bits"),
])  # fmt: skip
def test_what_is_not_plain_is_refused_and_its_place_named(value, words):
    with pytest.raises(ValueError, match=words):
        pack(value)


def test_limits_of_depth_and_size():
    deep: list = []
    for _ in range(33):
        deep = [deep]
    with pytest.raises(ValueError, match="more than 32 levels"):
        pack(deep)
    with pytest.raises(ValueError, match=r"1009 bytes|10\d\d bytes, at most 1000"):
        pack(np.zeros(1000, np.uint8), limit=1000)
    with pytest.raises(ValueError, match=f"bytes of structure, at most {MAX_OUTLINE}"):
        pack("x" * MAX_OUTLINE)
    with pytest.raises(ValueError, match=f"at most {MAX_BYTES}"):
        unpack(b"[]\n" + bytes(MAX_BYTES))


@pytest.mark.parametrize("outline", [
    {"a": 1}, [], ["set"], [1], ["dict", "a"], ["dict", "a", 1, "a", 2], ["dict", 1.5, 2], ["dict", True, 2],
    ["dict", None, 2], ["array"], ["array", "<f8"], ["array", "|O", "C"], ["array", "<f8", "A", 1],
    ["array", "<f8", "C", -1], ["array", "<f8", "C", 1.0], ["array", "<f8", "C", True], ["array", "<f8", "C", 2**70],
    ["array", ["<f8"], "C", 1], ["scalar", "<U4"], ["scalar"], ["scalar", "<f8", "<f8"],
])  # fmt: skip
def test_outline_that_pack_never_writes_is_refused(outline):
    with pytest.raises(ValueError, match="outline"):
        unpack(json.dumps(outline).encode() + b"\n" + bytes(8))


@pytest.mark.parametrize("data, words", [
    (b"", "no end"), (b"{", "no end"), (b"\n", "."), (b"nope\n", "."), (b"\xff\n", "."), (b"[" * 10**5 + b"\n", "."),
    (b'["array","<f8","C",2]\n' + bytes(8), "array of 16 bytes, 8 are left"),
    (b'["array","<f8","C",1000000000000]\n', "array of 8000000000000 bytes, 0 are left"),
    (b'["array","<f8","C",1]\n' + bytes(9), "9 bytes of arrays, its outline names 8"),
])  # fmt: skip
def test_bytes_that_are_no_state_are_a_value_error(data, words):
    with pytest.raises(ValueError, match=words):
        unpack(data)


@given(VALUES, st.data())
def test_damaged_bytes_are_a_value_error_or_another_plain_value(value, data):
    whole = pack(value)
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    for changed in (damaged, whole[:at]):
        try:
            pack(unpack(changed))
        except ValueError:
            continue
