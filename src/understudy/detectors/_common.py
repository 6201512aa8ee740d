"""What several detectors need."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UsageError
from understudy.types import Array
from understudy.views import Clock, ImageScale, Kind, Own, Scale, Tokens, View

Fitted = Mapping[str, Array]
EVERY: tuple[Kind, ...] = ("tabular", "text", "image")


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


def changes(view: View, name: str) -> NDArray[np.int16]:
    """(n, m) how many fields or words changed since each own earlier query. Raises UsageError where that is unknown."""
    changed = past(view, name).changed
    if changed is None:
        raise UsageError(f"detector {name} compares fields or words, not {view.form.kind} inputs")
    return changed


def table(view: View, name: str) -> Scale:
    """The columns of tabular inputs. Raises UsageError where they are not tabular."""
    if not isinstance(view.form, Scale):
        raise UsageError(f"detector {name} reads tabular inputs, not {view.form.kind}")
    return view.form


def numbers(view: View, name: str) -> Scale | ImageScale:
    """The form of inputs that are numbers. Raises UsageError where they are texts."""
    if not isinstance(view.form, Scale | ImageScale):
        raise UsageError(f"detector {name} reads numbers, not {view.form.kind}")
    return view.form


def times(view: View, name: str) -> Own:
    """When queries were asked, beside the account's earlier ones. Raises UsageError for views of anything else."""
    if not isinstance(view.form, Clock):
        raise UsageError(f"detector {name} reads times, not {view.form.kind} inputs")
    return past(view, name)


def words(view: View, name: str) -> Tokens:
    """The words of texts. Raises UsageError where inputs are no texts."""
    if view.tokens is None:
        raise UsageError(f"detector {name} reads texts, not {view.form.kind} inputs")
    return view.tokens
