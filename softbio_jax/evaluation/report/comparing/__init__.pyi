from .configurations import Configuration as Configuration
from .configurations import grouped as grouped
from .page import compose as compose
