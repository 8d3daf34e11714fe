from .configurations import Configuration as Configuration
from .page import compose as compose
