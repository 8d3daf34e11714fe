"""Data: sources read records, samplers order them, the pipeline batches them, the device augments."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
