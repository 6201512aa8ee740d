"""Words and the word before each, as numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from understudy.views import Tokens


def before(tokens: Tokens, v: int) -> NDArray[np.int64]:
    """(t,) index of the word before each; `v` at the start of a text, -1 where it is not known."""
    found = np.concatenate([[v], tokens.at[:-1]]) if len(tokens.at) else tokens.at.copy()
    found[tokens.starts[:-1][tokens.sizes > 0]] = v
    return found


def pairs(tokens: Tokens, v: int) -> NDArray[np.int64]:
    """(t,) one number for each word and the one before it."""
    return (before(tokens, v) + 1) * (v + 2) + tokens.at + 1


def found_in(keys: NDArray[np.int64], asked: NDArray[np.int64]) -> NDArray[np.int64]:
    """(t,) where each of `asked` is in the sorted `keys`, -1 where it is not."""
    at = np.minimum(keys.searchsorted(asked), len(keys) - 1)
    return np.where(keys[at] == asked, at, -1)


def occurrences(tokens: Tokens, v: int) -> NDArray[np.float64]:
    """(v + 1,) how often each word comes; those that are not known come first."""
    return np.bincount(tokens.at + 1, minlength=v + 1).astype(np.float64)
