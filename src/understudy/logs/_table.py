"""Records with a query each (or a batch in lists): JSON lines, CSV and Parquet by the manifest's places; LiteLLM's."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any

from understudy.logs._joined import Recent
from understudy.logs._places import AGAIN, Aside, Bad, Places
from understudy.logs._rows import UNANSWERED, Rows
from understudy.logs._tally import Tally

_TORN = "the line is no record (quotes that do not end, or a field that is too long)"


class Table:
    """Reads records by their places."""

    def __init__(self, rows: Rows, places: Places, litellm: bool = False) -> None:
        self._rows, self._places, self._litellm = rows, places, litellm
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
        margin = places.margin(record)
        if isinstance(inputs, list) and inputs and isinstance(inputs[0], list):
            columns = [*answers.values(), *([] if margin is None else [margin])]
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

    def close(self) -> None:
        """Check and spill what waits. Call it at the end of each file."""
        self._rows.flush()


def csv_records(lines: Iterator[tuple[int, bytes]], name: str, tally: Tally) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, record) of a CSV file with a head. Cells are text; an empty one is None. A record is one line."""
    head: list[str] | None = None
    for number, line in lines:
        try:
            (cells,) = csv.reader([line.decode("utf-8", "replace")], strict=True)
        except (csv.Error, ValueError):
            tally.reject(name, number, _TORN)
            continue
        if head is None:
            head = [cell.strip() for cell in cells]
        elif len(cells) != len(head):
            tally.reject(name, number, f"a line of {len(cells)} cells under a head of {len(head)}")
        else:
            yield number, {key: cell or None for key, cell in zip(head, cells, strict=True)}
