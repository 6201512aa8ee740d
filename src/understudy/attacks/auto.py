"""The suite as one attack: run what fits the exposure on one shared meter, and keep the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from understudy import registry
from understudy.errors import BudgetExceeded
from understudy.protocols import Attack, Extraction, Metered, Pool, Target, Verdict, takes
from understudy.types import EXPLANATIONS, IMPLIES, Answers, Ask, Exposure, Floats, Grain, Signal, Space

#: Attacks in the order of equals, each with its options. What boosting's attack cannot solve is left to the others.
SUITE: Mapping[str, Mapping[str, Any]] = {
    "equation-solving": {},
    "gradient-solving": {},
    "attribution-regression": {},
    "counterfactual": {},
    "box-search": {},
    "critical-points": {},
    "critical-points-deep": {},
    "hessian-diagonalisation": {},
    "path-finding": {},
    "additive-steps": {"train": False, "reserve": 0.0},
    "boundary-nullspace": {},
    "counterfactual-training": {},
    "retraining": {},
    "tree-labels": {},
}


@dataclass(frozen=True)
class Auto:
    """Try every attack that the exposure allows and report the best substitute at each number of queries.

    Extracts:
        Whatever the suite extracts. Attacks that solve go first where scores are whole: each sees after a few
        queries whether the model is of its family, and where one is exact nothing else is asked. Those that
        have nothing to show yet may spend half of the budget between them. Where scores are rounded only solvers
        that know of it are left: `equation-solving` and, for logits and values, `critical-points`. Otherwise the
        attacks take turns, the one going next that will have spent least once it has its next substitute, so that
        the best costs at most about as many times its own price as there are attacks left. Answers are shared: a
        row that one attack has bought is free for the others.

    Needs:
        Any signal but explanations.

    Cost:
        The cost of the best attack, plus what the others spent meanwhile, plus a common check set (2 % of the
        budget, 20 to 100 queries) on which substitutes of different attacks are compared; none where the first
        attack is exact.

    Reference:
        The suite's own references. Choosing by extract-and-test on bought answers: Tramer et al., USENIX Security
        2016, section 4.3.

    Differs from the paper:
        The paper tests model classes; this tests attacks, and interleaves them.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset(Signal) - EXPLANATIONS
    adapts_to: ClassVar[frozenset[str]] = frozenset({"label-only", "round", "top-k"})
    reads: ClassVar[frozenset[str]] = frozenset({"numbers", "text"})
    suite: tuple[str, ...] = tuple(SUITE)

    def run(self, target: Metered, pool: Pool, rng: Generator) -> Iterator[Extraction]:
        """Each substitute of each attack; notes say which attack made it and whether it is the best so far."""
        bought = _Bought(pool)
        open_runs, set_aside = self._fitting(target, bought, rng)
        bench: _Bench | None = None
        while open_runs:
            turn = _next_turn(open_runs)
            if bench is None and (not turn.solves or turn.inexact):
                bench = bought.bench = _Bench.buy(target, pool, rng)
            found = turn.step()
            if found is None:
                open_runs.remove(turn)
                set_aside.setdefault(turn.name, turn.why_it_ended())
                continue
            exact = found.verdict is Verdict.EXACT
            if exact:
                set_aside |= {other.name: f"{turn.name} was exact first" for other in open_runs if other is not turn}
            best = exact or (found.substitute is not None and (bench is None or bench.better(found.substitute)))
            notes = {**found.notes, "attack": turn.name, "best": best, "set_aside": dict(set_aside)}
            yield replace(found, spent=target.spent, notes=notes)
            if exact:
                return

    def _fitting(self, target: Metered, bought: _Bought, rng: Generator) -> tuple[list[_Turn], dict[str, str]]:
        turns, set_aside = list[_Turn](), dict[str, str]()
        trial = target.spent + target.remaining // 2  # what is left then is for those that need no family
        for name in self.suite:
            attack: Attack = registry.create("attacks", name, **SUITE.get(name, {}))
            if why := _unfit(attack, target.exposure, target.space):
                set_aside[name] = why
            else:
                turns.append(_Turn(name, attack, target, bought, rng.spawn(1)[0], trial if turns else None))
        return turns, set_aside


def _unfit(attack: Attack, exposure: Exposure, space: Space) -> str:
    """Why an attack cannot be run on what a tier receives; empty where it can. Nothing is asked for this."""
    if not takes(attack, space):
        return "asks numbers, and this model takes texts"
    can = frozenset().union(*(IMPLIES[s] for s in exposure.signals))
    if not attack.needs & can:
        return f"needs {' or '.join(sorted(attack.needs))}; the tier gives {', '.join(sorted(exposure.signals))}"
    if Signal.LABEL in attack.needs:
        return ""
    grains = [grain for signal, grain in exposure.grains.items() if signal in attack.needs]
    reduced = {"round": any(g.decimals is not None for g in grains), "top-k": any(g.top_k is not None for g in grains)}
    stops = [name for name, on in reduced.items() if on and name not in attack.adapts_to]
    return f"needs whole scores; the tier gives {exposure}" if stops else ""


