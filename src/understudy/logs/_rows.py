"""Records that hold one query each, kept as they came and checked many at a time."""

from __future__ import annotations

import datetime as dt
from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from understudy.errors import UsageError
from understudy.logs._layout import FIRST, INPUTS, MARGIN, Who, sound
from understudy.logs._spill import Spill
from understudy.logs._tally import Tally
from understudy.texts import array as array_of_texts
from understudy.types import Array, Exposure, Floats, Grain, Signal

AUDIT, UNANSWERED = "the owner's own audits", "not answered"
_MANY, _LONG = 8192, 2**24  # queries, and characters of texts or bytes of numbers, that wait to be checked
_NUMBER = 32  # bytes of one as an object
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))  # beyond so many, the number is in nano-, micro-, milliseconds


EARLIEST, LATEST = -62_135_596_800.0, 253_402_214_400.0  # the years that a date can have: 1 to 9999


def seconds(value: Any) -> float | None:
    """Unix seconds of a logged time; None where it is none. A time without a zone is UTC."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            try:
                value = dt.datetime.fromisoformat(value.strip())
            except ValueError:
                return None
    if isinstance(value, dt.datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).timestamp()
        return value if EARLIEST <= value <= LATEST else None
    if isinstance(value, dt.date):
        return dt.datetime.combine(value, dt.time(), dt.UTC).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e20:
        return None
    found = float(value / next((unit for bound, unit in _UNITS if abs(value) > bound), 1))
    return found if EARLIEST <= found <= LATEST else None


def _alone(value: Any) -> Any:
    """A text that lies alone in a list, as a row of one column."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def name(value: Any) -> str | None:
    """Who somebody is, as text; None where nobody is named."""
    if isinstance(value, str):
        return value if value and not value.isspace() and "\ufffd" not in value else None
    if isinstance(value, float) and value.is_integer():  # what a column of integers with gaps becomes
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


