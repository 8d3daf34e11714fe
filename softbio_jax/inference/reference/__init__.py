"""What another runtime needs to prepare images as this library does, and how it finds its mistake."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
