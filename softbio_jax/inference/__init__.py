"""A trained model in use: one bundle of weights and settings, its predictor, the Hub."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
