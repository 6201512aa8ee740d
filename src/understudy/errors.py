"""Every error Understudy raises on purpose.

UnderstudyError
├── UsageError              the request cannot be carried out as written (exit code 2)
│   ├── ManifestError       a manifest, or a file it names, is wrong
│   ├── UnknownName         no plug-in of that name
│   ├── MissingExtra        an optional library is not installed
│   └── NotAuthorised       a target off this machine, without an authorisation in force
├── InputError              inputs the space does not hold: refused before anything is charged
├── BudgetExceeded          the next batch would overspend; nothing of it was asked
├── TargetError             the target could not be reached or did not answer
│   └── AnswerError         it answered, and the answer cannot be used
├── Unauthenticated         who asks is not known: 401, the same words to everybody
├── KeysError               the key database cannot be read or written
├── LedgerError             allowances cannot be counted: nothing is admitted
├── RecordError             a run folder is damaged
│   └── ReplayDiverged      a resumed attack asks something other than what is on record
├── HistoryError            the gateway's history cannot be written, or was changed, or is of another format
└── MonitorError            states, responses or alerts cannot be read or written

Each message says what is wrong, where, and what to do. None carries a key, a header value or an input row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class UnderstudyError(Exception):
    """Root of the tree; the command line prints it without a traceback."""


class UsageError(UnderstudyError):
    """The request cannot be carried out as written."""


class ManifestError(UsageError):
    """A manifest, or a file that it names, is wrong."""


class UnknownName(UsageError):
    """No plug-in of that name is installed."""


class MissingExtra(UsageError):
    """An optional library is needed and not installed."""


class NotAuthorised(UsageError):
    """The target is not on this machine and the manifest holds no authorisation in force."""


class InputError(UnderstudyError):
    """Inputs have the wrong shape, are not numbers, or lie outside the space."""


class BudgetExceeded(UnderstudyError):
    """Asking this batch would overspend the budget; nothing of it was asked."""


class TargetError(UnderstudyError):
    """The target could not be reached, or refused, or did not answer in time."""


class AnswerError(TargetError):
    """The target answered, and the answer cannot be used.

    `raw` keeps what arrived (bytes) so that a bought answer is never lost; it is stored, never printed. `told` is the
    message without anything of the answer: for logs.
    """

    def __init__(self, message: str, raw: bytes = b"", told: str | None = None) -> None:
        super().__init__(message)
        self.raw, self.told = raw, message if told is None else told


class Unauthenticated(UnderstudyError):
    """Who asks is not known: an HTTP 401.

    `str()` is the same for every reason, since a customer learns nothing from the difference. `why` is for the log and
    for counters: a few fixed phrases, nothing of what was sent. `key_id` names the key, where there is one.
    """

    status = 401
    headers: ClassVar[Mapping[str, str]] = {"www-authenticate": "Bearer"}

    def __init__(self, why: str, key_id: str | None = None) -> None:
        super().__init__("invalid or missing credential")
        self.why = why
        self.key_id = key_id


class KeysError(UnderstudyError):
    """The key database is damaged, gone, or of another version: nobody's key can be looked up (an HTTP 503)."""


class LedgerError(UnderstudyError):
    """What was asked so far is damaged, out of date or out of reach, so nothing may be admitted on it."""


class RecordError(UnderstudyError):
    """A run folder is damaged, of another version, or not a run folder."""


class ReplayDiverged(RecordError):
    """A resumed attack asked something else than the record holds; the recorded answers are kept."""


class HistoryError(UnderstudyError):
    """The gateway's history cannot be written now, or is damaged, changed, or of another format."""


class MonitorError(UnderstudyError):
    """States, responses or alerts of the monitor are damaged, of another version, or cannot be written."""
