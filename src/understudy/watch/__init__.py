"""Calibrated detectors over exchanges, one state per principal: the monitor's mind. No I/O, no clock.

`calibrate` learns what benign accounts do; `Watch` follows accounts and says where each stands among them.
"""

from understudy.watch.calibration import Calibration
from understudy.watch.learning import calibrate
from understudy.watch.queries import Queries
from understudy.watch.state import Standing, State
from understudy.watch.watching import Watch

__all__ = ["Calibration", "Queries", "Standing", "State", "Watch", "calibrate"]
