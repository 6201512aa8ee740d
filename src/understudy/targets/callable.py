"""A Python function as a target, and the checks every raw answer goes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from understudy.errors import AnswerError, InputError, TargetError, UnderstudyError
from understudy.texts import plain
from understudy.types import EXPLANATIONS, Answers, Ask, Exposure, Floats, Grain, Signal, Space


@dataclass(frozen=True, eq=False)
class CallableTarget:
    """A Python function. `call(inputs)` returns one array, or {signal: array} where several signals are exposed.

    It is given an array of numbers (n, *shape), or a list of texts. A function with a parameter `within` is given (low,
    high), each (*shape,), where counterfactuals are wanted from inside a box.
    """

    call: Callable[[Any], Any]
    exposure: Exposure
    space: Space

    def query(self, inputs: ArrayLike, ask: Ask | None = None) -> Answers:
        """Call the function on the checked batch and hold its answer against the exposure."""
        x = self.space.check(inputs)
        if not len(x):
            return self.exposure.nothing(0, self.space.shape)
        try:
            raw = self.call(plain(x)) if ask is None or ask.within is None else self._inside(x, ask.within)
        except UnderstudyError:
            raise
        except Exception as error:
            raise TargetError(f"the function raised {type(error).__name__}: {error}") from error
        if not isinstance(raw, Mapping):
            wanted = self.exposure.signals
            if len(wanted) != 1:
                raise AnswerError(
                    f"the function returned one array, but {len(wanted)} signals are declared "
                    f"({', '.join(sorted(wanted))}); return a mapping {{signal: array}}"
                )
            raw = {next(iter(wanted)).value: raw}
        answers = checked(raw, len(x), self.exposure, self.space.shape)
        return answers if ask is None or ask.signals is None else answers.only(ask.signals)

    def _inside(self, x: Floats, within: tuple[tuple[float, ...], tuple[float, ...]]) -> Any:
        if "within" not in signature(self.call).parameters:
            raise InputError("this function takes no `within`: its counterfactuals come from anywhere")
        low, high = (np.array(side).reshape(self.space.shape) for side in within)
        call: Callable[..., Any] = self.call
        return call(x, within=(low, high))


def checked(raw: Mapping[str, Any], n: int, exposure: Exposure, shape: Sequence[int] = ()) -> Answers:
    """Raw arrays as Answers, held against what was asked for: every declared signal, `n` rows, the class count.

    `shape` of one input is needed for explanations: as many numbers are to come. Of two classes the second one's
    attributions will do, (n, d): the first one's are their negative, as for probabilities and log-odds.

    A binary score (n,) or (n, 1) becomes (n, 2). Scores outside [0, 1] are let through as they are (an attack
    recognises logits that are called probabilities); rows inside [0, 1] must sum to one. Of a score of which only the
    largest entries are shown, a zero is an entry that is withheld: nobody can tell the two apart. Raises AnswerError.
    """
    values: dict[Signal, Any] = {}
    present: dict[Signal, Any] = {}
    for signal, grain in exposure.grains.items():
        if signal not in raw and signal.value not in raw:
            got = ", ".join(map(str, raw)) or "nothing"
            raise AnswerError(f"{signal.value} was asked for and not answered (answered: {got})")
        value = raw.get(signal, raw.get(signal.value))
        if signal in EXPLANATIONS:
            values[signal] = _explanation(signal, value, n, exposure.outputs, prod(shape))
            continue
        values[signal] = _one(signal, value, n, exposure.outputs, grain)
        if grain.top_k is not None and signal is not Signal.LABEL:
            present[signal] = values[signal] != 0
    return Answers(values, exposure.outputs, present)


def _rows(signal: Signal, value: Any, n: int) -> Floats:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise AnswerError(f"{signal.value}: not a rectangular array of numbers (ragged rows, or text?)") from None
    if array.shape[:1] != (n,):
        got = array.shape[0] if array.ndim else "a single number"
        raise AnswerError(f"{signal.value}: {n} inputs were asked and {got} answers came back")
    return array


def _explanation(signal: Signal, value: Any, n: int, outputs: int, d: int) -> Floats:
    array = _rows(signal, value, n).reshape(n, -1)
    wanted = d if signal is Signal.COUNTERFACTUAL else outputs * d
    if signal is Signal.ATTRIBUTION and outputs == 2 and array.shape[1] == d:
        array = np.hstack([-array, array])
    if array.shape[1] != wanted:
        raise AnswerError(f"{signal.value}: {array.shape[1]} numbers per answer, expected {wanted}")
    odd = ~np.isfinite(array)
    if signal is Signal.COUNTERFACTUAL:
        odd &= ~np.isnan(array).all(1, keepdims=True)  # none was found
    if odd.any():
        raise AnswerError(f"{signal.value}: not all finite")
    return array


def _one(signal: Signal, value: Any, n: int, outputs: int, grain: Grain) -> Any:
    array = _rows(signal, value, n)
    if signal is Signal.LABEL:
        return _labels(array, outputs)
    array = array.reshape(n, -1)
    if array.shape[1] == 1 and outputs == 2 and signal is not Signal.VALUE:
        zero = np.zeros_like(array)
        array = np.hstack([1 - array, array] if signal is Signal.PROBABILITIES else [zero, array])
    if array.shape[1] != outputs:
        raise AnswerError(f"{signal.value}: {array.shape[1]} numbers per answer, expected {outputs} (classes changed?)")
    if signal is Signal.PROBABILITIES:
        _simplex(array, grain)
    elif signal is Signal.LOGITS and not np.isfinite(array).all():
        raise AnswerError("logits: not all finite")
    return array


def _labels(array: Floats, outputs: int) -> Any:
    flat = array.reshape(len(array), -1)
    if flat.shape[1] != 1 or (flat != np.floor(flat)).any():
        raise AnswerError("label: expected one whole number per answer; are these scores?")
    strange = flat[(flat < 0) | (flat >= outputs)]
    if len(strange):
        expected = f"expected 0 to {outputs - 1} (classes changed?)"
        told = f"label: another class was answered, {expected}"
        raise AnswerError(f"label: class {strange[0]:.12g} was answered, {expected}", told=told)
    return flat[:, 0].astype(np.int64)


def _simplex(p: Floats, grain: Grain) -> None:
    least, most = np.minimum.reduce(p, None, initial=0.0), np.maximum.reduce(p, None, initial=0.0)
    if not (least >= 0.0 and most <= 1.0):  # NaN is neither
        finite = np.isfinite(p)
        if not finite.all():
            raise AnswerError(f"probabilities: row {int(np.argwhere(~finite)[0][0])} is not finite")
        return
    if not len(p):
        return
    slack = 1e-3 if grain.decimals is None else 1e-3 + p.shape[1] * 0.5 * 10.0**-grain.decimals
    total = np.add.reduce(p, 1)
    off = total - 1 if grain.top_k is not None else np.abs(total - 1)
    row = int(off.argmax())
    if off[row] > slack:
        told = f"probabilities: {np.count_nonzero(off > slack)} row(s) do not sum to one"
        hint = "if these are scores, declare the signal 'logits' or 'value'"
        raise AnswerError(f"{told} (row {row} sums to {total[row]:.4g}); {hint}", told=f"{told}; {hint}")
