from .classifier import ZeroShotClassifier as ZeroShotClassifier
from .classifier import zero_shot_classifier as zero_shot_classifier
from .evaluate import evaluate_zero_shot as evaluate_zero_shot
from .prompts import PROMPTS as PROMPTS
from .prompts import Prompts as Prompts
from .prompts import load_prompts as load_prompts
