"""Following the record in one process: what counts once, what is set aside, what is forgotten, what odd rows do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import benign
import numpy as np
import pytest
from click.testing import CliRunner
from desk import LADDER, Desk

from understudy.alerts import Alert
from understudy.cli import main
from understudy.gateway.metrics import log
from understudy.gateway.states import Account, States
from understudy.gateway.tally import Tally
from understudy.leak import LeakSketch
from understudy.manifest import Logging
from understudy.types import Answers, Signal
from understudy.watch import Calibration, Queries, Watch

DAY = 86_400.0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    if made.feed is not None:
        made.feed.close(made.now)


def test_short_of_an_alarm_no_p_value_counts(desk: Desk) -> None:
    feed = desk.open()
    desk.write(desk.shop("shop-1", 10), desk.thief("thief-1", 1))
    assert feed.step(desk.now).made == []
    desk.write(desk.thief("thief-1", 6), desk.rows("audit-1", desk.rng.uniform(0, 1, (20, 64)), audit=True))
    done = feed.step(desk.now)
    assert [r.name for r in done.made] == ["key:thief-1"]
    assert done.alarmed == ["key:thief-1"]
    assert feed.states.get("key:audit-1") is None
    desk.write(desk.thief("thief-1", 6))
    assert feed.step(desk.now).made == []  # in force already


def test_evidence_is_set_aside_at_the_end_and_new_behaviour_is_new_evidence(desk: Desk) -> None:
    feed = desk.open()
    desk.write(desk.thief("thief-1", 6))
    first = feed.step(desk.now).made
    desk.now += 2.5 * 3600
    desk.write(desk.shop("thief-1", 6))
    assert feed.step(desk.now).made == []
    account = feed.states.get("key:thief-1")
    assert account is not None
    assert account.state.alarmed_at is None
    assert account.state.n == account.tally.queries == 12  # what it asked and could have learned still counts
    assert account.state.sketch is not None
    assert account.state.sketch.n == 12
    desk.write(desk.thief("thief-1", 6))
    again = feed.step(desk.now).made
    assert [r.step for r in again] == [r.step for r in first]
    assert again[0].id != first[0].id


def test_a_reversed_step_stays_away_though_a_note_outlasts_it(tmp_path: Path) -> None:
    """As the documented ladder has it: what people ended does not come back by itself, on the same evidence."""
    silent = [{"when": {"p_value": 0.01}, "do": do} for do in ("note", "alert")]
    desk = Desk(tmp_path, monitor={"response": [*silent, LADDER[0]]})
    feed = desk.open()
    desk.write(desk.thief("thief-1", 6))
    made = {r.do: r for r in feed.step(desk.now).made}
    assert sorted(made) == ["alert", "note", "reduce"]
    feed.book.revoke(made["reduce"].id, "Eli", "their load test", now=desk.now)
    feed.read_book(desk.now)
    desk.now += 2.5 * 3600
    desk.write(desk.shop("thief-1", 6))
    assert feed.step(desk.now).made == []
    desk.write(desk.thief("thief-1", 6))
    assert [r.do for r in feed.step(desk.now).made] == ["reduce"]
    feed.close(desk.now)


def test_a_customer_that_a_human_knows_is_held_against_itself(desk: Desk) -> None:
    feed = desk.open()
    odd = np.clip(benign.digits()[:160] + 0.4, 0, 1)  # the same digits in other light, as this customer's camera has it
    desk.write(desk.rows("shop-1", odd))
    made = feed.step(desk.now).made
    assert [r.do for r in made] == ["reduce"]
    feed.book.revoke(made[0].id, "Eli", "their camera", known=True, now=desk.now)
    feed.read_book(desk.now)
    desk.now += 2 * 3600
    desk.write(desk.rows("shop-1", np.clip(benign.digits()[160:320] + 0.4, 0, 1)))
    assert feed.step(desk.now).made == []
    account = feed.states.get("key:shop-1")
    assert account is not None
    assert [(a["by"], a["n"]) for a in account.state.approvals] == [("Eli", 160)]


def test_who_is_known_too_early_is_not_held_against_itself_and_the_log_says_so(desk: Desk, capsys: Any) -> None:
    feed = desk.open()
    desk.write(desk.thief("thief-1", 6))
    (made,) = feed.step(desk.now).made
    feed.book.revoke(made.id, "Eli", "their test", known=True, now=desk.now)
    feed.read_book(desk.now)
    log.cache_clear()  # it goes to where standard error is now
    feed.step(desk.now)
    log.cache_clear()
    account = feed.states.get("key:thief-1")
    assert account is not None
    assert (account.state.alarmed_at, account.state.approvals) == (None, [])
    assert "6 scored queries; re-baselining needs 150" in capsys.readouterr().err


def test_no_alert_holds_an_input(tmp_path: Path) -> None:
    desk = Desk(tmp_path, monitor={"response": [{"when": {"queries": 3}, "do": "alert"}]})
    feed = desk.open()
    x = desk.rng.uniform(0, 1, (1, 64))
    desk.write(desk.rows("same-1", x), desk.rows("same-1", x), desk.rows("same-1", x), desk.shop("shop-1", 3))
    feed.step(desk.now)
    alerts = [Alert.read(w.alert, desk.service.folder) for w in feed.book.waiting(desk.now)]
    feed.close(desk.now)
    means = {a.principal: a.inputs.mean for a in alerts}
    assert means["key:same-1"] is None
    assert means["key:shop-1"] is not None


def test_a_party_is_judged_by_what_its_accounts_hold_together(tmp_path: Path) -> None:
    desk = Desk(tmp_path, monitor={"leak_budget": {"standard": 0.92}, "response": LADDER[1:]})
    feed = desk.open()
    made = []
    for _ in range(6):
        desk.write(*(desk.shop(f"ring-{i}", 10) for i in range(6)), desk.shop("alone-1", 10))
        made += feed.step(desk.now).made
    assert [(r.whom, r.name) for r in made] == [("party", "key:ring")]
    told = Alert.read(next(w.alert for w in feed.book.waiting(desk.now)), desk.service.folder)
    members = [feed.states.get(f"key:ring-{i}") for i in range(6)]
    sketches = [a.state.sketch for a in members if a is not None and a.state.sketch is not None]
    meter, together = feed.watch.calibration.leak, reduce(LeakSketch.merge, sketches)
    feed.close(desk.now)
    assert meter is not None
    assert told.leak is not None
    assert told.leak.probabilities is not None
    assert (told.leak.of, told.leak.budget) == ("party", 0.92)
    # what the alert says of the party is the party's, not that of whichever account asked last
    figures = [reading.label.value for reading in (meter.read(together), *map(meter.read, sketches))]
    assert told.leak.probabilities.estimate >= 0.92 > meter.read(sketches[0]).worst.value
    assert told.message.startswith("key:ring: from what it received, this party could have learned an estimated 0.9")
    assert figures[0] > max(figures[1:])


def test_another_calibration_begins_anew_and_counts_what_was_received(desk: Desk) -> None:
    feed = desk.open()
    desk.write(desk.thief("thief-1", 3), desk.shop("shop-1", 20))
    feed.step(desk.now)
    feed.close(desk.now)
    feed = desk.open(benign.calibration(made=desk.now + 0.5))
    desk.write(desk.shop("shop-1", 5))
    done = feed.step(desk.now)
    assert done.exchanges == 3
    account = feed.states.get("key:shop-1")
    assert account is not None
    assert account.state.sketch is not None
    assert (account.state.n, account.state.sketch.n) == (5, 25)


def test_what_is_erased_is_not_kept_by_the_watcher(desk: Desk) -> None:
    feed = desk.open()
    desk.write(desk.shop("shop-1", 20), desk.shop("shop-2", 20))
    feed.step(desk.now)
    feed.close(desk.now)
    feed = desk.open()
    assert feed.states.get("key:shop-1") is not None  # at hand
    done = CliRunner().invoke(main, ["history", str(desk.path), "erase", "key:shop-1", "--yes"])
    assert done.exit_code == 0, done.output
    desk.write(desk.shop("shop-2", 1))
    feed.step(desk.now)
    assert feed.states.get("key:shop-1") is None
    feed.close(desk.now)
    with sqlite3.connect(desk.service.folder / "states.sqlite") as db:
        assert db.execute("SELECT principal FROM states").fetchall() == [("key:shop-2",)]
    desk.feed = None


def test_retention_holds_for_states_too(desk: Desk) -> None:
    feed = desk.open()
    desk.write(desk.shop("shop-1", 5))
    feed.step(desk.now)
    feed.close(desk.now)
    days = desk.service.guard.logging.retention_days
    desk.now += days * DAY
    feed = desk.open()
    desk.write(desk.shop("shop-2", 5))
    desk.now += 10.0
    feed.step(desk.now)
    assert feed.states.accounts() == 1
    assert feed.states.get("key:shop-1") is None
    assert feed.states.get("key:shop-2") is not None


def test_one_odd_account_does_not_blind_the_watcher(desk: Desk) -> None:
    feed = desk.open()
    two = Answers({Signal.LABEL: np.zeros(4, np.int64)}, 10)
    desk.write(
        desk.rows("old-1", np.zeros((4, 3)), two),  # of a model with three inputs
        desk.rows("old-2", np.full((4, 64), np.nan), two),
        desk.rows("odd-1", np.full((4, 64), 1e300), two),
        desk.thief("thief-1", 6),
    )
    done = feed.step(desk.now)
    assert done.exchanges == 4
    assert done.damaged == 4
    assert "key:thief-1" in done.alarmed


@pytest.mark.parametrize("inputs", ["sketch", "hash", "none"])
def test_without_inputs_it_follows_what_is_left(tmp_path: Path, inputs: str) -> None:
    desk = Desk(tmp_path, guard={"logging": Logging(inputs=inputs).model_dump()})  # type: ignore[arg-type]
    feed = desk.open()
    desk.write(desk.thief("thief-1", 30))
    done = feed.step(desk.now)
    assert (done.queries, done.damaged, done.made) == (30, 0, [])
    feed.close(desk.now)


def test_what_is_kept_at_hand_is_bounded_with_leak_sketches_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.gateway.states._AT_HAND", 150_000)
    watch = Watch(Calibration.from_bytes(benign.calibration()))
    states, x = (
        States(tmp_path / "states.sqlite", watch, "made"),
        benign.digits()[:60],
    )  # more than a sketch keeps as they are
    held = []
    for name in ("a", "b", "c"):
        state = watch.advance(watch.fresh(name, name), Queries(name, name, np.arange(60.0), x, benign.answers(x)[0]))
        held.append(Account(state, Tally(name)))
        states.put(held[-1])
    assert len(held[0].state.to_bytes()) > 3 * held[0].state.ring.nbytes
    states.save({})
    assert states.get("c") is held[2]
    again = states.get("a")
    assert again is not held[0]
    assert again is not None
    assert again.state.to_bytes() == held[0].state.to_bytes()
    states.close()
