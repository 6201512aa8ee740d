"""A Target around a Target: Metered counts, Recorded keeps, Replayed answers from the record, Defended reduces.

The audit stacks them as Metered(Recorded(Defended(target))): charged before the call, on disk before the attack sees
it, reduced exactly as the gateway would. Adding a wrapper: keep `space` and `exposure` true, pass `ask` on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from numpy.typing import ArrayLike

from understudy.errors import AnswerError, BudgetExceeded, RecordError, ReplayDiverged, TargetError
from understudy.guard import Grant, release
from understudy.protocols import Defence, Target
from understudy.types import Answers, Ask, Exposure, Floats, Space, digest


class Metered:
    """Counts queries before they are asked, keyed by batch number, and never lets a budget be overspent."""

    def __init__(self, target: Target, budget: int) -> None:
        self.target, self.budget = target, budget
        self._charges: dict[int, int] = {}
        self._next = self._spent = 0

    @property
    def space(self) -> Space:
        return self.target.space

    @property
    def exposure(self) -> Exposure:
        return self.target.exposure

    @property
    def spent(self) -> int:
        return self._spent

    @property
    def remaining(self) -> int:
        return self.budget - self.spent

    def charge(self, batch: int, n: int) -> None:
        """Charge `n` queries for a batch; charging the same batch again costs nothing more."""
        if batch in self._charges:
            return
        if n > self.remaining:
            raise BudgetExceeded(f"batch {batch} asks {n} queries; {self.remaining} of {self.budget} are left")
        self._charges[batch] = n
        self._spent += n

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Check, charge, then ask. Inputs that the space does not hold are refused before they cost anything."""
        x = self.space.check(inputs)
        self.charge(self._next, len(x))
        self._next += 1
        return self.target.query(x, ask)


class Log(Protocol):
    """Where exchanges of one cell are kept (`store.CellLog` on disk)."""

    def asked(self, batch: int, inputs: Floats, ask: Ask | None) -> None:
        """Note durably that a batch is about to be asked."""

    def answered(self, batch: int, answers: Answers) -> None:
        """Keep the answers of a batch durably."""

    def failed(self, batch: int, reason: str, raw: bytes) -> None:
        """Keep what arrived when an answer could not be used."""

    def recall(self, batch: int) -> tuple[str, Answers] | None:
        """The query digest and answers of a recorded batch, or None."""

    def diverged(self, batch: int) -> None:
        """Mark the run: the attack asked something other than what is on record."""


def query_digest(inputs: Floats, ask: Ask | None) -> str:
    """What identifies a batch on record."""
    signals = sorted(ask.signals) if ask and ask.signals is not None else None
    wish = (signals, ask.top_k if ask else None)
    return digest(inputs, repr(wish if ask is None or ask.within is None else (*wish, ask.within)))


class Recorded:
    """Keeps each batch before anyone sees it, and asks only for what is not on record.

    Long queries are cut into batches of `batch` rows; up to `concurrency` of them are in flight at once.
    Batches are numbered in the order they are asked for, so a deterministic caller meets its own record.
    """

    def __init__(self, target: Target, log: Log, batch: int | None = None, concurrency: int = 1) -> None:
        self.target, self.log, self.batch, self.concurrency = target, log, batch, concurrency
        self._next = 0

    @property
    def space(self) -> Space:
        return self.target.space

    @property
    def exposure(self) -> Exposure:
        return self.target.exposure

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Answers from the record where there are any, asked and recorded where there are none."""
        x = self.space.check(inputs)
        step = self.batch or max(len(x), 1)
        parts = [x[start : start + step] for start in range(0, max(len(x), 1), step)]
        numbers = range(self._next, self._next + len(parts))
        self._next += len(parts)
        jobs = [_job(self._one, number, part, ask) for number, part in zip(numbers, parts, strict=True)]
        return Answers.concat(list(in_flight(jobs, self.concurrency)))

    def _one(self, number: int, part: Floats, ask: Ask | None) -> Answers:
        kept = self.log.recall(number)
        if kept is not None:
            if kept[0] == query_digest(part, ask):
                return kept[1]
            self.log.diverged(number)
            raise ReplayDiverged(
                f"batch {number} is on record with other inputs: the attack, its options or a library changed since; "
                "the recorded answers are kept and the run is marked - start a new run to go on"
            )
        self.log.asked(number, part, ask)
        try:
            answers = self.target.query(part, ask)
        except AnswerError as error:
            self.log.failed(number, str(error), error.raw)
            raise AnswerError(f"batch {number} ({len(part)} queries): {error}", error.raw) from None
        except TargetError as error:
            raise TargetError(f"batch {number} ({len(part)} queries): {error}") from error.__cause__
        self.log.answered(number, answers)
        return answers


def _job(call: Callable[[int, Floats, Ask | None], Answers], *args: object) -> Callable[[], Answers]:
    return lambda: call(*args)  # type: ignore[arg-type]


def in_flight(jobs: Sequence[Callable[[], Answers]], limit: int) -> Iterator[Answers]:
    """Results in order, at most `limit` jobs running; after a failure no further job starts, those running finish."""
    if limit <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job()
        return
    with ThreadPoolExecutor(min(limit, len(jobs))) as pool:
        waiting = list(reversed(jobs))
        running = [pool.submit(waiting.pop()) for _ in range(min(limit, len(jobs)))]
        while running:
            try:
                result = running.pop(0).result()
            except BaseException:
                for future in running:
                    with suppress(Exception):
                        future.result()
                raise
            if waiting:
                running.append(pool.submit(waiting.pop()))
            yield result


class Replayed:
    """Answers from a record alone; asking for what is not on record is a RecordError."""

    def __init__(self, log: Log, space: Space, exposure: Exposure, batch: int | None = None) -> None:
        self._inner = Recorded(_Nobody(space, exposure), _Closed(log), batch)

    @property
    def space(self) -> Space:
        return self._inner.space

    @property
    def exposure(self) -> Exposure:
        return self._inner.exposure

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """The recorded answers to exactly these inputs, in exactly this order."""
        return self._inner.query(inputs, ask)


class _Nobody:
    """The target of a replay: there is nobody to ask."""

    def __init__(self, space: Space, exposure: Exposure) -> None:
        self.space, self.exposure = space, exposure

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        raise RecordError("the record ends here: this batch was never answered")


class _Closed:
    """A log that is only read: replaying changes nothing on record."""

    def __init__(self, log: Log) -> None:
        self.recall = log.recall

    def asked(self, batch: int, inputs: Floats, ask: Ask | None) -> None: ...

    def answered(self, batch: int, answers: Answers) -> None: ...

    def failed(self, batch: int, reason: str, raw: bytes) -> None: ...

    def diverged(self, batch: int) -> None: ...


class Defended:
    """What one principal meets: the target's answers behind the defences, and nothing that is not exposed."""

    def __init__(self, target: Target, defences: Sequence[Defence], principal: str, granted: Exposure) -> None:
        """Raises UsageError when the defences would leave more than is granted, or less."""
        self.target, self.principal = target, principal
        self.grant = Grant.of(target.exposure, defences, granted)

    @property
    def space(self) -> Space:
        return self.target.space

    @property
    def exposure(self) -> Exposure:
        return self.grant.exposure

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """The reduced answers. A customer's wish never widens what is granted."""
        x = self.space.check(inputs)
        inside = Ask(within=ask.within) if ask is not None and ask.within is not None else None
        return release(self.grant, x, self.target.query(x, inside), self.principal)
