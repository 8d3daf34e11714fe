"""Training: the loop that drives a run, its log and progress, preemption."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