class Rows:
    """Takes queries one by one and spills them in bulk. `text`: numbers come as text, as in CSV."""

    def __init__(
        self,
        spill: Spill,
        tally: Tally,
        classes: Sequence[str] = (),
        encode: Callable[[list[Any]], Any] | None = None,
        text: bool = False,
    ) -> None:
        self.file, self.kept = "", False  # kept: whether any query came with its input
        self._spill, self._tally, self._encode, self._text = spill, tally, encode, text
        self._shown = spill.layout.exposure
        self.classes = {str(c): i for i, c in enumerate(classes)}
        self._clear()

    def _clear(self) -> None:
        self._lines: list[int] = []
        self._whos: list[Who] = []
        self._at: list[float] = []
        self._inputs: list[Any] = []
        self._answers: dict[Signal, list[Any]] = {signal: [] for signal in self._shown.grains}
        self._margin: list[Any] = []
        self._size = 0

    def add(self, line: int, who: Who, at: float, inputs: Any, answers: Mapping[Signal, Any], margin: Any) -> None:
        """One query. `inputs`: a list of numbers, or whatever `encode` takes; None where it was not kept."""
        self._lines.append(line)
        self._whos.append(who)
        self._at.append(at)
        self._inputs.append(inputs)
        for signal, column in self._answers.items():
            column.append(answers.get(signal))
        self._margin.append(margin)
        self._size += (
            len(inputs) if isinstance(inputs, str) else _NUMBER * len(inputs) if isinstance(inputs, list) else 0
        )
        if len(self._lines) >= _MANY or self._size >= _LONG:
            self.flush()

    def flush(self) -> None:
        """Check and spill what was added."""
        n = len(self._lines)
        if not n:
            return
        wrong: dict[int, str] = {}
        there = np.array([x is not None for x in self._inputs])
        table = self._table(there, wrong)
        margin = self._numbers(self._margin, wrong)
        answers = {}
        for signal, column in self._answers.items():
            held = np.array([value is not None for value in column])
            if held.any():
                answers[signal] = held, self._scores(signal, column, held, wrong)
        codes = np.array([self._spill.code(who) for who in self._whos], np.int32)
        self.take(self._lines, codes, np.array(self._at), (there, table), answers, margin, wrong)
        self._clear()

    def take(
        self,
        lines: Sequence[int],
        codes: Array,
        at: Floats,
        inputs: tuple[Array, Array],
        answers: Mapping[Signal, tuple[Array, Floats]],
        margin: Floats,
        wrong: dict[int, str],
    ) -> None:
        """Spill the sound ones of many queries, reject the others. NaN: no margin, or an entry that is withheld.

        Inputs and answers come with whether each row has them, the answers of those rows only. `wrong`: rows that are
        known to be amiss, and why.
        """
        n, (there, table), told = len(lines), inputs, ~np.isnan(margin)
        self.kept = self.kept or bool(there.any())
        for row in np.flatnonzero(~np.isfinite(at)).tolist():
            wrong.setdefault(row, "its time is no number")
        for row, reason in self._spill.layout.unfit(table).items():
            if there[row]:
                wrong.setdefault(row, reason)
        for row in np.flatnonzero(np.isinf(margin)).tolist():
            wrong.setdefault(row, "the margin is not a number")
        made = self._spill.layout.pack(n, at, table, None, np.where(told, margin, 0.0))
        made["kind"] = there * INPUTS + told * MARGIN
        for place, signal in enumerate(self._spill.layout.exposure.grains):
            if signal in answers:
                held, scores = answers[signal]
                self._fill(made, signal, np.flatnonzero(held), scores, wrong)
                made["kind"] |= (held * (FIRST << place)).astype(np.uint8)
        for row in np.flatnonzero(made["kind"] < FIRST).tolist():
            wrong.setdefault(row, UNANSWERED)
        if wrong:
            good = np.ones(n, np.bool_)
            good[list(wrong)] = False
            made, codes = made[good], codes[good]
            for row, reason in sorted(wrong.items()):
                if reason in (AUDIT, UNANSWERED):
                    self._tally.aside[reason] += 1
                else:
                    self._tally.reject(self.file, lines[row], reason)
        self._spill.add_many(codes, made)
        self._tally.queries += len(made)

    def _fill(self, made: Array, signal: Signal, rows: Array, table: Floats, wrong: dict[int, str]) -> None:
        """One signal's answers into the records that have it."""
        given, outputs, grain = ~np.isnan(table), self._shown.outputs, self._shown.grains[signal]
        partial = signal in (Signal.PROBABILITIES, Signal.LOGITS) and not given.all()
        raw = np.where(given, table, 0.0) if partial else table
        shown = Exposure({signal: Grain(1, grain.decimals) if partial else grain}, outputs)
        answers, unsound = sound({signal.value: raw}, len(rows), shown)
        for i, why in unsound.items():
            wrong.setdefault(int(rows[i]), why)
        if answers is not None:
            made[signal.value][rows] = answers[signal]
            if signal is not Signal.LABEL:
                made[f"given:{signal.value}"][rows] = answers.mask(signal)

    def _table(self, there: Array, wrong: dict[int, str]) -> Array:
        """The inputs as (n, width), zeros where there are none; or as texts."""
        n, width = len(there), self._spill.layout.width
        if self._spill.layout.text is not None:
            return array_of_texts([_alone(value) for value in self._inputs])
        if self._encode is None:
            return self._lists(self._inputs, width, there, wrong, f"the inputs are not {width} numbers")
        made = np.zeros((n, width))
        self._encoded(self._encode, np.flatnonzero(there).tolist(), made, wrong)
        return made

    def _encoded(
        self, encode: Callable[[list[Any]], Any], rows: list[int], into: Floats, wrong: dict[int, str]
    ) -> None:
        """Rows by a function of the owner's; where it fails, by halves of them, until those are left that it cannot."""
        if not rows:
            return
        try:
            found = encode([self._inputs[i] for i in rows])
        except Exception as error:  # code of anybody's making
            if len(rows) == 1:
                wrong[rows[0]] = f"monitor.logs.encode raised {type(error).__name__}"
                return
            for some in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
                self._encoded(encode, some, into, wrong)
            return
        try:
            into[rows] = np.asarray(found, np.float64).reshape(len(rows), into.shape[1])
        except (TypeError, ValueError):
            raise UsageError(f"monitor.logs.encode did not return {into.shape[1]} numbers for each input") from None

    def _lists(self, rows: list[Any], width: int, there: Array, wrong: dict[int, str], reason: str) -> Floats:
        """Lists of numbers as (n, width): all at once, or one by one where one of them is amiss."""
        n = len(rows)
        if there.all():
            try:
                if self._text:
                    return np.array(rows, np.float64).reshape(n, width)
                if set(map(len, rows)) == {width}:
                    return np.frombuffer(array("d", list(chain.from_iterable(rows)))).reshape(n, width)
            except (TypeError, ValueError, OverflowError):
                pass
        made, gaps = np.zeros((n, width)), bool(self._spill.layout.missing)
        for i in np.flatnonzero(there).tolist():
            row = rows[i]
            try:
                if isinstance(row, str | bytes | Mapping) or len(row) != width:
                    raise ValueError
                if gaps:
                    row = [np.nan if x is None else x for x in row]
                made[i] = np.array(row, np.float64) if self._text else array("d", row)
            except (TypeError, ValueError, OverflowError):
                wrong.setdefault(i, reason)
        return made

    def _numbers(self, column: list[Any], wrong: dict[int, str]) -> Floats:
        """One number a row; NaN where there is none."""
        made = np.full(len(column), np.nan)
        for i, value in enumerate(column):
            if value is None:
                continue
            try:
                made[i] = float(value) if self._text or not isinstance(value, str | bool) else np.inf
            except (TypeError, ValueError, OverflowError):
                made[i] = np.inf
        return made

    def _scores(self, signal: Signal, column: list[Any], held: Array, wrong: dict[int, str]) -> Floats:
        """The answers of the rows that have them: (m,) labels, or (m, outputs or 1) scores with NaN where withheld."""
        rows, bad = np.flatnonzero(held), dict[int, str]()
        values = [column[i] for i in rows.tolist()]
        if signal is Signal.LABEL:
            table = self._labels(values, bad)
        else:
            flat = [v if isinstance(v, list | tuple) else (v,) for v in values]
            width = (
                1
                if self._shown.outputs == 2 and len(flat[0]) == 1 and signal is not Signal.VALUE
                else self._shown.outputs
            )
            if any(None in v for v in flat):
                flat = [[np.nan if x is None else x for x in v] for v in flat]
            reason = f"{signal.value} is not what this endpoint answers"
            table = self._lists(flat, width, np.ones(len(flat), np.bool_), bad, reason)
        for i, why in bad.items():
            wrong.setdefault(int(rows[i]), why)
        return table

    def _labels(self, values: list[Any], bad: dict[int, str]) -> Floats:
        """(n,) class numbers; names are looked up."""
        made = np.full(len(values), np.nan)
        for i, value in enumerate(values):
            if isinstance(value, list | tuple) and len(value) == 1:
                value = value[0]
            named = value.strip() if isinstance(value, str) else str(value) if type(value) is int else None
            if named in self.classes:  # a class may be called "7"
                made[i] = self.classes[named]
            elif type(value) is int or type(value) is float:
                made[i] = value
            elif self._text and not self.classes:
                try:
                    made[i] = float(value)
                except ValueError:
                    bad[i] = "label is no class number (name them in monitor.logs.classes)"
            else:
                bad[i] = "label is not one of monitor.logs.classes" if self.classes else "label is no class number"
        for i in bad:
            made[i] = 0
        return made
