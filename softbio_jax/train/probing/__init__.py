"""Linear probing: heads trained on cached features, and sweeps of their learning rates."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
