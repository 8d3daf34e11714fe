from .evaluate import evaluate_run as evaluate_run
from .evaluate import summarise as summarise
from .predictions import Predictions as Predictions
