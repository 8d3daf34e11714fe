"""Predictions for any number of files: what is read, on which devices and processes, and the tables."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
