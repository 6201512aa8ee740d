"""One cell of an audit: one tier, one attack, one seed. Runs in a worker process; everything it learns is kept.

The attack sees Metered(Recorded(Defended(target))). The metrics see the bare target's answers on the evaluation set,
which were bought once, under the owner's credential, on a meter of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from understudy import fitting, registry
from understudy.endpoint import Endpoint
from understudy.errors import UnderstudyError, UsageError
from understudy.protocols import Attack, Extraction, Metric, Target, Verdict
from understudy.stats import mean_interval
from understudy.store import Store, pack, unpack
from understudy.types import Answers, Ask, Exposure, Floats, Signal, Space
from understudy.wrappers import Metered, Recorded

EVALUATION = "evaluation"  # the cell of the owner's own queries


@dataclass(frozen=True)
class Threshold:
    """A goal or a gate: how close is close enough."""

    metric: str
    value: float
    higher_is_closer: bool

    def reached(self, figure: float) -> bool:
        """Whether a figure is at least as close as the threshold."""
        return figure >= self.value if self.higher_is_closer else figure <= self.value


@dataclass(frozen=True)
class Plan:
    """What one cell is to do. `options` are the attack's."""

    tier: str
    attack: str
    options: Mapping[str, Any]
    repetition: int
    seed: int
    budget: int
    stop: tuple[Threshold, ...]

    @property
    def name(self) -> str:
        """The cell's name on record, e.g. `standard/auto/0`. Options tell two uses of one attack apart."""
        label = self.attack if not self.options else f"{self.attack}[{_options(self.options)}]"
        return f"{self.tier}/{label}/{self.repetition}"

    def generator(self) -> np.random.Generator:
        """The cell's own random generator, from the run's one seed and the cell's name."""
        words = np.frombuffer(hashlib.sha256(self.name.encode()).digest(), np.uint32)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=tuple(int(w) for w in words)))


def _options(options: Mapping[str, Any]) -> str:
    return ",".join(f"{key}={options[key]}" for key in sorted(options))


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One substitute, measured: value per evaluation row for each metric of interest, and figures of the others."""

    spent: int
    attack: str
    best: bool
    verdict: str
    values: Mapping[str, Floats]
    measures: Mapping[str, float]
    notes: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a cell."""

    cell: str
    spent: int
    checkpoints: Sequence[Checkpoint]
    set_aside: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None

    def to_bytes(self) -> bytes:
        """For the store."""
        arrays: dict[str, Floats] = {}
        heads = []
        for i, c in enumerate(self.checkpoints):
            arrays |= {f"{i}:{metric}": values for metric, values in c.values.items()}
            heads.append([c.spent, c.attack, c.best, c.verdict, dict(c.measures), dict(c.notes)])
        head = {"cell": self.cell, "spent": self.spent, "set_aside": dict(self.set_aside), "error": self.error}
        return pack(arrays, checkpoints=heads, **head)

    @classmethod
    def from_bytes(cls, blob: bytes) -> Result:
        """The inverse of `to_bytes`."""
        arrays, head = unpack(blob)
        checkpoints = []
        for i, (spent, attack, best, verdict, measures, notes) in enumerate(head.pop("checkpoints")):
            values = {name.split(":", 1)[1]: a for name, a in arrays.items() if name.split(":", 1)[0] == str(i)}
            checkpoints.append(Checkpoint(spent, attack, best, verdict, values, measures, notes))
        return cls(checkpoints=checkpoints, **head)


class Known:
    """Answers on the evaluation set, bought once: the reference of every metric."""

    def __init__(self, inputs: Floats, answers: Answers, target: Target) -> None:
        self._inputs, self._answers = inputs, answers
        self._target = target

    @property
    def space(self) -> Space:
        return self._target.space

    @property
    def exposure(self) -> Exposure:
        return self._target.exposure

    @property
    def parameters(self) -> Mapping[str, Floats] | None:
        """The target's own parameters, where they are known on this machine."""
        found: Mapping[str, Floats] | None = getattr(self._target, "parameters", None)
        return found

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """The kept answers; nothing else can be asked."""
        x = np.asarray(inputs)
        if not len(x):
            return self._answers.take(slice(0, 0))
        if x is not self._inputs and not np.array_equal(x, self._inputs):
            raise UsageError("only the evaluation set can be measured on")
        return self._answers


def reference(store: Store, endpoint: Endpoint) -> Known:
    """The target's answers on the evaluation set; recorded, so asked once in the life of a run."""
    part = endpoint.manifest.target
    owner = Recorded(endpoint.owner, store.cell(EVALUATION), part.batch, part.concurrency)
    return Known(endpoint.evaluation, owner.query(endpoint.evaluation), endpoint.owner)


