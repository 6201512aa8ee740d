"""Scores worked out by hand."""

from __future__ import annotations

import numpy as np

from understudy.detectors.one_at_a_time import OneAtATime
from understudy.types import Floats
from understudy.views import WINDOW, Scale
from understudy.views.base import Floats32

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(300, 5))
SCALE = Scale.fit(ROWS)


def edited(row: Floats, *fields: int) -> Floats:
    found = row.copy()
    found[list(fields)] += 1
    return found


def scores(asked: list[Floats], at_once: int = 1000) -> list[float]:
    found, ring = list[float](), np.zeros((0, 5), np.float32)
    for start in range(0, len(asked), at_once):
        x = np.array(asked[start : start + at_once])
        view = SCALE.view(x, np.zeros(len(x), np.int64), np.zeros(len(x)), ring).beside(ring)
        found += OneAtATime().score(view).tolist()
        assert view.past is not None
        kept: Floats32 = view.past.earlier[-WINDOW:]
        ring = kept
    return found


def test_fields_of_one_record_are_counted_each_by_itself_whatever_is_asked_in_between() -> None:
    record, others = ROWS[0], ROWS[10:14]
    asked = [record, others[0], edited(record, 0), others[1], edited(record, 1), edited(record, 1) * 1.0]
    asked += [others[2], 2 * edited(record, 2) - record, edited(others[1], 3), edited(record, 0, 3), edited(record, 4)]
    asked[5][1] += 1  # the same field, another value
    nan = float("nan")
    expected = [nan, nan, 1, nan, 2, 2, nan, 3, 1, 2, 4]
    # the tenth differs from the record in two fields: it is an edit of the third query, which has none but it and the
    # record, in field 0
    for at_once in (1000, 3, 1):
        np.testing.assert_array_equal(scores(asked, at_once), expected)


def test_a_record_that_is_no_longer_kept_is_edited_no_more() -> None:
    record, fill = ROWS[0], list(RNG.normal(size=(WINDOW, 5)))
    asked = [record, edited(record, 0), *fill[:-2], edited(record, 1), edited(record, 2)]
    found = scores(asked)
    assert found[1] == 1
    assert found[-2] == 2  # the record is the oldest of the window
    assert np.isnan(found[-1])
