"""Drawn faces: from labels to the parameters of a face, and from those to pixels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
