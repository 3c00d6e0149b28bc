"""Learning curves: values of runs on one grid, their middle and interval."""

from __future__ import annotations

import numpy as np
import pytest
from run_folders import make_run
from scipy import stats

from rlox.errors import ConfigError
from rlox.runs import curves
from rlox.runs.curves import Series, make_curve, read_series
from rlox.runs.reading import open_run

METRIC = "eval/return_mean"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def a_run(returns, name="a", **given):
    return open_run(make_run(f"runs/{name}", returns, **given))


def series(*pairs):
    return [Series(None, np.array(x, float), np.array(y, float)) for x, y in pairs]


def append(run, *rows):
    import json

    with open(run.path / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_a_series_has_the_values_by_step_and_says_what_it_dropped():
    s = read_series(a_run({5000: -300.0, 10000: None, 15000: -100.0}), METRIC)
    assert s.x.tolist() == [5000, 15000] and s.y.tolist() == [-300, -100] and s.dropped == 1


def test_the_later_of_two_rows_of_one_step_counts():
    run = a_run({5000: -300.0})
    append(run, {"kind": "eval", "step": 5000, "metrics": {METRIC: -200.0}})
    assert read_series(run, METRIC).y.tolist() == [-200.0]


def test_smoothing_is_the_mean_of_the_last_values():
    run = a_run({1: 1.0, 2: 3.0, 3: 8.0, 4: 0.0})
    assert read_series(run, METRIC, smooth=3).y.tolist() == pytest.approx([1.0, 2.0, 4.0, 11 / 3])
    assert read_series(run, METRIC, smooth=1).y.tolist() == [1.0, 3.0, 8.0, 0.0]
    with pytest.raises(ConfigError, match="smooth is 0"):
        read_series(run, METRIC, smooth=0)


def test_an_evaluation_gets_its_time_from_the_rows_around_it():
    run = a_run({}, train=False)
    append(run,
           {"kind": "train", "step": 1000, "metrics": {"time/time_elapsed_s": 10.0}},
           {"kind": "eval", "step": 1500, "metrics": {METRIC: 1.0}},
           {"kind": "train", "step": 2000, "metrics": {"time/time_elapsed_s": 30.0}},
           {"kind": "eval", "step": 2000, "metrics": {METRIC: 2.0}})  # fmt: skip
    s = read_series(run, METRIC, "time")
    assert s.x.tolist() == [20.0, 30.0] and s.y.tolist() == [1.0, 2.0]


def test_the_clock_of_a_resumed_run_goes_on():
    run = a_run({}, train=False)
    for step, clock in ((1000, 10.0), (2000, 20.0), (3000, 4.0), (4000, 9.0)):
        append(run, {"kind": "train", "step": step, "metrics": {"time/time_elapsed_s": clock, "train/x": 1.0}})
    assert read_series(run, "train/x", "time").x.tolist() == [10.0, 20.0, 24.0, 29.0]


def test_without_a_clock_there_is_no_point_in_time():
    assert len(read_series(a_run([1.0], train=False), METRIC, "time").x) == 0


def test_runs_on_one_grid_keep_it():
    runs = series(([10, 20, 30], [1, 2, 3]), ([10, 20, 30], [3, 4, 8]))
    curve = make_curve(runs, "mean")
    assert curve.x.tolist() == [10, 20, 30] and curve.n.tolist() == [2, 2, 2]
    assert curve.y.tolist() == [2.0, 3.0, 5.5]
    assert curve.low.tolist() == [1.0, 2.0, 3.0] and curve.high.tolist() == [3.0, 4.0, 8.0]  # of two runs: their ends


def test_runs_on_different_grids_are_straight_between_their_points():
    curve = make_curve(series(([0, 20], [0, 10]), ([0, 10, 20], [2, 4, 8])), "mean")
    assert curve.x.tolist() == [0, 10, 20] and curve.y.tolist() == [1.0, 4.5, 9.0]


def test_a_run_has_no_value_before_its_first_and_after_its_last_point():
    curve = make_curve(series(([0, 10, 20, 30], [0, 1, 2, 3]), ([10, 20], [5, 6])), "mean")
    assert curve.n.tolist() == [1, 2, 2, 1] and curve.y.tolist() == [0.0, 3.0, 4.0, 3.0]
    assert np.isnan(curve.low).tolist() == [True, False, False, True]


def test_the_middle_is_the_interquartile_mean_and_the_band_its_interval():
    draws = np.random.default_rng(0)
    table = draws.normal(size=(9, 4))
    curve = make_curve(series(*((range(4), row) for row in table)))
    np.testing.assert_allclose(curve.y, stats.trim_mean(table, 0.25, axis=0))
    for k in range(4):
        theirs = stats.bootstrap((table[:, k],), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), n_resamples=10_000,
                                 method="percentile", rng=draws).confidence_interval  # fmt: skip
        assert (curve.low[k], curve.high[k]) == pytest.approx((theirs.low, theirs.high), abs=0.12)


def test_a_narrower_level_gives_a_narrower_band():
    runs = series(*((range(3), row) for row in np.random.default_rng(1).normal(size=(8, 3))))
    wide, narrow = make_curve(runs, level=0.95), make_curve(runs, level=0.5)
    assert (wide.high - wide.low > narrow.high - narrow.low).all()


def test_many_points_become_a_grid_of_few():
    x = np.arange(3000)
    curve = make_curve(series((x, x * 2.0), (x + 0.5, x * 2.0 + 1)), "mean")
    assert len(curve.x) == curves.MAX_POINTS
    np.testing.assert_allclose(curve.y, 2 * curve.x)


def test_one_run_has_a_curve_and_no_band():
    curve = make_curve(series(([1, 2], [3, 4])))
    assert curve.y.tolist() == [3, 4] and np.isnan(curve.low).all() and np.isnan(curve.high).all()


def test_nothing_to_draw_and_levels_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="no run has a point"):
        make_curve(series(([], [])))
    with pytest.raises(ConfigError, match="level is 1"):
        make_curve(series(([1], [1])), level=1)
