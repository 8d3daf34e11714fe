from . import composite as composite
from . import files as files
from . import paper as paper
from . import protocol as protocol
from . import report as report
from .pretraining import pretrain as pretrain
from .standard import Standard as Standard
