"""Intervals against numbers worked out by hand, with t from a printed table."""

import math

import numpy as np
import pytest

from experiments.results.intervals import estimate, paired, spread_over_seeds

T_2, T_3 = 4.303, 3.182  # 97.5% points of Student's t with 2 and 3 degrees of freedom


def test_one_sample():
    # Mean 3, squared deviations 4 + 1 + 1 + 4 = 10, variance 10/3, four values.
    result = estimate([1.0, 2.0, 4.0, 5.0])
    margin = T_3 * math.sqrt(10 / 3) / 2
    assert result.mean == 3.0
    assert result.n == 4
    assert result.margin == pytest.approx(margin, rel=1e-3)
    assert result.low == pytest.approx(3 - margin, abs=3e-3)


def test_one_value_has_no_interval():
    result = estimate([0.5])
    assert result.mean == 0.5
    assert math.isnan(result.low)
    assert math.isnan(result.high)


def test_pairs_are_splits_where_there_are_several():
    a = np.array([[3.0, 5.0], [4.0, 4.0], [1.0, 5.0]])
    b = np.array([[1.0, 3.0], [2.0, 4.0], [0.0, 0.0]])
    # Differences of the splits' means: 2, 1, 3; standard deviation 1.
    result = paired(a, b)
    assert result.over == "splits"
    assert result.estimate.n == 3
    assert result.estimate.mean == 2.0
    assert result.estimate.margin == pytest.approx(T_2 / math.sqrt(3), rel=1e-3)


def test_pairs_are_seeds_on_one_split():
    result = paired(np.array([[3.0, 4.0, 8.0]]), np.array([[2.0, 2.0, 5.0]]))
    assert result.over == "seeds"
    assert result.estimate.mean == 2.0
    assert result.estimate.margin == pytest.approx(T_2 / math.sqrt(3), rel=1e-3)


def test_spread_is_within_splits_only():
    # Variances 2 and 8 within, and 100 between, which must not count.
    values = np.array([[1.0, 3.0], [101.0, 105.0]])
    assert spread_over_seeds(values) == pytest.approx(math.sqrt(5))
    assert math.isnan(spread_over_seeds(np.ones((3, 1))))
