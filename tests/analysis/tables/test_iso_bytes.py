from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analysis.tables.iso_bytes import ANY, ANY_BITS, AT_DENSE_COST, FLOATS, ONE_SHOT, iso_bytes_table
from tests.analysis.synthetic import M, N, reading, record

DENSE_BYTES = 4 * (M * N + N + M)


def made_record(arm, seed, ce, share, d=2, **sizes):
    """Return a record whose file is as large as the dense bytes over `share`."""
    return record(arm, d, 8, seed, ce, stored=DENSE_BYTES // share, **sizes)


def dense(arm, seed, ce, share, n_latents, **more):
    return made_record(arm, seed, ce, share, degree=M, n_latents=n_latents, **more)


@pytest.fixture
def table(recorded):
    """The table of a few arms; below, the shares of the dense bytes that each one's file has.

    expander d=2 at 1/50: .70, by OMP .90; rounded at 1/200: .69. dense_matched at 1/25: .80, by OMP .85. dense_tied:
    .95. The random dictionary at 1/400: .60; soft_frozen at 1/100, which must be no candidate: .99.
    """
    made = []
    for seed, more in enumerate((-0.01, 0.0, 0.03)):
        expander = made_record("expander", seed, 0.70 + more, 50)
        expander["inference"]["omp"] = reading(expander["metrics"], M * N, 0.2)
        cheap = dense("dense_matched", seed, 0.80 + more / 2, 25, 16)
        cheap["inference"]["omp"] = reading(cheap["metrics"], 10 * M * 16, 0.05)
        made += [expander, cheap, made_record("expander-8bit", seed, 0.69 + more, 200)]
        made += [dense("dense_tied", seed, 0.95, 1, N), made_record("frozen_random", seed, 0.60 + more, 400)]
        made += [made_record("soft_frozen", seed, 0.99, 100)]
    found = iso_bytes_table(recorded(*made).readings)
    return found.set_index(["values", "share", "rule"]).sort_index()


def test_each_level_has_the_best_of_each_kind_that_fits(table):
    row = table.loc[(ANY_BITS, 25, ONE_SHOT)]
    assert (row["level"], row["sparse"], row["dense"]) == (DENSE_BYTES // 25, "expander", "dense_matched")
    assert row["sparse_mean"] == pytest.approx(0.70 + 0.02 / 3) and row["dense_mean"] == pytest.approx(0.80 + 0.01 / 3)
    apart = np.array([0.69, 0.70, 0.73]) - np.array([0.795, 0.80, 0.815])
    assert row["difference"] == pytest.approx(apart.mean()) and row["difference_seeds"] == 3
    assert row["difference_half_interval"] == pytest.approx(4.303 * apart.std(ddof=1) / math.sqrt(3), rel=1e-3)
    assert row["retained"] == pytest.approx((0.70 + 0.02 / 3) / 0.95) and row["retained_seeds"] == 3
    assert row["floor"] == pytest.approx(0.60 + 0.02 / 3)


def test_any_reading_counts_where_it_may_and_a_dear_one_shuts_itself_out(table):
    row = table.loc[(ANY_BITS, 25, ANY)]
    assert (row["sparse_inference"], row["dense_inference"]) == ("omp", "omp")
    row = table.loc[(ANY_BITS, 25, AT_DENSE_COST)]  # the expander's OMP takes more than the dense one's M * 16
    assert (row["sparse_inference"], row["dense_inference"]) == ("encoder", "omp")
    assert row["sparse_multiply_adds"] == 2 * N <= M * 16


def test_values_of_32_bits_are_compared_on_their_own(table):
    assert table.loc[(ANY_BITS, 100, ONE_SHOT), "sparse"] == "expander-8bit"
    assert not table.index.isin([(FLOATS, 100, ONE_SHOT), (FLOATS, 200, ONE_SHOT)]).any()
    assert table.loc[(FLOATS, 50, ONE_SHOT), "sparse"] == "expander"


def test_a_level_without_a_rival_says_so(table):
    row = table.loc[(ANY_BITS, 50, ONE_SHOT)]
    assert pd.isna(row["dense"]) and math.isnan(row["difference"]) and row["difference_seeds"] == 0
    assert not table.index.isin([(ANY_BITS, 50, AT_DENSE_COST)]).any()
    assert not table.index.isin([(ANY_BITS, 400, ANY)]).any()  # only the floor fits


def test_what_stays_near_a_random_dictionary_is_no_candidate(table):
    assert "soft_frozen" not in set(table["sparse"])


def test_a_single_run_wins_only_where_there_is_nothing_else(recorded):
    made = [made_record("expander", seed, 0.70, 50) for seed in (0, 1)] + [made_record("banded", 0, 0.9, 50)]
    made += [made_record("clustered", 0, 0.8, 100)] + [dense("dense_matched", seed, 0.6, 50, 16) for seed in (0, 1)]
    found = iso_bytes_table(recorded(*made).readings).set_index(["values", "share", "rule"])
    assert found.loc[(FLOATS, 50, ONE_SHOT), "sparse"] == "expander"
    assert found.loc[(FLOATS, 100, ONE_SHOT), "sparse"] == "clustered"
    assert found.loc[(FLOATS, 100, ONE_SHOT), "sparse_seeds"] == 1
