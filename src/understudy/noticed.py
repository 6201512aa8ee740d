"""Would anybody have noticed? An audit's recorded queries, held against the detectors that watch the customers.

Each attack is scored as a customer's account would be: as it was asked, and as somebody who knows of the monitor would
ask: with benign rows in between, dealt out over several accounts, slowly, in random steps, or from an account that the
owner has declared to be of a segment. Nothing is asked anew: attack queries come from the run's record, benign ones are
the evaluation rows, whose answers are there already.
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
from understudy.views import Scale, beyond
from understudy.watch import Calibration, Queries, Watch


class Way(NamedTuple):
    """How an attacker asks: `benign` rows mixed in for each of the attack's, over so many accounts, a query `every` so
    many seconds (None: nobody knows), its steps drawn anew or not, from accounts of a declared `segment`.
    """

    name: str
    benign: int = 0
    accounts: int = 1
    every: float | None = None
    random_steps: bool = False
    segment: str | None = None


WAYS = (
    Way("as it was run"),
    Way("diluted 1:1 with benign rows", 1),
    Way("diluted 1:4", 4),
    Way("diluted 1:9", 9),
    Way("split over 5 accounts", accounts=5),
    Way("split over 20 accounts", accounts=20),
    Way("split over 100 accounts", accounts=100),
    Way("slowly, one query a day", every=86_400.0),
    Way("in random steps", random_steps=True),
)
_UNEVEN = 0.618  # share of a pause by which each query comes later than a timer would ask, modulo one
_LIMITS = (
    "By chance: how often benign customers with as many accounts are alarmed too. Of many accounts one is, sooner or "
    "later: an attack is noticed where clearly more than that are.",
    "Scores that read a clock bet on the slow way alone: at which pace a thief asks is not on an audit's record. "
    "Age is counted in queries.",
    "Random steps: each step from an own earlier query is made half to one and a half times as long, field by field. "
    "The answers are those on record, so nothing is asked anew; whether the attack still succeeds is not measured.",
    "The owner's margin is not on an audit's record: where answers show no scores, the score of margins placed no bet.",
    "Not assessed: an attacker who tries these detectors out, or changes more of the attack than its steps.",
)


_NO_STEPS = (
    "In random steps: does not apply, for no more of its queries are close to an own earlier one than of benign rows."
)


class _Asked(NamedTuple):
    """One repetition: `alarmed` attack queries had been asked in all at the first alarm; None = never. `accounts`: that
    asked anything.
    """

    alarmed: int | None
    total: int
    accounts: int


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
        ways = [self._way(way, lives, benign, rng) for way in ways_of(calibration)]
        return Detection(
            assessed=True,
            reason=f"{len(lives)} repetition(s), each up to the owner's threshold or its end",
            level=calibration.level,
            accounts=calibration.accounts,
            calibrated=dt.datetime.fromtimestamp(calibration.made, dt.UTC).date().isoformat(),
            horizon=calibration.horizon,
            detectors=list(calibration.scorer.names),
            ways=[way for way in ways if way is not None],
            limits=[*_LIMITS, *([_NO_STEPS] if None in ways else [])],
        )

    def _benign(self, tier: Tier) -> tuple[Floats, Answers]:
        rows = self.endpoint.evaluation
        seen = self.endpoint.behind(tier, self.known).query(rows)
        return _rows(rows), seen

    def _way(
        self, way: Way, lives: Sequence[tuple[Floats, Answers]], benign: tuple[Floats, Answers], rng: Generator
    ) -> Noticed | None:
        """All repetitions asked this way; None where none of them can be."""
        assert self.watch is not None
        level = self.watch.calibration.level
        if way.random_steps:
            drawn = [(random_steps(x, benign[0], self._decimals(), rng), y) for x, y in self._cut(lives)]
            lives = [(x, y) for x, y in drawn if x is not None]
            if not lives:
                return None
        asked = [self._asked(way, f"repetition {i}", *life, *benign, rng) for i, life in enumerate(lives)]
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
            chance=1 - (1 - level) ** median(a.accounts for a in asked),
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
            at = self._alarm(way, f"{name}/{j}", inputs, answers, order)
            if at is not None:
                alarms.append(mine[attack[:at].sum() - 1] + 1 if attack[:at].any() else 0)
        return _Asked(min(alarms, default=None), len(x) * (1 + way.benign), min(way.accounts, len(x)))

    def _alarm(self, way: Way, name: str, inputs: Floats, answers: Answers, order: Array) -> int | None:
        """After how many queries one account is alarmed, within the calibrated horizon."""
        assert self.watch is not None
        order = order[: self.watch.calibration.horizon]
        place = np.arange(len(order), dtype=np.float64)
        at = way.every * (place + _UNEVEN * place % 1) if way.every else np.full(len(order), np.nan)
        queries = Queries(name, name, at, inputs[order], answers.take(order))
        return self.watch.advance(self.watch.fresh(name, name, way.segment), queries).alarmed_at

    def _cut(self, lives: Sequence[tuple[Floats, Answers]]) -> list[tuple[Floats, Answers]]:
        """What of each life the horizon lets count."""
        assert self.watch is not None
        most = slice(0, self.watch.calibration.horizon)
        return [(x[most], y.take(slice(0, len(x[most])))) for x, y in lives]

    def _decimals(self) -> Array | None:
        """The grid of the columns, where the form of input is a table's."""
        assert self.watch is not None
        form = self.watch.calibration.scorer.form
        return form.decimals if isinstance(form, Scale) else None


