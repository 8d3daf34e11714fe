"""What a file or folder can do to a program: damage, bombs, and other processes in it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
