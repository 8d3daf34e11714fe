from . import sweep as sweep
from .cached import CachedSession as CachedSession
from .features import FeatureExtractor as FeatureExtractor
from .sweep import SweepSession as SweepSession
from .sweep import Trial as Trial
