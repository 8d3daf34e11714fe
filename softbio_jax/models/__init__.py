"""Models: the vision and text encoders, the heads, the multitask model, their operation counts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
