from .targets import TargetSession as TargetSession
from .teacher import attach as attach
from .teacher import load as load
