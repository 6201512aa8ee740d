"""How well an attack's own check answers agree with its substitute's."""

from __future__ import annotations

import numpy as np

from understudy.types import Floats


def agreement(ours: Floats, theirs: Floats, value: bool) -> float:
    """Share of rows (n, k) of equal classes; of values the share of variance explained. 0 to 1, and 0 of no rows."""
    if not len(theirs):
        return 0.0
    if value:
        return float(np.clip(explained(ours, theirs), 0, 1))
    return float((ours.argmax(1) == theirs.argmax(1)).mean())


def explained(ours: Floats, theirs: Floats) -> float:
    """Share of the variance of values (n, k) explained, outputs together: at most 1, below 0 if worse than the mean."""
    return 1 - float(((ours - theirs) ** 2).sum()) / max(float(((theirs - theirs.mean(0)) ** 2).sum()), 1e-300)
