from . import hub as hub
from .bundle import Bundle as Bundle
from .predictor import Prediction as Prediction
from .predictor import Predictor as Predictor
from .predictor import load as load
