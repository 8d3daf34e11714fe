"""Attention of every encoder: which implementation, and the kernel for TPUs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
