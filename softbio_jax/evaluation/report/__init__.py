"""Reports: one or several runs in, one document out, as HTML, Markdown, LaTeX and JSON."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
