from . import prepare as prepare
from . import tables as tables
from .base import FaceBuilder as FaceBuilder
from .rows import Outcome as Outcome
from .rows import Rejection as Rejection
from .rows import Row as Row
from .rows import Skip as Skip
from .storage import Storage as Storage
