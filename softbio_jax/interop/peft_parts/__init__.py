"""Parts of PEFT's adapters: adapter_config.json, module names and the encoder they belong to."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
