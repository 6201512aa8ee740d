"""What became of the records of a log: how many were read, which were malformed and why."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from understudy.survey import counted

_SAMPLES = 20  # of each reason, in the reject file
_REASONS = 100  # that are told apart
_OTHER = "other reasons"


class Tally:
    """Counts, and a sample of rejects with file and line. Reasons repeat nothing of a record.

    `queries` read; `rejected`: malformed records, by reason; `aside`: sound ones that are left out, by reason.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.queries = 0
        self.rejected = Counter[str]()
        self.aside = Counter[str]()
        self._path = path
        self._file: IO[str] | None = None

    def reject(self, file: str, line: int, reason: str) -> None:
        """A record that cannot be used. `line`: from 1; the record's number where the file has no lines."""
        if reason not in self.rejected and len(self.rejected) >= _REASONS:
            reason = _OTHER
        self.rejected[reason] += 1
        if self._path is None or self.rejected[reason] > _SAMPLES:
            return
        if self._file is None:
            handle = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            self._file = open(handle, "w", encoding="utf-8")  # noqa: SIM115  # open until `close`
        print(json.dumps({"file": file, "line": line, "reason": reason}), file=self._file, flush=True)

    def told(self) -> Iterator[str]:
        """What was not used, a line for each reason."""
        for title, counts in (("rejected", self.rejected), ("left out", self.aside)):
            for reason, count in counts.most_common():
                yield f"{counted(count, 'record')} {title}: {reason}"

    def close(self) -> None:
        """Let go of the reject file."""
        if self._file is not None:
            self._file.close()
            self._file = None
