"""How fast a model answers on this machine, and how much memory it takes: `softbio-jax latency`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
