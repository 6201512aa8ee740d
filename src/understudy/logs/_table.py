"""Records with a query each (or a batch in lists): JSON lines, CSV and Parquet by the manifest's places; LiteLLM's."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from understudy.logs._joined import Recent
from understudy.logs._places import AGAIN, Aside, Bad, Places
from understudy.logs._rows import UNANSWERED, Rows
from understudy.logs._tally import Tally

_REDACTED = "redacted-by-litellm"
_TORN = "the line is no record (quotes that do not end, or a field that is too long)"


class Table:
    """Reads records by their places."""

    def __init__(self, rows: Rows, places: Places, litellm: bool, shape: tuple[int, ...]) -> None:
        self._rows, self._places, self._litellm = rows, places, litellm
        self._texts, self._rank = not shape, len(shape)
        self._recent = Recent()

    def add(self, file: str, line: int, record: Mapping[str, Any]) -> None:
        """One record. Raises Bad or Aside."""
        self._rows.file = file
        if self._litellm and record.get("status") == "failure":
            raise Aside(UNANSWERED)
        places = self._places
        who, at = places.who(record), places.at(record)
        key = places.id(record)
        if key is not None and self._recent.again(key):
            raise Aside(AGAIN)
        inputs = places.inputs(record)
        answers = {signal: get(record) for signal, get in places.answers.items()}
        if self._litellm and _redacted(inputs):
            inputs = None
        if self._litellm and any(map(_redacted, answers.values())):
            raise Bad("the answer is redacted: LiteLLM was told to log no messages")
        margin = places.margin(record)
        columns = [*answers.values(), *([] if margin is None else [margin])]
        if self._rank > 1:
            inputs = _flat(inputs, self._rank)
        if self._batched(inputs, columns):
            if any(
                column is not None and (not isinstance(column, list) or len(column) != len(inputs))
                for column in columns
            ):
                raise Bad("there are not as many answers as inputs")
            for i, row in enumerate(inputs):
                each = {s: None if column is None else column[i] for s, column in answers.items()}
                self._rows.add(line, who, at, row, each, None if margin is None else margin[i])
            return
        self._rows.add(line, who, at, inputs, answers, margin)

    def _batched(self, inputs: Any, columns: list[Any]) -> bool:
        """Whether a record holds a list of inputs. A text alone in a list is one, unless its answers are listed too."""
        if not isinstance(inputs, list) or not inputs or not isinstance(inputs[0], (list, str)[: 1 + self._texts]):
            return False
        listed = all(column is None or (isinstance(column, list) and len(column) == 1) for column in columns)
        return len(inputs) > 1 or not self._texts or listed

    def close(self) -> None:
        """Check and spill what waits. Call it at the end of each file."""
        self._rows.flush()


def _redacted(inputs: Any) -> bool:
    """Whether LiteLLM was told to keep no messages, and wrote that in their place."""
    lines = inputs.split("\n") if isinstance(inputs, str) else ()
    return bool(lines) and set(lines) == {_REDACTED}


def _flat(inputs: Any, rank: int) -> Any:
    """Inputs of several axes as rows of numbers: lists within lists, of one input or of several. Raises Bad."""
    depth, inner = 0, inputs
    while isinstance(inner, list) and inner:
        depth, inner = depth + 1, inner[0]
    if depth <= 1 or depth not in (rank, rank + 1):
        return inputs
    try:
        table = np.array(inputs, np.float64)
    except (TypeError, ValueError):
        raise Bad("the inputs are not lists of numbers of one length") from None
    flat = table.ravel() if depth == rank else table.reshape(len(table), -1)
    found: list[Any] = flat.tolist()
    return found


def csv_records(lines: Iterator[tuple[int, bytes]], name: str, tally: Tally) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, record) of a CSV file with a head. Cells are text; an empty one is None. A record is one line.

    `joined` first makes one line of a record whose texts hold line ends.
    """
    head: list[str] | None = None
    for number, line in lines:
        try:
            (cells,) = csv.reader([line.decode("utf-8", "replace")], strict=True)
        except (csv.Error, ValueError):
            tally.reject(name, number, _TORN)
            continue
        if head is None:
            head = [cell.strip() for cell in cells]
            if len(set(head)) < len(head):
                tally.reject(name, number, "two columns have the same name: nothing of the file is read")
                return
        elif len(cells) != len(head):
            tally.reject(name, number, f"a line of more or fewer cells than the head, which has {len(head)}")
        else:
            yield number, {key: cell or None for key, cell in zip(head, cells, strict=True)}


def joined(lines: Iterator[tuple[int, bytes]], name: str, tally: Tally, most: int) -> Iterator[tuple[int, bytes]]:
    """(line, record) of a CSV file whose texts hold line ends, blank lines between records left out.

    A quote that does not end within `most` bytes, or not in a record of the head's width, spoils its own line and no
    other. What is not UTF-8 is rejected.
    """
    again = deque[tuple[int, bytes]]()  # lines to be looked at once more
    waiting, size, quoted, width = list[tuple[int, bytes]](), 0, False, 0
    while True:
        line = again.popleft() if again else next(lines, None)
        if line is None and not waiting:
            return
        if line is not None:
            waiting.append(line)
            size, quoted = size + len(line[1]), quoted ^ (line[1].count(b'"') % 2 == 1)
            if quoted and size <= most:
                continue
        record = b"".join(part for _, part in waiting)
        if len(waiting) > 1 and (quoted or _width(record) != (width or _width(record))):
            again.extendleft(reversed(waiting[1:]))
            record = waiting[0][1]
        width = width or _width(record)
        try:
            if record.decode().strip():
                yield waiting[0][0], record
        except UnicodeDecodeError:
            tally.reject(name, waiting[0][0], "the record is not UTF-8")
        waiting, size, quoted = [], 0, False


def _width(record: bytes) -> int:
    """How many cells; 0 where it is no record."""
    try:
        (cells,) = csv.reader([record.decode("utf-8", "replace")], strict=True)
    except (csv.Error, ValueError):
        return 0
    return len(cells)
