"""The observation normaliser against NumPy."""

import numpy as np
import pytest

from rlox.envs import Normalizer
from rlox.errors import ConfigError


def data(n=1000, dim=3):
    return (np.random.default_rng(0).normal(size=(n, dim)) * [1, 100, 1e-3] + [0, 1e4, -5]).astype(np.float32)


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_statistics_equal_numpys_over_everything_seen(size):
    x, norm = data(), Normalizer(3)
    for start in range(0, len(x), size):
        norm.update(x[start : start + size])
    np.testing.assert_allclose(norm.mean, x.astype(np.float64).mean(0), rtol=1e-9)
    np.testing.assert_allclose(norm.var, x.astype(np.float64).var(0), rtol=1e-7)
    assert norm.count == 1000


def test_normalised_values_are_the_formulas_and_clipped():
    norm = Normalizer(2)
    norm.update(np.array([[0.0, 1.0], [2.0, 1.0]]))  # mean (1, 1), variance (1, 0)
    out = norm(np.array([[3.0, 1.0], [-100.0, 2.0]], np.float32))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [[2, 0], [-10, 10]], rtol=1e-6)
    np.testing.assert_allclose(norm(np.array([3.0, 1.0])), [2, 0], rtol=1e-6)


def test_before_the_first_update_nothing_changes():
    np.testing.assert_allclose(Normalizer(2)(np.array([[0.5, -3.0]])), [[0.5, -3.0]], rtol=1e-6)


def test_empty_batch_changes_nothing():
    norm = Normalizer(2)
    norm.update(np.zeros((0, 2)))
    assert norm.count == 0 and norm.var.tolist() == [1, 1]


def test_frozen_copy_refuses_updates_and_keeps_its_statistics():
    norm = Normalizer(3)
    norm.update(data()[:10])
    frozen, x = norm.frozen(), data()[10:20]
    before = frozen(x)
    norm.update(x)
    np.testing.assert_array_equal(frozen(x), before)
    assert not np.array_equal(norm(x), before)
    with pytest.raises(ConfigError, match="frozen"):
        frozen.update(x)


def test_fixed_statistics_are_not_clipped_and_use_the_given_epsilon():
    norm = Normalizer.fixed(np.array([1.0]), np.array([0.0]), 1e-3)
    assert norm(np.array([[2.0]])).item() == pytest.approx(1000)
    with pytest.raises(ConfigError):
        norm.update(np.zeros((1, 1)))
    assert norm.frozen()(np.array([[2.0]])).item() == pytest.approx(1000)


def test_state_goes_on_bit_for_bit():
    one, two = Normalizer(3), Normalizer(3)
    one.update(data()[:100])
    two.load_state_dict(one.state_dict())
    for norm in (one, two):
        norm.update(data()[100:300])
    assert one.mean.tobytes() == two.mean.tobytes() and one.var.tobytes() == two.var.tobytes()
    assert one(data()).tobytes() == two(data()).tobytes()


def test_state_of_another_size_is_refused():
    with pytest.raises(ConfigError, match=r"\(2,\), must be \(3,\)"):
        Normalizer(3).load_state_dict(Normalizer(2).state_dict())
