from .timing import Row as Row
from .timing import machine as machine
from .timing import measure as measure
from .timing import table as table