def prepare(store: Store, endpoint: Endpoint) -> tuple[Endpoint, Known, Known | None]:
    """The endpoint with its defences fitted, the reference, and the truth: all that a cell is run with.

    Defences are fitted to the recorded answers on the evaluation set, so fitting asks nothing more.
    """
    known = reference(store, endpoint)
    return fitting.fit(endpoint, known.query(endpoint.evaluation)), known, truth(endpoint)


def truth(endpoint: Endpoint) -> Known | None:
    """The truth of the evaluation set as a target, so that accuracy is one more comparison of two targets."""
    if endpoint.truth is None:
        return None
    outputs = endpoint.manifest.target.outputs
    if Signal.VALUE in endpoint.owner.exposure.grains:
        values = np.asarray(endpoint.truth, np.float64).reshape(len(endpoint.evaluation), -1)
        return Known(endpoint.evaluation, Answers({Signal.VALUE: values}, outputs), endpoint.owner)
    labels = np.asarray(endpoint.truth).astype(np.int64)
    return Known(endpoint.evaluation, Answers({Signal.LABEL: labels}, outputs), endpoint.owner)


def applicable(known: Known, true: Known | None) -> dict[str, Metric]:
    """Every metric that can be measured here, by name."""
    found = {}
    for name in registry.names("metrics"):
        metric: Metric = registry.create("metrics", name)
        against = true if metric.against == "truth" else known
        if against is not None and metric.needs & answerable(against):
            found[name] = metric
    return found


def answerable(known: Known) -> frozenset[Signal]:
    """The signals of a reference, labels included where they can be worked out."""
    signals = frozenset(known.query(np.zeros((0, 1))).values)
    return signals | {Signal.LABEL} if signals & {Signal.PROBABILITIES, Signal.LOGITS} else signals


def run(store: Store, endpoint: Endpoint, plan: Plan, known: Known, true: Known | None) -> Result:
    """Run one attack against one tier, measure each substitute, keep the result.

    Ends when the attack ends, the budget is spent, or every threshold has been passed with its whole interval. A
    fault of the attack itself is part of the result; a target that fails, or a record that diverges, raises.
    """
    kept = store.get_result(plan.name)
    if kept is not None:
        return Result.from_bytes(kept)
    tier = next(t for t in endpoint.manifest.tiers if t.id == plan.tier)
    part = endpoint.manifest.target
    behind = Recorded(endpoint.tier(tier, plan.name), store.cell(plan.name), part.batch, part.concurrency)
    meter = Metered(behind, plan.budget)
    attack: Attack = registry.create("attacks", plan.attack, **plan.options)
    metrics = applicable(known, true)
    checkpoints: list[Checkpoint] = []
    set_aside: dict[str, str] = {}
    error = None
    try:
        for extraction in attack.run(meter, endpoint.pool, plan.generator()):
            set_aside |= extraction.notes.get("set_aside", {})
            checkpoint = _measure(extraction, plan, endpoint, metrics, known, true)
            checkpoints.append(checkpoint)
            if checkpoint.best and plan.stop and all(_passed(t, checkpoint) for t in plan.stop):
                break
    except UnderstudyError:
        raise
    except Exception as fault:
        error = f"{type(fault).__name__}: {fault}"
    result = Result(plan.name, meter.spent, checkpoints, set_aside, error)
    store.put_result(plan.name, result.to_bytes())
    return result


def _passed(threshold: Threshold, checkpoint: Checkpoint) -> bool:
    values = checkpoint.values.get(threshold.metric)
    if values is None:
        return False
    interval = mean_interval(values)
    return threshold.reached(interval.low if threshold.higher_is_closer else interval.high)


def _measure(
    extraction: Extraction,
    plan: Plan,
    endpoint: Endpoint,
    metrics: Mapping[str, Metric],
    known: Known,
    true: Known | None,
) -> Checkpoint:
    wanted = {t.metric for t in plan.stop}
    values: dict[str, Floats] = {}
    measures: dict[str, float] = {}
    if extraction.substitute is not None:
        for name, metric in metrics.items():
            against = true if metric.against == "truth" and true is not None else known
            try:
                measured = metric.measure(extraction.substitute, against, endpoint.evaluation)
            except UsageError:
                continue  # this substitute has nothing to measure it by (no probabilities, no parameters)
            measures[name] = float(metric.summary(measured))
            if name in wanted:
                values[name] = np.asarray(measured, np.float64)
    notes = {key: value for key, value in extraction.notes.items() if key not in ("attack", "best", "set_aside")}
    return Checkpoint(
        extraction.spent,
        str(extraction.notes.get("attack", plan.attack)),
        bool(extraction.notes.get("best", extraction.verdict is not Verdict.NOT_OF_FAMILY)),
        extraction.verdict.value,
        values,
        measures,
        plain(notes),
    )


def plain(value: Any) -> Any:
    """Notes as JSON knows them."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
