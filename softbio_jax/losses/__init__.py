"""Losses: per example and task, their global masked mean, the balanced sum."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
