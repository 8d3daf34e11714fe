"""The file formats of the families beside the Perception Encoder, one module each."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
