"""Streams of random numbers: the same on every machine, independent, and invisible from outside."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlox.errors import ConfigError
from rlox.seeding import MAX_SEED, TorchStream, check_seed, derive, torch_generator


def test_derived_seeds_are_pinned_for_ever():
    assert derive(0, "sample") == 10271394312663648552
    assert derive(7, "env/3", 12) == 11695187052396958715


def test_seed_stream_and_counter_all_matter_and_do_not_run_into_each_other():
    seen = {derive(s, name, k) for s in (0, 1, 11) for name in ("a", "b", "env/1") for k in (0, 1, 11)}
    assert len(seen) == 27
    assert derive(1, "a", 11) != derive(11, "a", 1)
    assert all(0 <= x < 2**64 for x in seen)


def test_derived_seeds_use_all_64_bits():
    ones = np.array([[derive(0, "x", k) >> bit & 1 for bit in range(64)] for k in range(1000)]).mean(0)
    assert (abs(ones - 0.5) < 0.08).all()


@pytest.mark.parametrize("seed", [0, MAX_SEED, np.int64(5), np.uint32(MAX_SEED)])
def test_seeds_up_to_32_bits_are_taken(seed):
    assert check_seed(seed) == int(seed)
    assert type(check_seed(seed)) is int


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 1.0, "1", None, True])
def test_other_seeds_are_refused_by_name(seed):
    with pytest.raises(ConfigError, match="eval_seed is"):
        check_seed(seed, "eval_seed")


def test_generators_of_a_stream_are_equal_and_of_two_streams_differ():
    a, b, c = (torch.rand(4, generator=torch_generator(0, name)) for name in ("x", "x", "y"))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_stream_neither_sees_nor_changes_the_global_state():
    stream = TorchStream(0, "x")
    torch.manual_seed(1)
    with stream.use():
        first = torch.rand(3)
    outside = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(outside, torch.rand(3))
    torch.manual_seed(99)
    other = TorchStream(0, "x")
    with other.use():
        assert torch.equal(first, torch.rand(3))


def test_a_stream_goes_on_where_it_stopped_also_after_an_error():
    whole, parts = TorchStream(3, "x"), TorchStream(3, "x")
    with whole.use():
        expected = torch.rand(6)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with pytest.raises(KeyError), parts.use():
        first = torch.rand(2)
        raise KeyError
    assert torch.equal(torch.random.get_rng_state(), before)
    with parts.use():
        rest = torch.rand(4)
    assert torch.equal(torch.cat([first, rest]), expected)


def test_the_state_of_a_stream_goes_on_bit_for_bit():
    a = TorchStream(3, "x")
    with a.use():
        torch.rand(7)
    saved = a.state_dict()
    with a.use():
        expected = torch.rand(5)
    b = TorchStream(4, "other")
    b.load_state_dict(saved)
    with b.use():
        assert torch.equal(torch.rand(5), expected)
