"""Which files a checkpoint consists of, and the plain names of its arrays."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
