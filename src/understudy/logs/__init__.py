"""Query logs: the gateway's own history, KServe, LiteLLM, SageMaker, and any JSONL, CSV or Parquet by a mapping.

    read(source, manifest)          every account's queries, account by account, each in time order
    partition(source, manifest, folder) -> parts      the same in two steps: `part.queries()` of each, in any process

Nothing is held that grows with the log: rows go to disk by a hash of the principal, and a part is sorted by itself. A
malformed record is counted and set aside with its file, its line and the reason, never with anything it says.
"""

from understudy.logs._files import shown
from understudy.logs._history import contexts
from understudy.logs._layout import Layout, Who
from understudy.logs._read import Source, partition, read
from understudy.logs._spill import Part
from understudy.logs._tally import Tally

__all__ = ["Layout", "Part", "Source", "Tally", "Who", "contexts", "partition", "read", "shown"]
