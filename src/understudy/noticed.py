"""Would anybody have noticed? An audit's recorded queries, held against the detectors that watch the customers.

Each attack is scored as a customer's account would be: as it was asked, and as somebody who knows of the monitor would
ask: with benign rows in between, or dealt out over several accounts. Nothing is asked anew: attack queries come from
the run's record, benign ones are the evaluation rows, whose answers are there already.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from understudy.cell import Known, Result
from understudy.endpoint import Endpoint
from understudy.errors import RecordError
from understudy.manifest import Manifest, Tier
from understudy.records import Detection, Noticed
from understudy.stats import clopper_pearson
from understudy.store import Store
from understudy.types import Answers, Array, Floats
from understudy.watch import Calibration, Queries, Watch


class Way(NamedTuple):
    """How an attacker asks: `benign` rows mixed in for each of the attack's, over so many accounts."""

    name: str
    benign: int = 0
    accounts: int = 1


WAYS = (
    Way("as it was run"),
    Way("diluted 1:1 with benign rows", 1),
    Way("diluted 1:4", 4),
    Way("diluted 1:9", 9),
    Way("split over 5 accounts", accounts=5),
    Way("split over 20 accounts", accounts=20),
    Way("split over 100 accounts", accounts=100),
)
_LIMITS = (
    "No score of this calibration reads a clock: asking slowly changes none of these figures.",
    "The owner's margin is not on an audit's record: where answers show no scores, the score of margins placed no bet.",
    "Not assessed: an attacker who changes the attack itself, such as its steps, to escape these detectors.",
)


class _Asked(NamedTuple):
    """One account's life: `alarmed` attack queries had been asked in all when it was alarmed; None = never."""

    alarmed: int | None
    total: int


@dataclass(frozen=True, eq=False)
class Watching:
    """The manifest's calibrated detectors, and benign rows with what each tier answers to them."""

    watch: Watch | None
    reason: str
    endpoint: Endpoint
    known: Known

    @classmethod
    def open(cls, endpoint: Endpoint, known: Known) -> Watching:
        """The calibration that the manifest names; without a usable one `reason` says why."""
        found = _calibration(endpoint.manifest, endpoint.folder)
        if isinstance(found, str):
            return cls(None, found, endpoint, known)
        return cls(Watch(found), "", endpoint, known)

    def look(
        self, store: Store, tier: Tier, results: Sequence[Result], reached: Sequence[int | None], seed: int
    ) -> Detection:
        """How often each way of asking is alarmed before the copy is made, over the repetitions of one attack.

        `reached`: queries to the threshold per repetition; where it was not met, all that were asked count.
        """
        if self.watch is None:
            return Detection(assessed=False, reason=self.reason)
        lives = []
        for result, needed in zip(results, reached, strict=True):
            inputs, answers = _recorded(store, result.cell, needed or result.spent)
            if len(inputs):
                lives.append((inputs, answers))
        if not lives:
            return Detection(assessed=False, reason="nothing was asked")
        calibration, benign = self.watch.calibration, self._benign(tier)
        rng = np.random.default_rng([seed, len(lives)])
        ways = [self._way(way, lives, benign, rng) for way in WAYS]
        return Detection(
            assessed=True,
            reason=f"{len(lives)} repetition(s), each up to the owner's threshold or its end",
            level=calibration.level,
            accounts=calibration.accounts,
            calibrated=dt.datetime.fromtimestamp(calibration.made, dt.UTC).date().isoformat(),
            horizon=calibration.horizon,
            detectors=list(calibration.scorer.names),
            ways=ways,
            limits=list(_LIMITS),
        )

    def _benign(self, tier: Tier) -> tuple[Floats, Answers]:
        rows = self.endpoint.evaluation
        seen = self.endpoint.behind(tier, self.known).query(rows)
        return rows.reshape(len(rows), -1), seen

    def _way(
        self, way: Way, lives: Sequence[tuple[Floats, Answers]], benign: tuple[Floats, Answers], rng: Generator
    ) -> Noticed:
        asked = [self._asked(way, f"{way.name} {i}", *life, *benign, rng) for i, life in enumerate(lives)]
        delays = [a.alarmed for a in asked if a.alarmed is not None]
        shares = [a.alarmed / len(x) for a, (x, _) in zip(asked, lives, strict=True) if a.alarmed is not None]
        low, high = clopper_pearson(len(delays), len(asked))
        return Noticed(
            way=way.name,
            alarmed=len(delays),
            of=len(asked),
            low=low,
            high=high,
            delay=median(delays) if delays else None,
            share=median(shares) if shares else None,
            queries=int(median(a.total for a in asked)),
        )

    def _asked(
        self, way: Way, name: str, x: Floats, y: Answers, rows: Floats, theirs: Answers, rng: Generator
    ) -> _Asked:
        """One repetition asked this way; the earliest alarm of its accounts counts."""
        alarms = []
        for j in range(min(way.accounts, len(x))):
            mine = np.arange(j, len(x), way.accounts)
            order, attack = _mixed(len(mine), way.benign, len(rows), rng)
            inputs, answers = x[mine], y.take(mine)
            if way.benign:
                inputs, answers = np.concatenate([inputs, rows]), Answers.concat([answers, theirs])
            at = self._alarm(f"{name}/{j}", inputs, answers, order)
            if at is not None:
                alarms.append(mine[attack[:at].sum() - 1] + 1 if attack[:at].any() else 0)
        return _Asked(min(alarms, default=None), len(x) * (1 + way.benign))

    def _alarm(self, name: str, inputs: Floats, answers: Answers, order: Array) -> int | None:
        """After how many queries one account is alarmed, within the calibrated horizon."""
        assert self.watch is not None
        order = order[: self.watch.calibration.horizon]
        queries = Queries(name, name, np.arange(len(order), dtype=np.float64), inputs[order], answers.take(order))
        return self.watch.advance(self.watch.fresh(name, name), queries).alarmed_at


