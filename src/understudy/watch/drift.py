"""Whether a crowd of accounts looks unlike another: a matter for a new calibration, not for an accusation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from understudy.stats import wilson
from understudy.types import Estimate, Floats

_CROWD, _EXPECTED, _DRIFTED = 20, 0.1, 0.2  # accounts from which on it is judged; share beyond by chance; by drift


class Drifted(NamedTuple):
    """A score, and the share of accounts beyond nine tenths of the others, of which a tenth is expected."""

    detector: str
    share: Estimate


def drifted(known: Floats, mine: Floats, names: Sequence[str]) -> Iterator[Drifted]:
    """Scores in which far more than a tenth of accounts lie beyond nine tenths of the known ones.

    `known` (n, s), `mine` (m, s): share of each account's bets with p below 0.1 (`Calibration.tails`), NaN where it
    placed few. Far more: the 95 % interval of the share (Wilson) lies above a fifth. Fewer than 20 accounts on either
    side say nothing.
    """
    for j, name in enumerate(names if known.size and mine.size else ()):
        before, now = known[:, j], mine[:, j]
        before, now = before[~np.isnan(before)], now[~np.isnan(now)]
        if min(len(before), len(now)) < _CROWD:
            continue
        share = wilson(int((now > np.quantile(before, 1 - _EXPECTED)).sum()), len(now))
        if share.low > _DRIFTED:
            yield Drifted(name, share)
