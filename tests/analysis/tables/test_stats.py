from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from analysis.tables.stats import half_interval, t_quantile


@pytest.mark.parametrize(
    "degrees_of_freedom, printed",
    [
        (1, 12.706),
        (2, 4.303),
        (5, 2.571),
        (10, 2.228),
        (30, 2.042),
        (31, 2.040),
        (40, 2.021),
        (60, 2.000),
        (120, 1.980),
    ],
)
def test_quantiles_are_those_of_printed_tables(degrees_of_freedom, printed):
    assert t_quantile(degrees_of_freedom) == printed


def test_quantiles_are_those_of_the_distribution_at_any_number_of_degrees_of_freedom():
    for degrees_of_freedom in (*range(1, 200), 1000, 100_000):
        assert t_quantile(degrees_of_freedom) == pytest.approx(t.ppf(0.975, degrees_of_freedom), abs=5.001e-4)


@pytest.mark.parametrize("count", [2, 31, 32, 100])
def test_the_half_interval_is_the_quantile_times_the_standard_error(count):
    values = np.random.default_rng(0).normal(size=count)
    low, high = t.interval(0.95, count - 1, loc=values.mean(), scale=values.std(ddof=1) / math.sqrt(count))
    assert half_interval(values) == pytest.approx((high - low) / 2, rel=3e-4)
    assert half_interval([*values, math.nan]) == half_interval(values)
