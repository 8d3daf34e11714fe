from .targets import Targets as Targets
from .targets import attach as attach
from .votes import shares as shares
from .years import interval as interval
