from .loop import train_and_evaluate as train_and_evaluate
from .metrics_log import MetricsLog as MetricsLog
from .preemption import Preempted as Preempted
from .preemption import Preemption as Preemption
from .progress import DivergedError as DivergedError
from .progress import Progress as Progress
