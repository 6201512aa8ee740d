"""A log held against a calibration: `run` reads it, follows every account, and says who stands where.

follow.py    plain functions over one part of the accounts: what a pool of processes runs, and a cluster could
conclude.py  from accounts to parties, data quality, a verdict, and alerts
run.py       files in, `Survey` and alerts out

Two passes over what was spilled: first every account is followed; then what they could have learned is summed for the
parties that are shown, and only for those.
"""

from understudy.monitor.follow import Seen, follow, learned
from understudy.monitor.run import Options, run

__all__ = ["Options", "Seen", "follow", "learned", "run"]
