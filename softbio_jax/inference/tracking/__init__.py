"""Faces followed over the frames of a video, and answers smoothed over each of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
