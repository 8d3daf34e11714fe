from .beam import do_fn as do_fn
from .stream import Stream as Stream
from .table import PredictionTable as PredictionTable
