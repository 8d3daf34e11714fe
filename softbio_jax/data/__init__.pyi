from .augment import AugmentConfig as AugmentConfig
from .labels import class_of as class_of
from .labels import known_words as known_words
from .pipeline import eval_batches as eval_batches
from .pipeline import train_batches as train_batches
from .sampling import SAMPLERS as SAMPLERS
from .sources import PreparedDataset as PreparedDataset
from .sources import open_prepared as open_prepared
