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
from understudy.views import Scale
from understudy.watch.ranking import Normaliser, Ranking
from understudy.watch.scoring import Scorer
from understudy.watch.wealth import Reference

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Calibration:
    """Benign accounts, summed up.

    `made`: Unix seconds; `level`: share of benign accounts that may ever be accused within the horizon; `confidence`:
    None for the average over calibrations, else the probability that the bound holds for this one; `seed`: of the
    randomised p-values; `segments`: rankings of declared segments that have enough accounts of their own; `rates`:
    per declared segment, (ranked accounts above the pooled threshold, ranked accounts); `tails` (accounts, s): share
    of each ranked account's bets with p below 0.1, for telling drift; `model`: version of the model it was made for.
    """

    made: float
    level: float
    confidence: float | None
    model: str
    seed: int
    scorer: Scorer
    references: tuple[Reference, ...]
    normaliser: Normaliser
    ranking: Ranking
    segments: Mapping[str, Ranking] = field(default_factory=dict)
    rates: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tails: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    leak: LeakMeter | None = None

    @property
    def accounts(self) -> int:
        """Benign accounts ranked in the first epoch."""
        return self.ranking.accounts

    @property
    def horizon(self) -> int:
        """Queries of an account up to which the level holds; with epochs, the end of the last."""
        return self.ranking.ends[-1]

    @cached_property
    def threshold(self) -> float | None:
        """What an account's statistic must exceed in the first epoch; None where there are too few accounts."""
        return self.ranking.threshold(0, self.level, self.confidence)

    def ranks(self, segment: str | None) -> Ranking:
        """The ranking that an account of a declared segment is held against."""
        return self.segments.get(segment, self.ranking) if segment is not None else self.ranking

    def worst_segment(self) -> tuple[str, int, int] | None:
        """(segment, accounts above the pooled threshold, accounts) of the declared segment accused most."""
        if not self.rates:
            return None
        name = max(self.rates, key=lambda s: (self.rates[s][0] / self.rates[s][1], s))
        return (name, *self.rates[name])

    def to_bytes(self) -> bytes:
        """The calibration as bytes; nothing in it is code."""
        arrays: dict[str, Array] = {f"scale/{n}": a for n, a in self.scorer.scale.arrays().items()}
        options = []
        for name, detector in zip(self.scorer.names, self.scorer.detectors, strict=True):
            fitted: Mapping[str, Array] = getattr(detector, "fitted", None) or {}
            arrays |= {f"detector/{name}/{n}": a for n, a in fitted.items()}
            options.append({n: getattr(detector, n) for n in registry.options_of(type(detector))})
        for j, reference in enumerate(self.references):
            arrays[f"reference/{j}"] = reference.pooled
            arrays |= {f"reference/{j}/{label}": values for label, values in reference.by_label.items()}
        arrays |= {"high": self.normaliser.high, "excess": self.normaliser.excess, "tails": self.tails}
        rankings: list[tuple[str | None, Ranking]] = [(None, self.ranking), *self.segments.items()]
        for i, (_, ranking) in enumerate(rankings):
            arrays |= {f"ranking/{i}/{e}": values for e, values in enumerate(ranking.statistics)}
        leak: dict[str, Any] | None = None
        if self.leak is not None:
            more, leak = self.leak.parts()
            arrays |= {f"leak/{n}": a for n, a in more.items()}
        head = {n: getattr(self, n) for n in ("made", "level", "confidence", "model", "seed")}
        return frame(
            arrays,
            format=FORMAT,
            **head,
            names=self.scorer.names,
            options=options,
            rankings=[(name, r.ends, r.weights) for name, r in rankings],
            rates=dict(self.rates),
            leak=leak,
        )

    @classmethod
    def from_bytes(cls, blob: bytes) -> Calibration:
        """The inverse of `to_bytes`. Raises RecordError on damage or another format."""
        arrays, head = unframe(blob)
        if head.get("format") != FORMAT:
            raise RecordError(
                f"a calibration of format {head.get('format')} cannot be read; this version reads {FORMAT}"
            )
        names = tuple(head["names"])
        detectors = tuple(
            _restored(name, options, below(arrays, f"detector/{name}/"))
            for name, options in zip(names, head["options"], strict=True)
        )
        references = tuple(
            Reference(arrays[f"reference/{j}"], {int(n): a for n, a in below(arrays, f"reference/{j}/").items()})
            for j in range(len(names))
        )
        rankings = {
            name: Ranking(tuple(ends), tuple(weights), tuple(arrays[f"ranking/{i}/{e}"] for e in range(len(ends))))
            for i, (name, ends, weights) in enumerate(head["rankings"])
        }
        pooled = rankings.pop(None)
        return cls(
            *(head["made"], head["level"], head["confidence"], head["model"], head["seed"]),
            Scorer(Scale.of(below(arrays, "scale/")), names, detectors),
            references,
            Normaliser(arrays["high"], arrays["excess"]),
            pooled,
            rankings,
            {segment: (over, total) for segment, (over, total) in head["rates"].items()},
            arrays["tails"],
            None if head["leak"] is None else LeakMeter.of(below(arrays, "leak/"), head["leak"]),
        )


def below(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """The arrays whose names start with `prefix`, under what follows it."""
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def _restored(name: str, options: dict[str, Any], fitted: dict[str, Array]) -> Detector:
    made: Any = registry.create("detectors", name, **options)
    restored: Detector = dataclasses.replace(made, fitted=fitted) if fitted else made
    return restored
