"""What `calibrate` learnt, frozen: it is dated, it is a file of numbers, and it says what it can promise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from understudy import registry
from understudy.errors import RecordError
from understudy.leak import LeakMeter
from understudy.protocols import Detector
from understudy.store import frame, unframe
from understudy.types import Array, Floats
from understudy.views import FORMS
from understudy.watch.ranking import Normaliser, Ranking
from understudy.watch.scoring import Scorer
from understudy.watch.wealth import Reference

FORMAT = 7


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Accounts that are held against each other: what scores are usual among them, and how their statistics rank.

    References and normaliser come from accounts that are not ranked: they decide about power, never about validity.
    """

    references: tuple[Reference, ...]
    normaliser: Normaliser
    ranking: Ranking

    def arrays(self) -> dict[str, Array]:
        """The cohort as arrays by name, less the epochs of its ranking."""
        found: dict[str, Array] = {"high": self.normaliser.high, "excess": self.normaliser.excess}
        for j, reference in enumerate(self.references):
            found[f"reference/{j}"] = reference.pooled
            found |= {f"reference/{j}/{label}": values for label, values in reference.by_label.items()}
        return found | {f"ranking/{e}": values for e, values in enumerate(self.ranking.statistics)}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], scores: int, ends: list[int], weights: list[float]) -> Cohort:
        """The inverse of `arrays`."""
        references = tuple(
            Reference(arrays[f"reference/{j}"], {int(n): a for n, a in below(arrays, f"reference/{j}/").items()})
            for j in range(scores)
        )
        statistics = tuple(arrays[f"ranking/{e}"] for e in range(len(ends)))
        ranking = Ranking(tuple(ends), tuple(weights), statistics)
        return cls(references, Normaliser(arrays["high"], arrays["excess"]), ranking)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Benign accounts, summed up.

    `made`: Unix seconds; `level`: share of benign accounts that may ever be accused within the horizon; `confidence`:
    None for the average over calibrations, else the probability that the bound holds for this one; `seed`: of the
    randomised p-values; `segments`: cohorts of declared segments that have enough accounts of their own; `common`: that
    of all other accounts; `rates`: per declared segment, (ranked accounts above the threshold that they are held
    against, ranked accounts); `tails` (accounts, s): share of each ranked account's bets with p below 0.1, for telling
    drift, and `began` (accounts,) when each asked first, Unix seconds; `model`: version of the model it was made for.
    """

    made: float
    level: float
    confidence: float | None
    model: str
    seed: int
    scorer: Scorer
    common: Cohort
    segments: Mapping[str, Cohort] = field(default_factory=dict)
    rates: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tails: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    began: Floats = field(default_factory=lambda: np.zeros(0))
    leak: LeakMeter | None = None

    @property
    def accounts(self) -> int:
        """Benign accounts ranked in the first epoch, less those of segments that are ranked by themselves."""
        return self.common.ranking.accounts

    @property
    def horizon(self) -> int:
        """Queries of an account up to which the level holds; with epochs, the end of the last."""
        return self.common.ranking.ends[-1]

    @cached_property
    def threshold(self) -> float | None:
        """What the statistic of an account without a segment must exceed in the first epoch; None: too few accounts."""
        return self.limit(None)

    def limit(self, segment: str | None, epoch: int = 0) -> float | None:
        """What the statistic of an account of a declared segment must exceed; None where there are too few accounts."""
        return self.cohort(segment).ranking.threshold(epoch, self.level, self.confidence)

    def cohort(self, segment: str | None) -> Cohort:
        """What an account of a declared segment is held against."""
        return self.segments.get(segment, self.common) if segment is not None else self.common

    def worst_segment(self) -> tuple[str, int, int] | None:
        """(segment, accounts above their threshold, accounts) of the declared segment accused most."""
        if not self.rates:
            return None
        name = max(self.rates, key=lambda s: (self.rates[s][0] / self.rates[s][1], s))
        return (name, *self.rates[name])

    def to_bytes(self) -> bytes:
        """The calibration as bytes; nothing in it is code."""
        arrays: dict[str, Array] = {f"form/{n}": a for n, a in self.scorer.form.arrays().items()}
        options = []
        for name, detector in zip(self.scorer.names, self.scorer.detectors, strict=True):
            fitted: Mapping[str, Array] = getattr(detector, "fitted", None) or {}
            arrays |= {f"detector/{name}/{n}": a for n, a in fitted.items()}
            options.append({n: getattr(detector, n) for n in registry.options_of(type(detector))})
        arrays |= {"tails": self.tails, "began": self.began}
        cohorts: list[tuple[str | None, Cohort]] = [(None, self.common), *self.segments.items()]
        for i, (_, cohort) in enumerate(cohorts):
            arrays |= {f"cohort/{i}/{n}": a for n, a in cohort.arrays().items()}
        leak: dict[str, Any] | None = None
        if self.leak is not None:
            more, leak = self.leak.parts()
            arrays |= {f"leak/{n}": a for n, a in more.items()}
        head = {n: getattr(self, n) for n in ("made", "level", "confidence", "model", "seed")}
        return frame(
            arrays,
            format=FORMAT,
            **head,
            form=self.scorer.form.kind,
            names=self.scorer.names,
            options=options,
            cohorts=[(name, c.ranking.ends, c.ranking.weights) for name, c in cohorts],
            rates=dict(self.rates),
            leak=leak,
        )

    @classmethod
    def from_bytes(cls, blob: bytes) -> Calibration:
        """The inverse of `to_bytes`. Raises RecordError on damage or another format."""
        arrays, head = unframe(blob)
        if head.get("format") != FORMAT:
            raise RecordError(
                f"a calibration of format {head.get('format')} cannot be read, this version reads {FORMAT}: "
                "calibrate again"
            )
        names = tuple(head["names"])
        detectors = tuple(
            _restored(name, options, below(arrays, f"detector/{name}/"))
            for name, options in zip(names, head["options"], strict=True)
        )
        cohorts = {
            name: Cohort.of(below(arrays, f"cohort/{i}/"), len(names), ends, weights)
            for i, (name, ends, weights) in enumerate(head["cohorts"])
        }
        common = cohorts.pop(None)
        return cls(
            *(head["made"], head["level"], head["confidence"], head["model"], head["seed"]),
            Scorer(FORMS[head["form"]].of(below(arrays, "form/")), names, detectors),
            common,
            cohorts,
            {segment: (over, total) for segment, (over, total) in head["rates"].items()},
            arrays["tails"],
            arrays["began"],
            None if head["leak"] is None else LeakMeter.of(below(arrays, "leak/"), head["leak"]),
        )


def below(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """The arrays whose names start with `prefix`, under what follows it."""
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def _restored(name: str, options: dict[str, Any], fitted: dict[str, Array]) -> Detector:
    made: Any = registry.create("detectors", name, **options)
    restored: Detector = dataclasses.replace(made, fitted=fitted) if fitted else made
    return restored
