from .configs import config as config
from .display import Shown as Shown
from .display import show_predictions as show_predictions
from .display import show_report as show_report
from .runtime import folders as folders
from .runtime import source as source
