"""Zero-shot classification: prompts, the text encoder's classifier, its evaluation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
