"""The laws of targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy.errors import InputError
from understudy.protocols import Target
from understudy.testing.contract import check_answers, demand, same
from understudy.types import Answers, Ask, Floats, Signal


@dataclass(frozen=True)
class TargetBench:
    """A target, and inputs to ask it."""

    subject: Target
    inputs: Floats
    seed: int = 0
    deterministic: bool = True

    def ask(self, rows: slice = slice(None)) -> Answers:
        """The answers to some of the inputs (a copy of them, so that no law sees what another did)."""
        return self.subject.query(self.inputs[rows].copy())


def exposure_is_true(bench: TargetBench) -> None:
    """Answers hold exactly what the exposure declares: signals, class count, top-k, decimals."""
    shape = bench.subject.space.shape
    check_answers(bench.ask(), bench.subject.exposure, len(bench.inputs), slack=1e-6, shape=shape)


def halves_make_the_whole(bench: TargetBench) -> None:
    """How queries are cut into batches does not change an answer (deterministic targets)."""
    if bench.deterministic:
        half = len(bench.inputs) // 2
        parts = Answers.concat([bench.ask(slice(half)), bench.ask(slice(half, None))])
        demand(same(parts, bench.ask(), rtol=1e-5, atol=1e-6), "two halves are answered otherwise than the whole")


def answers_an_empty_batch(bench: TargetBench) -> None:
    """No question gets no answer, and every declared signal."""
    check_answers(bench.ask(slice(0)), bench.subject.exposure, 0, shape=bench.subject.space.shape)


def answers_its_space(bench: TargetBench) -> None:
    """Inputs drawn from the space are answered."""
    drawn = bench.subject.space.sample(3, np.random.default_rng(bench.seed))
    demand(drawn.shape == (3, *bench.subject.space.shape), f"the space draws shape {drawn.shape}")
    check_answers(bench.subject.query(drawn), bench.subject.exposure, 3, slack=1e-6, shape=bench.subject.space.shape)


def leaves_inputs_alone(bench: TargetBench) -> None:
    """Asking does not change the inputs."""
    x = bench.inputs.copy()
    bench.subject.query(x)
    demand(np.array_equal(x, bench.inputs), "the inputs were changed")


def refuses_bad_inputs(bench: TargetBench) -> None:
    """NaN, infinity, ragged rows, text and wrong shapes raise InputError, unless the space holds them."""
    x = bench.inputs[:2]
    bad: dict[str, Any] = {
        "NaN": np.full_like(x, np.nan),
        "infinity": np.full_like(x, np.inf),
        "ragged rows": [[0.0], [0.0, 1.0]],
        "text": [["a"]],
        "a missing axis": x.ravel()[:1],
        "an axis too many": x[None],
        "a wrong width": np.concatenate([x, x], axis=-1),
    }
    for what, inputs in bad.items():
        if _refused(bench.subject.space.check, inputs):
            demand(_refused(bench.subject.query, inputs), f"{what} is answered, though the space does not hold it")


def _refused(call: Callable[[Any], object], inputs: Any) -> bool:
    try:
        call(inputs)
    except InputError:
        return True
    return False


def an_ask_never_widens(bench: TargetBench) -> None:
    """A wish for some signals brings no other, and none that is not exposed."""
    for wanted in Signal:
        got = bench.subject.query(bench.inputs[:2].copy(), Ask(frozenset({wanted}))).values.keys()
        demand(got <= bench.subject.exposure.signals, f"asked for {wanted.value}, it answers {sorted(got)}")


LAWS = (
    exposure_is_true,
    halves_make_the_whole,
    answers_an_empty_batch,
    answers_its_space,
    leaves_inputs_alone,
    refuses_bad_inputs,
    an_ask_never_widens,
)
