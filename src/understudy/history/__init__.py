"""The gateway's record of exchanges: durable before an answer leaves, tamper-evident, and forgetful on request.

    NNNN-<worker>-<start>.sqlite   a segment: one worker's rows in the order they were kept, one hash chain per worker
    <worker>.lock                  held by the process that writes under that name
    acts.sqlite                    what was done to the record: segments expired (tombstones), principals erased
    key                            makes sketches, hashes and pseudonyms mean nothing elsewhere

The history is what a thief wants: the folder is 0700, its files 0600. Writers run in the gateway's workers; `History`
reads in any process, also while they write.
"""

from understudy.history.inputs import warnings
from understudy.history.reader import History
from understudy.history.rows import Head, Kept, Row
from understudy.history.segments import Segment, Tombstone
from understudy.history.tail import Place, Read, read_on
from understudy.history.usage import Used
from understudy.history.writer import Writer

__all__ = [
    "Head",
    "History",
    "Kept",
    "Place",
    "Read",
    "Row",
    "Segment",
    "Tombstone",
    "Used",
    "Writer",
    "read_on",
    "warnings",
]
