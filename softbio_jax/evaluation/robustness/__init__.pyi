from .corruptions import CORRUPTIONS as CORRUPTIONS
from .corruptions import corrupt as corrupt
from .measure import measure_run as measure_run
