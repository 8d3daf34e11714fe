"""What a failed save prints besides its one line; tests/train/test_disks.py has a full disk."""

import logging
import sys
import types

import pytest

from softbio_jax.checkpoints import quiet

LATE = RuntimeError("Event loop is closed")


@pytest.fixture
def told(monkeypatch):
    """Errors that reach the hooks that were there before."""
    found = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: found.append(error))
    monkeypatch.setattr(sys, "unraisablehook", lambda args: found.append(args.exc_value))
    quiet.hush_failed_saves()
    quiet.hush_failed_saves()
    return found


@pytest.mark.parametrize("error", [LATE, RuntimeError("another"), ValueError(str(LATE))])
def test_late_writes_are_not_told_and_everything_else_is(told, error):
    sys.excepthook(type(error), error, None)
    sys.unraisablehook(types.SimpleNamespace(exc_value=error))
    assert told == ([] if error is LATE else [error, error])


def test_writes_that_nobody_asks_after_are_not_told(told, caplog):
    log = logging.getLogger("asyncio")
    log.error("_GatheringFuture exception was never retrieved\nfuture: ...")
    log.error("Task was destroyed but it is pending!")
    assert [record.getMessage() for record in caplog.records] == ["Task was destroyed but it is pending!"]