class _Bought:
    """Everything bought so far, and the pool that offers it first: a row that one attack bought is free for others.

    The rows of the common check set are kept out of the pool, so that no substitute is judged on what it was fitted to.
    """

    def __init__(self, pool: Pool) -> None:
        self.bench: _Bench | None = None
        self.batches: list[Answers] = []
        self._pool, self._inputs = pool, list[Floats]()
        self._place: dict[bytes, tuple[int, int]] = {}

    def draw(self, n: int, rng: Generator) -> Floats:
        """Rows already paid for, then the pool's."""
        known = self._inputs[:]
        rows = self._pool.draw(n, rng)
        if self.bench is not None and len(rows):
            held_out = set(map(_key, self.bench.inputs))
            rows = rows[[_key(row) not in held_out and _key(row) not in self._place for row in rows]]
        return np.concatenate([*known, rows])[:n] if known else rows

    def keep(self, x: Floats, answers: Answers) -> None:
        """Remember a batch."""
        for row, values in enumerate(x):
            self._place.setdefault(_key(values), (len(self.batches), row))
        self.batches.append(answers)
        self._inputs.append(x)

    def known(self, x: Floats) -> list[tuple[int, int] | None]:
        """Where each row's answer is kept, or None."""
        return [self._place.get(_key(row)) for row in x]


def _key(row: Any) -> bytes:
    """What tells an input from others."""
    return row.encode() if isinstance(row, str) else bytes(row.tobytes())


class _Share:
    """The meter as one attack of the suite sees it. An attack that solves always buys: it tests for determinism.

    `ends`: how much may have been spent, by all, while this attack has nothing to show; None = everything.
    """

    def __init__(self, target: Metered, bought: _Bought, reuse: bool, ends: int | None) -> None:
        self.target, self._bought, self._reuse, self.ends = target, bought, reuse, ends

    @property
    def space(self) -> Space:
        return self.target.space

    @property
    def exposure(self) -> Exposure:
        return self.target.exposure

    @property
    def spent(self) -> int:
        return self.target.spent

    @property
    def remaining(self) -> int:
        left = self.target.remaining
        return left if self.ends is None else max(min(left, self.ends - self.target.spent), 0)

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Known rows from memory, the others bought and remembered."""
        x = self.space.check(inputs)
        if self.ends is not None and len(x) > self.remaining:
            raise BudgetExceeded(f"{len(x)} queries are asked; {self.remaining} are left to attacks on trial")
        fresh = np.array([not self._reuse or place is None for place in self._bought.known(x)], bool)
        if fresh.all():
            answers = self.target.query(x, ask)
            self._bought.keep(x, answers)
            return answers
        if fresh.any():
            self._bought.keep(x[fresh], self.target.query(x[fresh], ask))
        places = [place for place in self._bought.known(x) if place is not None]
        used = sorted({batch for batch, _ in places})
        batches = [self._bought.batches[b] for b in used]
        starts = dict(zip(used, np.cumsum([0, *map(len, batches[:-1])]).tolist(), strict=True))
        return Answers.concat(batches).take(np.array([starts[batch] + row for batch, row in places], np.intp))


class _Turn:
    """One attack of the suite, advanced one substitute at a time."""

    def __init__(
        self, name: str, attack: Attack, target: Metered, bought: _Bought, rng: Generator, trial: int | None
    ) -> None:
        self.name, self._target, self.own = name, target, 0
        self.solves = Signal.LABEL not in attack.needs
        self.first = self.solves and all(g == Grain() for s, g in target.exposure.grains.items() if s in attack.needs)
        opening = getattr(attack, "opening", None)  # an attack that cannot say is tried first
        self.ahead: int = opening(target.space, target.exposure.outputs) if opening else 0
        self._last: Extraction | None = None
        on_trial = self.first or not opening
        self._share = _Share(target, bought, not self.solves, trial if on_trial else None)
        self._run = attack.run(self._share, bought, rng)

    def step(self) -> Extraction | None:
        """The next substitute, or None when the attack has ended."""
        before = self._target.spent
        found = next(self._run, None)
        self.ahead = self._target.spent - before
        self.own += self.ahead
        self._last = found or self._last
        if found is not None and found.substitute is not None:
            self._share.ends = None
        return found

    @property
    def inexact(self) -> bool:
        """Whether it has made a substitute that it does not call exact."""
        return self._last is not None and self._last.verdict is Verdict.APPROXIMATE

    def why_it_ended(self) -> str:
        """For the report: why nothing more is to be had from this attack."""
        if self._last is None:
            return "the budget was too small for it"
        if self._last.verdict is Verdict.NOT_OF_FAMILY:
            reason = self._last.notes.get("reason")
            return "the target is not of the family it solves" + (f": {reason}" if reason else "")
        return f"it ended after {self.own} queries of its own"


def _next_turn(turns: list[_Turn]) -> _Turn:
    """Solvers of whole scores first, until shown not to be exact; then whose next substitute costs least."""
    return min(turns, key=lambda turn: (not turn.first or turn.inexact, turn.own + turn.ahead))


class _Bench:
    """A common check set, so that substitutes made on different inputs can be compared. Bought, never the owner's."""

    def __init__(self, inputs: Floats, answers: Answers) -> None:
        self.inputs, self._answers, self._best = inputs, answers, -np.inf

    @classmethod
    def buy(cls, target: Metered, pool: Pool, rng: Generator) -> _Bench | None:
        """Spend 2 % of what is left (20 to 100 queries) on rows of the pool, else of the space; None if too poor."""
        n = int(np.clip(target.remaining // 50, 20, 100))
        if target.remaining < 4 * n:
            return None
        rows = pool.draw(n, rng)
        inputs = rows if len(rows) else target.space.sample(n, rng)
        return cls(inputs, target.query(inputs))

    def better(self, substitute: Target) -> bool:
        """Whether this substitute agrees with the bought answers at least as well as the best before it."""
        score = agreement(substitute.query(self.inputs), self._answers)
        if score < self._best:
            return False
        self._best = score
        return True


def agreement(ours: Answers, theirs: Answers) -> float:
    """Share of equal labels, or for values minus the mean absolute difference: larger is closer."""
    if Signal.VALUE in theirs:
        return -float(np.abs(ours[Signal.VALUE] - theirs[Signal.VALUE]).mean())
    return float((ours.labels() == theirs.labels()).mean())
