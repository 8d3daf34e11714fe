from . import conduct as conduct
from .study import Study as Study
from .study import study_from as study_from
from .tables import all_tables as all_tables
