from . import fit as fit
from . import table as table
from .search import NothingFitsError as NothingFitsError
from .search import fitting as fitting
from .search import largest as largest
from .topology import devices_of as devices_of
