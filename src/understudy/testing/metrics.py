"""The laws of metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from understudy.errors import UsageError
from understudy.protocols import Metric, Target
from understudy.testing.contract import demand, names_signals, stores_only_parameters
from understudy.testing.models import linear, victim
from understudy.types import Floats, Signal


@dataclass(frozen=True)
class MetricBench:
    """A metric, references that it does not refuse (one per signal, one that shows all), and other models like them."""

    subject: Metric
    seed: int = 0

    @cached_property
    def pairs(self) -> list[tuple[Target, list[Target]]]:
        """(reference, three other models that answer the same signals)."""
        kinds: list[Callable[[int], Target]] = [*(partial(victim, signal.value) for signal in Signal), linear]
        drawn = [(kind(self.seed), [kind(seed) for seed in range(self.seed + 1, self.seed + 4)]) for kind in kinds]
        return [(reference, others) for reference, others in drawn if self._accepts(reference)]

    @property
    def inputs(self) -> Floats:
        """50 queries, drawn anew each time, so that no law sees what another did."""
        return linear(self.seed).space.sample(50, np.random.default_rng(self.seed))

    def _accepts(self, reference: Target) -> bool:
        if not self.subject.needs & reference.exposure.signals:
            return False
        try:
            self.subject.measure(reference, reference, self.inputs)
        except UsageError:
            return False
        return True


def declares_its_kind(bench: MetricBench) -> None:
    """`against` is "target" or "truth", `higher_is_closer` a bool, `needs` a frozenset of signals."""
    kind = type(bench.subject)
    names_signals(bench.subject)
    demand(getattr(kind, "against", None) in ("target", "truth"), "`against` is neither 'target' nor 'truth'")
    demand(isinstance(getattr(kind, "higher_is_closer", None), bool), "`higher_is_closer` is not a bool")


def measures_something(bench: MetricBench) -> None:
    """At least one of the references is not refused."""
    demand(bench.pairs, "every reference is refused")


def a_model_is_closest_to_itself(bench: MetricBench) -> None:
    """No model comes closer to the reference than the reference, query by query and on the whole."""
    metric, sign = bench.subject, 1 if bench.subject.higher_is_closer else -1
    for reference, others in bench.pairs:
        best = metric.measure(reference, reference, bench.inputs)
        for other in others:
            values = metric.measure(other, reference, bench.inputs)
            demand((sign * values <= sign * best).all(), f"{reference.exposure}: another model is closer on a query")
            closer = sign * metric.summary(values) < sign * metric.summary(best)
            demand(closer, f"{reference.exposure}: another model is as close on the whole")


def one_value_per_query(bench: MetricBench) -> None:
    """float64 of shape (n,), all finite, and a finite summary."""
    for reference, others in bench.pairs:
        values = bench.subject.measure(others[0], reference, bench.inputs)
        demand(values.shape == (len(bench.inputs),), f"{len(bench.inputs)} queries, values of shape {values.shape}")
        demand(values.dtype == np.float64 and np.isfinite(values).all(), "values are not finite float64")
        demand(np.isfinite(bench.subject.summary(values)), "the summary is not finite")


def measures_an_empty_batch(bench: MetricBench) -> None:
    """No query gives no value, and a summary that does not raise."""
    for reference, others in bench.pairs:
        values = bench.subject.measure(others[0], reference, bench.inputs[:0])
        demand(values.shape == (0,), f"no query, values of shape {values.shape}")
        bench.subject.summary(values)


def symmetric_where_claimed(bench: MetricBench) -> None:
    """Exchanging the two models changes nothing, where `symmetric` is stated."""
    if getattr(type(bench.subject), "symmetric", False):
        for reference, others in bench.pairs:
            one = bench.subject.measure(others[0], reference, bench.inputs)
            two = bench.subject.measure(reference, others[0], bench.inputs)
            demand(np.allclose(one, two, rtol=1e-12, atol=0), f"{reference.exposure}: not symmetric")


def leaves_queries_alone(bench: MetricBench) -> None:
    """Measuring does not change the inputs."""
    x = bench.inputs.copy()
    for reference, others in bench.pairs:
        bench.subject.measure(others[0], reference, x)
    demand(np.array_equal(x, bench.inputs), "the inputs were changed")


LAWS = (
    stores_only_parameters,
    declares_its_kind,
    measures_something,
    a_model_is_closest_to_itself,
    one_value_per_query,
    measures_an_empty_batch,
    symmetric_where_claimed,
    leaves_queries_alone,
)
