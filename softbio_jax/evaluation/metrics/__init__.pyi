from . import calibration as calibration
from . import classification as classification
from . import comparison as comparison
from . import fairness as fairness
from . import intervals as intervals
from . import per_task as per_task
from . import selective as selective
