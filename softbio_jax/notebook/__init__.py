"""Notebooks: where a runtime keeps files, configurations, uploads, and results shown in a cell."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
