"""What Orbax and TensorStore print of a save that fails, which `wait` raises as one line."""

import logging
import sys
from types import TracebackType


def hush_failed_saves() -> None:
    """Keeps the tracebacks of failed saves out of the log and off stderr; once is enough."""
    global _before, _before_unraisable
    logging.getLogger("absl").addFilter(_is_no_failed_save)
    logging.getLogger("asyncio").addFilter(_is_no_unheard_write)
    if sys.excepthook is not _hook:
        _before, sys.excepthook = sys.excepthook, _hook
    if sys.unraisablehook is not _unraisable_hook:
        _before_unraisable, sys.unraisablehook = sys.unraisablehook, _unraisable_hook


_before, _before_unraisable = sys.excepthook, sys.unraisablehook


def _is_no_failed_save(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


def _is_no_unheard_write(record: logging.LogRecord) -> bool:
    # Of several writes that fail the first ends the save; nobody asks after the others.
    return "exception was never retrieved" not in record.getMessage()


def _is_late_write(error: BaseException | None) -> bool:
    # TensorStore's writes still under way find the event loop of the save that gave up closed.
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not _is_late_write(error):
        _before(kind, error, traceback)


def _unraisable_hook(unraisable: "sys.UnraisableHookArgs") -> None:
    if not _is_late_write(unraisable.exc_value):
        _before_unraisable(unraisable)