def _calibration(manifest: Manifest, folder: Path) -> Calibration | str:
    """The calibration, or why there is none to go by."""
    if manifest.monitor is None:
        return "the manifest has no monitor section"
    path = folder / manifest.monitor.calibration
    if not path.is_file():
        return f"nobody has calibrated detectors yet: understudy calibrate writes {manifest.monitor.calibration}"
    try:
        found = Calibration.from_bytes(path.read_bytes())
    except (RecordError, OSError) as error:
        return f"the calibration cannot be read: {error}"
    if not found.scorer.form.takes(tuple(manifest.space.shape)):
        return f"the calibration is of {found.scorer.form}, the endpoint takes inputs of shape {manifest.space.shape}"
    if found.model and found.model != manifest.model.version:
        return f"the detectors were calibrated for model {found.model}, not {manifest.model.version}"
    if found.threshold is None:
        return f"{found.accounts} benign accounts are too few for an alarm at {100 * found.level:g} %"
    return found


def _recorded(store: Store, cell: str, most: int) -> tuple[Floats, Answers]:
    """The first `most` queries of a cell, inputs (n, d), with what was answered."""
    inputs, answers, n = [], [], 0
    for exchange in store.exchanges(cell):
        if n >= most or exchange.inputs is None:
            break
        part = slice(0, most - n)
        inputs.append(exchange.inputs.reshape(len(exchange.inputs), -1)[part])
        answers.append(exchange.answers.take(part))
        n += len(inputs[-1])
    if not inputs:
        return np.zeros((0, 0)), Answers({}, 0)
    return np.concatenate(inputs), Answers.concat(answers)


def _mixed(n: int, benign: int, rows: int, rng: Generator) -> tuple[Array, Array]:
    """Order of `n` attack queries (0 to n - 1) with `benign` of `rows` others (n on) around each; which are attack."""
    if not benign:
        return np.arange(n), np.ones(n, np.bool_)
    drawn = np.concatenate([rng.permutation(rows) for _ in range(-(-n * benign // rows))])[: n * benign]
    blocks = np.concatenate([np.arange(n)[:, None], n + drawn.reshape(n, benign)], axis=1)
    order = np.take_along_axis(blocks, rng.permuted(np.tile(np.arange(1 + benign), (n, 1)), axis=1), axis=1).ravel()
    return order, order < n
