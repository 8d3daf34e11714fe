from .measure import Row as Row
from .measure import machine as machine
from .measure import measure as measure
from .measure import table as table
