"""Texts as inputs: the space of them, and how they are written down."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.errors import InputError

Texts = NDArray[np.object_]  # (n,) of str

_LETTERS = 8  # of a text that is made up
ALONE = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # scripts without spaces: a character is a word
#: a word, and a word or a mark as learners count them
WORD = re.compile(rf"[{ALONE}]|[^\W{ALONE}]+(?:['’][^\W{ALONE}]+)?")
WORD_OR_MARK = r"\w+|[^\w\s]"


@dataclass(frozen=True, slots=True)
class Text:
    """Texts of up to `longest` characters; inputs are an object array of str, shape (n,).

    `empty`: whether the empty text may be asked. No text holds NUL, or what UTF-8 cannot write (a lone surrogate).
    """

    longest: int = 2000
    empty: bool = False

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise InputError(f"a Text needs room for a character, got {self.longest}")

    @property
    def shape(self) -> tuple[int, ...]:
        """One input has no axes."""
        return ()

    def check(self, inputs: ArrayLike) -> Texts:
        """`inputs` as (n,) str; raises InputError, which repeats nothing of them, where one is not in the space."""
        given: Any = inputs.tolist() if isinstance(inputs, np.ndarray) else inputs
        if not isinstance(given, list | tuple):
            raise InputError("inputs are not a list of texts")
        wrong = self.faults(given)
        if wrong:
            row, why = next(iter(wrong.items()))
            raise InputError(f"inputs row {row} {why}; {len(wrong)} row(s) are affected")
        return inputs if isinstance(inputs, np.ndarray) and inputs.dtype == object else array(given)

    def faults(self, texts: Sequence[Any]) -> dict[int, str]:
        """What is amiss with each text that the space does not hold, by row."""
        return {row: why for row, text in enumerate(texts) if (why := self._fault(text))}

    def _fault(self, text: Any) -> str | None:
        if not isinstance(text, str):
            return "is not a text"
        if len(text) > self.longest:
            return f"is longer than {self.longest:,} characters"
        if not text:
            return None if self.empty else "is empty"
        if "\0" in text:
            return "holds a NUL character"
        try:
            text.encode()
        except UnicodeEncodeError:
            return "cannot be written as UTF-8 (a lone surrogate)"
        return None

    def sample(self, n: int, rng: np.random.Generator) -> Texts:
        """`n` made-up words: they show whether somebody answers, and stand for no text that a customer would send."""
        letters = rng.integers(97, 123, (n, min(_LETTERS, self.longest)), np.uint8)
        return array([row.tobytes().decode("ascii") for row in letters])


def array(texts: Sequence[Any]) -> Texts:
    """(n,) of a sequence of texts."""
    made = np.empty(len(texts), object)
    made[:] = texts
    return made


def plain(inputs: NDArray[Any]) -> Any:
    """Inputs as code that is not ours takes them: texts as a list, numbers as the array they are."""
    return inputs.tolist() if inputs.dtype == object else inputs


def blank(n: int, shape: Sequence[int]) -> NDArray[Any]:
    """`n` inputs of a shape that say nothing: to learn what a codec or a defence makes of the form."""
    return np.zeros((n, *shape)) if len(shape) else array(["a"] * n)


def coded(texts: Texts) -> tuple[NDArray[np.int32], bytes]:
    """(n,) bytes of each text in UTF-8, and all of them one after another. Raises UnicodeEncodeError."""
    parts = [text.encode() for text in texts.ravel().tolist()]
    return np.array([len(part) for part in parts], "<i4"), b"".join(parts)


def uncoded(lengths: NDArray[np.int32], body: bytes) -> Texts:
    """The inverse of `coded`. Raises ValueError where they do not belong together."""
    ends = np.cumsum(lengths, dtype=np.int64)
    if (lengths < 0).any() or (ends[-1] if len(ends) else 0) != len(body):
        raise ValueError("texts and their lengths do not fit")
    starts = (ends - lengths).tolist()
    return array([body[start:end].decode() for start, end in zip(starts, ends.tolist(), strict=True)])