def ways_of(calibration: Calibration) -> list[Way]:
    """`WAYS`, and one for each segment that is ranked by itself: a thief would like to be taken for its customer."""
    return [*WAYS, *(Way(f"from an account declared {s!r}", segment=s) for s in calibration.segments)]


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
        inputs.append(_rows(exchange.inputs)[part])
        answers.append(exchange.answers.take(part))
        n += len(inputs[-1])
    if not inputs:
        return np.zeros((0, 0)), Answers({}, 0)
    return np.concatenate(inputs), Answers.concat(answers)


def _rows(inputs: Array) -> Array:
    """Inputs as rows of numbers, or the texts that they are."""
    return inputs if inputs.dtype == object else inputs.reshape(len(inputs), -1)


def _mixed(n: int, benign: int, rows: int, rng: Generator) -> tuple[Array, Array]:
    """Order of `n` attack queries (0 to n - 1) with `benign` of `rows` others (n on) around each; which are attack."""
    if not benign:
        return np.arange(n), np.ones(n, np.bool_)
    drawn = np.concatenate([rng.permutation(rows) for _ in range(-(-n * benign // rows))])[: n * benign]
    blocks = np.concatenate([np.arange(n)[:, None], n + drawn.reshape(n, benign)], axis=1)
    order = np.take_along_axis(blocks, rng.permuted(np.tile(np.arange(1 + benign), (n, 1)), axis=1), axis=1).ravel()
    return order, order < n


def random_steps(x: Floats, benign: Floats, decimals: Array | None, rng: Generator) -> Floats | None:
    """`x` (n, d) with every step drawn anew, each field's 0.5 to 1.5 times as long; columns on the grid of their
    `decimals` stay on it.

    A step is a query closer to an own earlier one than nine in ten of `benign` rows are to one before them. None where
    `x` has no more than twice as many of these: such an attack makes no steps. Nor do texts.
    """
    if x.ndim != 2 or x.dtype.kind not in "fiu":
        return None
    spread = benign.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    nearest, apart = _nearest(x / spread)
    close = apart < np.quantile(_nearest(benign[: len(x)] / spread)[1], 0.1)
    if close.mean() <= 0.2:
        return None
    made, low, high = x.copy(), x.min(0), x.max(0)
    places = np.full(x.shape[1], -1) if decimals is None else decimals
    unit, on_grid = 10.0 ** np.maximum(places, 0), (places >= 0) & ~beyond(x, np.maximum(places, 0)).any(0)
    for i in np.flatnonzero(close & (apart > 0)):  # in order: a step starts where the one before it ended
        start, step = made[nearest[i]], x[i] - x[nearest[i]]
        drawn = np.clip(start + rng.uniform(0.5, 1.5, len(step)) * step, low, high)
        rounded = np.where(on_grid, np.round(drawn * unit) / unit, drawn)
        made[i] = np.where((rounded == start) & (step != 0), x[i], rounded)
    return made


def _nearest(z: Floats) -> tuple[Array, Floats]:
    """Of each row (n, d), the nearest one before it and how far that is; inf for the first."""
    squares = np.einsum("ij,ij->i", z, z)
    apart = squares[None] - 2 * z @ z.T  # less what is the same along a row
    apart[np.triu_indices(len(z))] = np.inf
    nearest = apart.argmin(1)
    found: Floats = np.linalg.norm(z - z[nearest], axis=1)
    found[:1] = np.inf
    return nearest, found
