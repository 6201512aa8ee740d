"""Accounts that are not followed with others: what depends on single queries is worked out for all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from desk import Desk

from understudy.gateway.runs import runs
from understudy.history import Row
from understudy.types import Answers, Floats, Signal
from understudy.watch import Queries, State, Watch
from understudy.watch.crowd import FEW

MANY = FEW + 8  # too many of one account to be followed with others


class Telling(Watch):
    """A watch that keeps what it was given."""

    def __init__(self, like: Watch) -> None:
        super().__init__(like.calibration)
        self.asked, self.given = list[list[str]](), dict[str, Floats | None]()

    def features(self, batch: Sequence[Queries]) -> Floats:
        self.asked.append([queries.principal for queries in batch])
        return super().features(batch)

    def advance(self, state: State, queries: Queries, features: Floats | None = None) -> State:
        self.given[state.principal] = features
        return super().advance(state, queries, features)


def telling(desk: Desk) -> Telling:
    feed = desk.open()
    watch = Telling(feed.watch)
    feed.watch = feed._follower._watch = watch
    return watch


@pytest.mark.parametrize("together", [4096, MANY + 1])
def test_whoever_asks_much_shares_what_can_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr("understudy.gateway.following._TOGETHER", together)
    desk = Desk(tmp_path)
    watch, names = telling(desk), ["shop-1", "shop-2", "shop-3"]
    rows = [desk.shop(name, MANY) for name in names]
    desk.write(*rows, desk.shop("few-1", 2))
    assert desk.feed is not None
    done = desk.feed.step(desk.now)
    assert (done.queries, done.damaged) == (3 * MANY + 2, 0)
    keys = [f"key:{name}" for name in names]
    assert watch.asked == ([keys] if together == 4096 else [keys[:2], keys[2:]])
    assert set(watch.given) == set(keys)
    alone = Watch(watch.calibration)
    for row in rows:
        account = desk.feed.states.get(row.principal)
        assert account is not None
        assert row.answers is not None
        features = watch.given[row.principal]
        assert features is not None
        queries = Queries(row.principal, row.party, np.full(MANY, row.at), row.inputs, row.answers, row.margin)
        np.testing.assert_allclose(features, alone.features([queries]), 1e-5, 1e-5)
        expected = alone.advance(alone.fresh(row.principal, row.party), queries, features)
        assert np.array_equal(account.state.peak, expected.peak)  # of all at once: a product rounds by its size
    desk.feed.close(desk.now)


def test_one_whose_inputs_are_no_numbers_costs_the_others_nothing_but_that(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    watch = telling(desk)
    odd = Answers({Signal.LABEL: np.zeros(MANY, np.int64)}, 10)
    rows = np.full((MANY, 64), "a word", object)
    desk.write(desk.rows("odd-1", rows, odd), desk.thief("thief-1", MANY))
    assert desk.feed is not None
    done = desk.feed.step(desk.now)
    assert done.damaged == MANY
    assert done.alarmed == ["key:thief-1"]
    assert watch.given == {"key:odd-1": None, "key:thief-1": None}
    desk.feed.close(desk.now)


def test_exchanges_become_runs_of_one_kind_in_their_order() -> None:
    rng = np.random.default_rng(3)

    def row(who: str, at: float, kind: str) -> Row:
        n = int(rng.integers(1, 4))
        x = None if kind == "blind" else rng.random((n, 2, 2)) if kind == "image" else rng.random((n, 4))
        told = {Signal.LABEL: rng.integers(0, 3, n)}
        soft = {} if kind == "label" else {Signal.PROBABILITIES: rng.dirichlet(np.ones(3), n)}
        margin = None if kind == "label" else rng.random(n)
        return Row(at, who, f"of-{who}", "t", "/", "v", "w", 200, n, x, Answers(told | soft, 3), margin)

    kinds = ["plain", "label", "blind", "plain", "image", "label", "label"]
    by_account = [[row(f"a{i}", float(10 * i + k), kinds[k]) for k in rng.integers(0, 7, 9)] for i in range(20)]
    found = runs(by_account)
    for i, rows in enumerate(by_account):
        mine = [queries for queries in found if queries.principal == f"a{i}"]
        assert {queries.party for queries in mine} == {f"of-a{i}"}
        assert np.concatenate([q.at for q in mine]).tolist() == [r.at for r in rows for _ in range(r.rows)]
        one_by_one = [
            (
                *(r.at, frozenset(r.answers.values), int(r.answers[Signal.LABEL][k])),
                None if r.inputs is None else r.inputs[k].ravel().tolist(),
                None if r.margin is None else float(r.margin[k]),
            )
            for r in rows
            if r.answers is not None
            for k in range(r.rows)
        ]
        assert one_by_one == [
            (
                *(q.at[k], frozenset(q.answers.values), int(q.answers[Signal.LABEL][k])),
                None if q.inputs is None else q.inputs[k].ravel().tolist(),
                None if q.margin is None else float(q.margin[k]),
            )
            for q in mine
            for k in range(len(q))
        ]
        changes = [a for a, b in pairwise(rows) if _signs(a) != _signs(b)]
        assert len(mine) == len(changes) + 1


def _signs(row: Row) -> object:
    assert row.answers is not None
    return frozenset(row.answers.values), None if row.inputs is None else row.inputs.ndim, row.margin is None
