"""The page that compares runs: seeds aggregated, paired differences, cost beside accuracy."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
