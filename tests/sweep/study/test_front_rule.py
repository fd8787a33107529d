"""The rule by which runs are dropped, on numbers that can be worked out by hand."""

from __future__ import annotations

import pytest

from sweep.study.front_rule import FrontRule, OnFront, why_dropped

FRONT = [OnFront(100, {30: 0.8, 60: 0.7}), OnFront(200, {30: 0.6, 60: 0.5}), OnFront(400, {30: 0.4, 60: 0.3})]
ONE, HALF, ALL = (FrontRule(share=share, margin=0.05) for share in (0, 0.5, 1))


def test_a_run_is_compared_with_the_fronts_saes_of_at_most_its_size_alone():
    assert why_dropped(99, 30, 5.0, FRONT, ONE) is None
    assert why_dropped(100, 30, 0.81, FRONT, ONE) is None
    assert "1 of the front's 1 SAEs" in str(why_dropped(100, 30, 0.85, FRONT, ONE))
    assert "1 of the front's 2 SAEs" in str(why_dropped(399, 30, 0.64, FRONT, ONE))


@pytest.mark.parametrize("rule, least", [(ONE, 0.42), (HALF, 0.63), (ALL, 0.84)])
def test_the_share_says_how_many_must_do_better(rule, least):
    assert why_dropped(400, 30, least - 1e-6, FRONT, rule) is None
    assert why_dropped(400, 30, least + 1e-6, FRONT, rule) is not None


def test_a_difference_within_the_margin_is_none():
    for margin in (0, 0.05, 0.5):
        rule = FrontRule(0, margin)
        assert why_dropped(100, 30, 0.8 * (1 + margin) - 1e-6, FRONT, rule) is None
        assert why_dropped(100, 30, 0.8 * (1 + margin) + 1e-6, FRONT, rule) is not None


def test_nothing_is_dropped_in_the_first_part_nor_at_the_end():
    everywhere = [OnFront(1, dict.fromkeys(range(5, 101, 5), 0.1))]
    hit = [p for p in range(5, 101, 5) if why_dropped(9, p, 0.9, everywhere, FrontRule(after=0.25))]
    assert hit == list(range(25, 100, 5))
    hit = [p for p in range(5, 101, 5) if why_dropped(9, p, 0.9, everywhere, FrontRule(after=0.5))]
    assert hit == list(range(50, 100, 5))


def test_saes_whose_fvu_at_that_point_is_unknown_are_passed_over():
    assert why_dropped(400, 45, 9.0, FRONT, ONE) is None
    assert why_dropped(400, 30, 9.0, [], ONE) is None
    assert "2 of the front's 2 SAEs" in str(why_dropped(400, 30, 0.9, [*FRONT[1:], OnFront(1, {60: 0.1})], ALL))


def test_the_reason_is_one_line_with_the_numbers():
    why = why_dropped(123_456, 30, 0.7, FRONT, HALF)
    assert why == (
        "FVU 0.700 at 30 % of training is over 5 % more than 2 of the front's 3 SAEs of at most its 123,456 bytes had "
        "there, the best of them 0.400"
    )
