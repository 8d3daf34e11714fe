"""Saving and restoring a run's state: the only user of Orbax.

checkpoints/<step>/ holds `state`, written by Orbax, and `manifest.json`, written last: a checkpoint
without it is unfinished. A restored state equals the saved one bit for bit, or is refused.
"""

import asyncio
import copy
import dataclasses
import errno
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from softbio_jax import files
from softbio_jax.checkpoints import leaves, manifest
from softbio_jax.checkpoints.leaves import Described
from softbio_jax.checkpoints.manifest import Damaged, Manifest
from softbio_jax.console import QUIET, Console
from softbio_jax.errors import UserError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
_ORBAX_LOG = logging.getLogger("absl")
_BARRIER_TIMEOUT = 30 * 60_000  # milliseconds: longer than any compilation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """The content of a checkpoint: `state` and `host` as they were given to `save`."""

    step: int
    state: Any
    host: dict[str, Any]


def barrier(name: str) -> None:
    """Waits until every process has arrived.

    Uses JAX's coordination service: a collective would give the slowest process only 30 seconds
    when it is the first one.
    """
    ocp.multihost.get_barrier_sync_fn()(key=f"softbio_{name}", timeout_ms=_BARRIER_TIMEOUT)


class CheckpointManager:
    """Keeps the newest `keep` checkpoints of a run and the best one.

    Args:
      workdir: the run's directory, local or gs://.
      keep: number of the newest checkpoints to keep.
      base: digest of the frozen weights, which checkpoints do not contain but depend on.
      console: reports skipped checkpoints.
    """

    def __init__(self, workdir: epath.PathLike, *, keep: int, base: str, console: Console = QUIET):
        self._directory = files.absolute(workdir) / "checkpoints"
        self._keep, self._base, self._console = keep, base, console
        self._writer: ocp.AsyncCheckpointer | None = None
        self._finishing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._damaged: set[int] = set()
        self.seconds = {"save": 0.0, "digest": 0.0}  # spent so far, including the saving thread's
        self.last_seconds: float | None = None  # duration of the newest finished save

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, including unfinished ones, newest first."""
        if not self._directory.is_dir():
            return []
        found = [path.name for path in self._directory.iterdir()]
        return sorted((int(name) for name in found if name.isdecimal()), reverse=True)

    def save(self, step: int, state: Any, host: dict[str, Any], *, best_step: int | None = None) -> None:
        """Starts saving; the arrays are copied before this returns, so state may be donated.

        Args:
          step: the step of the state.
          state: pytree of arrays.
          host: JSON values that belong to it.
          best_step: an older checkpoint to keep regardless of its age.
        """
        self.wait()
        started, target = time.perf_counter(), self._directory / str(step)
        if jax.process_index() == 0:
            # Left by an interrupted save, or damaged and skipped.
            target.rmtree(missing_ok=True)
            target.mkdir(parents=True)
        begun = time.perf_counter()
        described = leaves.describe(state)
        self.seconds["digest"] += time.perf_counter() - begun
        if self._writer is None:
            handler = ocp.PyTreeCheckpointHandler(type_handler_registry=_array_types())
            self._writer = ocp.AsyncCheckpointer(handler)
        _ORBAX_LOG.addFilter(_no_orbax_error)
        try:
            self._writer.save(target / "state", args=ocp.args.PyTreeSave(state))
        except Exception as error:
            self._fail(error)
            self.wait()
        self._finishing = threading.Thread(
            target=self._finish, args=(step, described, host, best_step, started), daemon=True
        )
        self._finishing.start()

    def wait(self) -> None:
        """Waits for the save in progress.

        Raises:
          UserError: it could not be written; earlier checkpoints are unchanged.
        """
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
        _ORBAX_LOG.removeFilter(_no_orbax_error)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise UserError(
                "checkpoint cannot be written",
                where=str(self._directory),
                found=_reason(failure),
                fix="check space and permissions; earlier checkpoints are complete",
            ) from failure

    def restore_newest(self, like: Any) -> Restored | None:
        """Returns the newest undamaged checkpoint, or None if no save was ever finished.

        Damaged ones are reported and skipped; the next save of their step replaces them.

        Args:
          like: pytree of the state's shapes, types and shardings.

        Raises:
          UserError: every checkpoint is damaged, or they belong to another model or base.
        """
        barrier("restore")
        for step in self.steps():
            try:
                return self._restore(step, like)
            except Damaged as damage:
                self._console.say(f"checkpoint {step} skipped: {damage}")
                if not damage.unfinished:
                    self._damaged.add(step)
        if self._damaged:
            raise UserError(
                "no checkpoint is complete",
                where=str(self._directory),
                expected="an undamaged one",
                found=f"{len(self._damaged)} damaged",
                fix="restore the folder from a copy, or start again in another --workdir",
            )
        return None

    def restore(self, step: int, like: Any) -> Restored:
        """Returns the checkpoint of one step.

        Raises:
          UserError: it is missing, damaged, or belongs to another model or base.
        """
        try:
            return self._restore(step, like)
        except Damaged as damage:
            raise UserError(
                "checkpoint is damaged",
                where=str(self._directory / str(step)),
                found=str(damage),
                fix="use another checkpoint",
            ) from damage

    def close(self) -> None:
        """Waits for a save in progress, on every process."""
        self.wait()
        barrier("close")
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _restore(self, step: int, like: Any) -> Restored:
        directory = self._directory / str(step)
        saved = manifest.read(directory)
        self._check_fit(saved, like, where=str(directory))
        manifest.check_files(directory, saved)
        try:
            reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=_array_types()))
            how = ocp.args.PyTreeRestore(like, ocp.checkpoint_utils.construct_restore_args(like))
            state = reader.restore(directory / "state", args=how)
        except (ValueError, KeyError, OSError) as error:
            raise Damaged(str(error).strip().splitlines()[0][:200]) from error
        manifest.check_leaves(state, saved)
        return Restored(step=step, state=state, host=saved.host)

    def _check_fit(self, saved: Manifest, like: Any, *, where: str) -> None:
        """Raises UserError unless the checkpoint is of this model, method and base."""
        expected = {path: list(np.shape(leaf)) for path, leaf in leaves.named(like).items()}
        found = {path: leaf["shape"] for path, leaf in saved.leaves.items()}
        for path in sorted(expected.keys() | found.keys()):
            if expected.get(path) != found.get(path):
                raise UserError(
                    "checkpoint does not fit this run",
                    where=f"{where}: {path}",
                    expected=f"shape {expected.get(path, 'none: no such parameter')}",
                    found=str(found.get(path, "no such parameter")),
                    fix="use the config it was trained with, or another workdir",
                )
        if saved.base != self._base:
            raise UserError(
                "the frozen weights are not those the checkpoint was trained on",
                where=where,
                expected=f"digest {saved.base[:12]}",
                found=self._base[:12],
                fix="set model.pretrained to the file that it was trained from",
            )

    def _finish(
        self,
        step: int,
        described: dict[str, Described],
        host: dict[str, Any],
        best_step: int | None,
        started: float,
    ) -> None:
        """Waits for Orbax, then commits by writing the manifest and deletes old checkpoints."""
        try:
            assert self._writer is not None
            self._writer.wait_until_finished()
            if jax.process_index() == 0:
                directory, begun = self._directory / str(step), time.perf_counter()
                digests = manifest.describe_files(directory)
                self.seconds["digest"] += time.perf_counter() - begun
                arrays = {path: leaf.to_json() for path, leaf in described.items()}
                complete = Manifest(step=step, host=host, base=self._base, files=digests, leaves=arrays)
                manifest.write(directory, complete)
                self._drop_old(step, best_step)
            self.last_seconds = time.perf_counter() - started
            self.seconds["save"] += self.last_seconds
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Keeps an error for the next `wait`, once Orbax's other threads have logged theirs."""
        self._failure, self._writer = error, None  # the writer would raise it again at later saves
        for thread in threading.enumerate():
            if type(thread).__module__.startswith("orbax."):
                threading.Thread.join(thread, timeout=10)  # Orbax's own join raises the thread's error

    def _drop_old(self, step: int, best_step: int | None) -> None:
        """Deletes checkpoints before step except the newest complete ones and the best."""
        older = [s for s in self.steps() if s <= step and s not in self._damaged]
        complete = [s for s in older if (self._directory / str(s) / manifest.NAME).exists()]
        for old in {s for s in self.steps() if s < step} - {*complete[: self._keep], best_step}:
            directory = self._directory / str(old)
            # The manifest first: if the process is killed here, the rest counts as unfinished.
            (directory / manifest.NAME).unlink(missing_ok=True)
            directory.rmtree()


def _reason(failure: BaseException) -> str:
    """Returns the system's words for a disk error; Orbax precedes them with long paths."""
    text = str(failure).strip()
    known = (os.strerror(code) for code in _DISK_ERRORS)
    return next((words for words in known if words in text), text.partition("\n")[0][:300])


def _no_orbax_error(record: logging.LogRecord) -> bool:
    """Drops Orbax's own errors, tracebacks of what `wait` raises as one line; on during a save only."""
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


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
    close = loop.close

    async def finish() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # for the callbacks of the last ones

    def finish_and_close() -> None:
        loop.run_until_complete(finish())
        close()

    loop.close = finish_and_close  # type: ignore[method-assign]
