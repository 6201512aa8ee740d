"""What an account asked and received, as the watch reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from understudy.errors import InputError
from understudy.types import Answers, Array, Floats


def joins(answers: Answers) -> tuple[object, ...]:
    """What answers have in common that `Answers.concat` can put together."""
    return frozenset((signal, values.shape[1:]) for signal, values in answers.values.items()), answers.outputs


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """Consecutive queries of one principal, in time order.

    `at` (n,) Unix seconds; `inputs` (n, d), texts (n,), images (n, h, w), None where they were not kept; `answers` as
    released; `margin` (n,) owner-side gap of the two largest scores, where the owner kept it; `audit`: asked by the
    owner's own audit; `segment`: the declared segment of the account.
    """

    principal: str
    party: str
    at: Floats
    inputs: Array | None
    answers: Answers
    margin: Floats | None = None
    audit: bool = False
    segment: str | None = None

    def __post_init__(self) -> None:
        n, inputs, margin = len(self.at), self.inputs, self.margin
        if len(self.answers) == n and (inputs is None or len(inputs) == n) and (margin is None or len(margin) == n):
            return
        parts = {"answers": self.answers, "inputs": inputs, "margin": margin}
        wrong = [f"{name} {len(part)}" for name, part in parts.items() if part is not None and len(part) != n]
        raise InputError(f"queries of {self.principal}: {n} times, but {', '.join(wrong)}")

    def __len__(self) -> int:
        return len(self.at)

    def take(self, rows: Array | slice) -> Queries:
        """Some of the queries."""
        return Queries(
            *(self.principal, self.party, self.at[rows]),
            None if self.inputs is None else self.inputs[rows],
            self.answers.take(rows),
            None if self.margin is None else self.margin[rows],
            self.audit,
            self.segment,
        )

    @staticmethod
    def concat(parts: Sequence[Queries]) -> Queries:
        """Several parts of one principal's queries as one, in the order given. Inputs must be kept in all or none."""
        if not parts:
            raise InputError("nothing to join: no queries")
        first = parts[0]
        if len(parts) == 1:
            return first
        inputs = [p.inputs for p in parts if p.inputs is not None]
        margins = [p.margin for p in parts if p.margin is not None]
        if len(inputs) not in (0, len(parts)) or any(p.principal != first.principal for p in parts):
            raise InputError("only queries of one principal, with inputs throughout or not at all, can be joined")
        return Queries(
            *(first.principal, first.party, np.concatenate([p.at for p in parts])),
            np.concatenate(inputs) if inputs else None,
            Answers.concat([p.answers for p in parts]),
            np.concatenate(margins) if len(margins) == len(parts) else None,
            any(p.audit for p in parts),
            first.segment,
        )
