"""What several detectors need."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from understudy.errors import UsageError
from understudy.types import Array
from understudy.views import Own, View

Fitted = Mapping[str, Array]


def learnt(fitted: Fitted | None, name: str) -> Fitted:
    """What a detector learnt. Raises UsageError before it is fitted."""
    if fitted is None:
        raise UsageError(f"detector {name} must be fitted to the owner's data before it scores")
    return fitted


def past(view: View, name: str) -> Own:
    """The comparison with own earlier queries. Raises UsageError where it was not worked out."""
    if view.past is None:
        raise UsageError(f"detector {name} needs the account's own earlier queries")
    return view.past


def sample(rows: Array, n: int, rng: np.random.Generator) -> Array:
    """Up to `n` rows, without replacement."""
    return rows if len(rows) <= n else rows[rng.choice(len(rows), n, replace=False)]
