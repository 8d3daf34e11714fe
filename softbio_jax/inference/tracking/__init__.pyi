from .smoothing import Smoother as Smoother
from .tracker import Tracker as Tracker
from .video import Tracks as Tracks
