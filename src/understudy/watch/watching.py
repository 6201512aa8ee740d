"""Following accounts: features for many at once, then each account's queries in order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from understudy.errors import UnderstudyError, UsageError
from understudy.types import Floats
from understudy.watch.calibration import Calibration
from understudy.watch.crowd import commit, follow, kind, takes
from understudy.watch.queries import Queries
from understudy.watch.ranking import spans
from understudy.watch.scoring import CLOCK, Scored
from understudy.watch.state import FIRST, Standing, State
from understudy.watch.wealth import MARGIN, Purse, bets, coins, p_of, unusual

BASELINE = 150  # own queries without which nothing can be approved
OWN_MARGIN = 0.03  # added to the p-value among an approved account's own queries
#: what may be wrong with one account's queries: the others are followed all the same
ODD = (UnderstudyError, ValueError, ArithmeticError, LookupError)


class Watch:
    """Accounts held against one calibration. It keeps nothing itself: every account's state is the caller's."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration

    def fresh(self, principal: str, party: str, segment: str | None = None) -> State:
        """The state of an account that has asked nothing yet."""
        c = self.calibration
        s, epochs = len(c.scorer.names), len(c.cohort(segment).ranking.ends)
        named = hashlib.sha256(f"{c.seed} {principal}".encode()).digest()
        return State(
            *(principal, party, segment, int.from_bytes(named[:8], "little")),
            ring=np.zeros((0, c.scorer.form.columns), np.float32),
            clock=np.zeros((0, CLOCK.columns), np.float32),
            purse=Purse.new(s),
            peak=np.full(s, -np.inf),
            best=np.full(epochs, -np.inf),
            first=np.zeros((0, s), np.float32),
            tails=np.zeros((2, s)),
            sketch=None if c.leak is None else c.leak.sketch(),
        )

    def features(self, batch: Sequence[Queries]) -> Floats:
        """(queries of all, scores) what depends on single queries only, for any number of accounts at once."""
        return self.calibration.scorer.features(batch)

    def advance(self, state: State, queries: Queries, features: Floats | None = None) -> State:
        """Follow an account over its next queries; changes `state` and returns it. `features`: its rows of `features`.

        Raises UsageError where the queries are another account's.
        """
        if queries.principal != state.principal:
            raise UsageError(f"queries of {queries.principal} cannot follow those of {state.principal}")
        n, c = len(queries), self.calibration
        if not n:
            return state
        scored = c.scorer.scores(state.ring, state.clock, queries, features)
        if state.sketch is not None and queries.inputs is not None:
            state.sketch.add(queries.inputs, queries.answers)  # may refuse: nothing is changed before
        e = self._bets(state, scored)
        log, state.purse = state.purse.after(e)
        peak = np.maximum.accumulate(np.maximum(log, state.peak))
        self._judge(state, c.cohort(state.segment).normaliser.z(peak, state.age).max(1))
        state.peak = peak[-1]
        state.ring, state.clock = scored.ring, scored.clock
        state.tails = state.tails + np.stack(unusual(e))
        if len(state.first) < FIRST:
            more = scored.scores[: FIRST - len(state.first)].astype(np.float32)
            state.first = np.concatenate([state.first, more])
        unseen = n if queries.inputs is None and not c.scorer.blind else 0
        for name, more_of in (
            ("repeats", scored.repeats),
            ("fresh", scored.fresh),
            ("out_of_range", scored.outside),
            ("unseen", unseen),
        ):
            state.counts[name] = state.counts.get(name, 0) + more_of
        state.since, state.until = min(state.since, float(queries.at[0])), max(state.until, float(queries.at[-1]))
        state.n += n
        return state

    def advance_each(self, states: Sequence[State], batch: Sequence[Queries]) -> list[int]:
        """`advance` for several accounts, each once, where they share the work: a third of the price for a few rows.

        Returns which it left as they were: those that ask much or cannot be followed so, or at all; `advance` tells.
        """
        c = self.calibration
        left, alike = list[int](), dict[tuple[object, ...], list[int]]()
        for i, (state, queries) in enumerate(zip(states, batch, strict=True)):
            if takes(c, state, queries):
                alike.setdefault(kind(queries), []).append(i)
            else:
                left.append(i)
        for some in alike.values():
            try:
                found = follow(c, [states[i] for i in some], [batch[i] for i in some])
            except ODD:
                left += some
                continue
            for i, one in zip(some, found, strict=True):
                try:
                    commit(states[i], batch[i], one)
                except ODD:
                    left.append(i)
                    continue
                self._judge(states[i], one.z)
                states[i].n += len(batch[i])
        return left

    def _bets(self, state: State, scored: Scored) -> Floats:
        coin = coins(state.seed, state.n, scored.scores.shape)
        p = p_of(self.calibration.cohort(state.segment).references, scored.scores, scored.labels, coin)
        p = np.minimum(1.0, p + MARGIN)
        for j, values in enumerate(state.own):
            if len(values):
                above = len(values) - values.searchsorted(np.nan_to_num(scored.scores[:, j]), "left")
                p[:, j] = np.maximum(p[:, j], np.minimum(1.0, (1 + above) / (len(values) + 1) + OWN_MARGIN))
        return np.where(np.isnan(scored.scores), 1.0, bets(p))

    def _judge(self, state: State, z: Floats) -> None:
        """Move the largest statistic of each epoch, and note the first query that crosses its threshold."""
        c = self.calibration
        ranking, state.best = c.cohort(state.segment).ranking, state.best.copy()
        for e, rows in spans(len(z), state.age, ranking.ends[0], len(ranking.ends)):
            state.best[e] = max(state.best[e], z[rows].max())
            limit = c.limit(state.segment, e)
            if state.alarmed_at is None and limit is not None and state.best[e] > limit:
                state.alarmed_at = state.n + rows.start + int(np.argmax(z[rows] > limit)) + 1

    def p_value(self, state: State) -> float:
        """The share of benign accounts that ever look so unusual within the horizon."""
        return self.calibration.cohort(state.segment).ranking.p_value(state.best)

    def standing(self, state: State, leak: bool = True) -> Standing:
        """Where the account stands now. `leak`: read the meter too, which costs a hundred times the rest."""
        c, n = self.calibration, max(state.n, 1)
        cohort = c.cohort(state.segment)
        now = np.full(len(c.scorer.names), -np.inf)
        if state.age:
            now = cohort.normaliser.each(state.peak, state.age)
        order = np.argsort(-now, kind="stable")
        leak = leak and state.sketch is not None and state.sketch.n > 0
        unseen = state.counts.get("unseen", 0)
        looked = 0 if c.scorer.blind else state.n - unseen
        seen = {name: count / looked for name, count in state.counts.items() if looked and name != "unseen"}
        quality = {"unseen": unseen / n, **seen}
        return Standing(
            *(state.principal, state.party, state.n, state.since, state.until),
            p_value=self.p_value(state),
            alarmed_at=state.alarmed_at,
            z=float(state.best.max()),
            scores=tuple((c.scorer.names[j], float(now[j])) for j in order),
            leak=c.leak.read(state.sketch) if c.leak is not None and leak and state.sketch is not None else None,
            segment=state.segment,
            accounts=cohort.ranking.accounts,
            beyond=state.age > cohort.ranking.ends[-1],
            looked=looked,
            quality=quality,
        )

    def rebaseline(self, state: State, by: str, at: float) -> State:
        """A named human knows this account: from now on it is also held against its own first queries.

        Its wealth and its alarm start anew. It may have poisoned its own first queries, so nothing but a human may ask
        for this. Raises UsageError below 150 kept queries.
        """
        if not by.strip():
            raise UsageError("re-baselining needs the name of who approves it")
        if len(state.first) < BASELINE:
            raise UsageError(f"{state.principal} has {len(state.first)} scored queries; re-baselining needs {BASELINE}")
        state.own = tuple(np.sort(column[~np.isnan(column)]) for column in state.first.T.astype(np.float64))
        state.approvals.append({"by": by, "at": at, "n": state.n, "alarmed_at": state.alarmed_at})
        self.restart(state)
        return state

    def restart(self, state: State) -> None:
        """Let the account's wealth and alarm start anew; what it asked stays known."""
        again = self.fresh(state.principal, state.party, state.segment)
        state.purse, state.peak, state.best, state.born, state.alarmed_at = (
            *(again.purse, again.peak, again.best, state.n),
            None,
        )
