"""Partial labels: ranges of years, votes and noise, from the columns of data sets to weights of classes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
