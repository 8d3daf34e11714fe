"""Robustness of a run: its test sets under corruptions that are computed on the device."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
