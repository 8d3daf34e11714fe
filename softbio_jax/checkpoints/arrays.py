"""Writing and reading a pytree of arrays by Orbax, without its tracebacks and half-finished work.

The processes of a run write together, so how they wait for each other is here too.
"""

import asyncio
import copy
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

_LOG = logging.getLogger("absl")
_BARRIER_TIMEOUT = 30 * 60_000  # milliseconds: longer than any compilation


class Writer:
    """Writes states in the background, one at a time."""

    def __init__(self) -> None:
        self._writer = ocp.AsyncCheckpointer(_handler())

    def start(self, directory: epath.Path, state: Any) -> None:
        """Starts writing; the arrays are copied before this returns."""
        self._writer.save(directory, args=ocp.args.PyTreeSave(state))

    def wait(self) -> None:
        """Waits until the state is written; raises what stopped it."""
        self._writer.wait_until_finished()

    def close(self) -> None:
        """Ends the background threads."""
        self._writer.close()


def join_threads() -> None:
    """Waits for Orbax's threads to end after a failure, so that they have logged their own errors."""
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            threading.Thread.join(thread, timeout=10)  # Orbax's own join raises the thread's error


def read(directory: epath.Path, like: Any) -> Any:
    """Reads a state.

    No process waits for another one here, so that one may fail alone.

    Args:
      directory: what `Writer.start` was given.
      like: pytree of the state's shapes, types and shardings.

    Raises:
      Exception: of any type, where the files are damaged or cannot be read.
    """
    how = ocp.args.PyTreeRestore(like, ocp.checkpoint_utils.construct_restore_args(like))
    silence()
    try:
        return _handler().restore(directory, args=how)
    finally:
        end_silence()


def silence() -> None:
    """Drops Orbax's own errors in the log, tracebacks of what it raises, until `end_silence`."""
    _LOG.addFilter(_no_orbax_error)


def end_silence() -> None:
    """Lets Orbax log errors again."""
    _LOG.removeFilter(_no_orbax_error)


def _no_orbax_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


def _handler() -> ocp.PyTreeCheckpointHandler:
    return ocp.PyTreeCheckpointHandler(type_handler_registry=_array_types())


def _array_types() -> ocp.type_handlers.TypeHandlerRegistry:
    """Returns Orbax's handlers of arrays, made to finish all reads and writes before one's error is raised.

    Orbax itself gives up at the first error and closes the event loop of the others. Each of them
    then prints an error: an exception that nobody retrieved, or the closed loop.
    """
    handler = copy.copy(ocp.type_handlers.get_type_handler(jax.Array))
    handler.deserialize = _patient(handler.deserialize)
    # Writes run in a loop of their own, where the metadata of the arrays is written along with them.
    if (store := copy.copy(getattr(handler, "_array_metadata_store", None))) is not None:
        store.write = _patient(store.write)
        handler._array_metadata_store = store
    numpy_handler = ocp.type_handlers.NumpyHandler()
    return ocp.type_handlers.create_type_handler_registry((np.ndarray, numpy_handler), (jax.Array, handler))


def _patient(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Returns an async function whose event loop finishes its tasks before it closes."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        _finish_before_close(asyncio.get_running_loop())
        return await function(*args, **kwargs)

    return call


def _finish_before_close(loop: asyncio.AbstractEventLoop) -> None:
    """Makes one loop run its remaining tasks, and retrieve their exceptions, when it is closed."""
    close, wake = loop.close, loop.call_soon_threadsafe

    async def finish() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # for the callbacks of the last ones

    def finish_and_close() -> None:
        loop.run_until_complete(finish())
        close()

    def wake_while_open(*args: Any, **kwargs: Any) -> asyncio.Handle | None:
        # Where `asyncio.run` cancelled a task, tensorstore's thread may report its end after the loop's.
        try:
            return wake(*args, **kwargs)
        except RuntimeError:
            if loop.is_closed():
                return None
            raise

    loop.close = finish_and_close  # type: ignore[method-assign]
    loop.call_soon_threadsafe = wake_while_open  # type: ignore[method-assign,assignment]


def barrier(name: str) -> None:
    """Waits until every process has arrived.

    Uses JAX's coordination service: a collective would give the slowest process only 30 seconds
    when it is the first one.
    """
    ocp.multihost.get_barrier_sync_fn()(key=f"softbio_{name}", timeout_ms=_BARRIER_TIMEOUT)


def any_process(name: str, flag: bool) -> bool:
    """Returns whether the flag is set on any process; every process must call it.

    Args:
      name: of the barrier before the exchange.
      flag: this process' own.
    """
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    barrier(name)
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
