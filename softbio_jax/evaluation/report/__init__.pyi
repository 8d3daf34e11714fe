from . import runs as runs
from . import write as write
from .document import Document as Document
from .runs import RunResults as RunResults
