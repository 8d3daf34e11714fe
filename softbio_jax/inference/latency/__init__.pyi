from .measure import Row as Row
from .measure import measure as measure
from .measure import table as table
