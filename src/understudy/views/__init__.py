"""What a detector sees: one account's queries, and each beside the account's own earlier ones.

A *form* knows one kind of input, learnt from a reference sample: tabular rows (`Scale`), texts (`TextScale`), images
(`ImageScale`); a fourth, `Clock`, knows when queries were asked. It says what is kept of a query (a row of numbers),
how far queries lie apart, and which of them are repeats or edits of own earlier ones; detectors say which forms they
read.
"""

from __future__ import annotations

from collections.abc import Mapping

from numpy.random import Generator

from understudy.types import Array
from understudy.views.base import CUT, WINDOW, Floats32, Form, Kind, Own, View, gap, labels, sample, view_of
from understudy.views.images import ImageScale, is_image
from understudy.views.tabular import Scale, beyond
from understudy.views.text import TextScale, Tokens
from understudy.views.traffic import Clock

FORMS: Mapping[Kind, type[Form]] = {"tabular": Scale, "text": TextScale, "image": ImageScale, "traffic": Clock}


def form_of(reference: Array, rng: Generator) -> Form:
    """The form of a reference sample: text where it holds Python strings, images where a row has two dimensions of
    four or more, else tabular. Raises InputError where the sample is too small.
    """
    if reference.dtype.kind in "OUT":
        return TextScale.fit(reference, rng)
    return ImageScale.fit(reference, rng) if is_image(reference.shape[1:]) else Scale.fit(reference)


__all__ = [
    "CUT",
    "FORMS",
    "WINDOW",
    "Clock",
    "Floats32",
    "Form",
    "ImageScale",
    "Kind",
    "Own",
    "Scale",
    "TextScale",
    "Tokens",
    "View",
    "beyond",
    "form_of",
    "gap",
    "is_image",
    "labels",
    "sample",
    "view_of",
]
