"""Saving and restoring a run's state.

checkpoints/<step>/ holds `state`, written by Orbax, and `manifest.json`, written last: a checkpoint
without it is unfinished. A restored state equals the saved one bit for bit, or is refused. The
manifest binds a checkpoint to its step, its run and the frozen weights.
"""

import dataclasses
import errno
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath

from softbio_jax import files
from softbio_jax.checkpoints import arrays, leaves, manifest
from softbio_jax.checkpoints.arrays import any_process, barrier
from softbio_jax.checkpoints.leaves import Described
from softbio_jax.checkpoints.manifest import Damaged, Manifest
from softbio_jax.console import QUIET, Console
from softbio_jax.errors import UserError
from softbio_jax.safety import damage

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
_T = TypeVar("_T")
_SHOWN = 4  # differing fields in a message


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """The content of a checkpoint: `state` and `host` as they were given to `save`.

    `digest` is that of its manifest, which has a digest of every leaf, and `base` that of the frozen weights.
    """

    step: int
    state: Any
    host: dict[str, Any]
    digest: str
    base: str


class CheckpointManager:
    """Keeps the newest `keep` checkpoints of a run and the best one.

    Args:
      workdir: the run's directory, local or gs://.
      keep: number of the newest checkpoints to keep.
      base: digest of the frozen weights, which checkpoints do not contain but depend on; None: not compared.
      run: JSON values by name that every checkpoint of this run has; see `directory.identity`.
      older: (state to restore, paths of a checkpoint's leaves) -> the state that the checkpoint holds,
        where an earlier version saved less.
      console: reports skipped checkpoints.
      say: reports them instead, as in 0.1.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        keep: int,
        base: str | None,
        run: Mapping[str, Any] | None = None,
        older: Callable[[Any, Collection[str]], Any] = lambda like, paths: like,
        console: Console = QUIET,
        say: Callable[[str], object] | None = None,
    ):
        self._directory = files.absolute(workdir) / "checkpoints"
        self._keep, self._base, self._run = keep, base, dict(run or {})
        self._say = say or console.say
        self._older = older
        self._writer: arrays.Writer | None = None
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

    def finished(self) -> list[int]:
        """Returns the steps of the checkpoints whose save was finished, newest first."""
        return [step for step in self.steps() if (self._directory / str(step) / manifest.NAME).exists()]

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
            self._writer = arrays.Writer()
        arrays.silence()
        try:
            self._writer.start(target / "state", state)
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
        arrays.end_silence()
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
        found = []
        for step in self.steps():
            try:
                return self._restore(step, like)
            except Damaged as damaged:
                self._say(f"checkpoint {step} skipped: {damaged}")
                if not damaged.unfinished:
                    self._damaged.add(step)
                    found.append(f"{step}: {damaged}")
        if found:
            raise UserError(
                "no checkpoint is complete",
                where=str(self._directory),
                expected="an undamaged one",
                found=f"{len(found)} damaged ({found[0]})",
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

    def close(self, *, together: bool = True) -> None:
        """Waits for a save in progress, on every process.

        Args:
          together: whether all processes call this.
        """
        self.wait()
        if together:
            barrier("close")
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _restore(self, step: int, like: Any) -> Restored:
        """Reads one checkpoint, with the same outcome on every process.

        Raises:
          Damaged: it is not as it was written, on any process.
          UserError: it belongs to another model, base or run, or the disk refuses.
        """
        directory = self._directory / str(step)

        def open_state() -> tuple[Manifest, Any]:
            saved = manifest.read(directory, step)
            expected = self._older(like, saved.leaves)
            self._check_fit(saved, expected, where=str(directory))
            self._check_run(saved, where=str(directory))
            manifest.check_files(directory, saved)
            return saved, arrays.read(directory / "state", expected)

        saved, state = self._together(f"read_{step}", directory, open_state)
        self._together(f"checked_{step}", directory, lambda: manifest.check_leaves(state, saved))
        return Restored(
            step=step, state=state, host=saved.host, digest=manifest.digest(saved), base=saved.base
        )

    def _together(self, name: str, directory: epath.Path, read: Callable[[], _T]) -> _T:
        """Returns the result of `read`; raises Damaged on every process if it fails on one.

        Whatever reading raises counts as damage, unless the disk or the memory refuses.
        """
        damaged, result = None, None
        try:
            result = read()
        except Damaged as error:
            damaged = error
        except Exception as error:
            if isinstance(error, UserError):
                raise
            if words := damage.refusal(error):
                what, fix = ("checkpoint cannot be read", "check permissions, disk and memory")
                raise UserError(what, where=str(directory), found=words, fix=fix) from error
            damaged = Damaged(damage.reason(error))
            damaged.__cause__ = error
        if any_process(name, damaged is not None):
            raise damaged or Damaged("damaged as another process reads it")
        return result  # type: ignore[return-value]

    def _check_run(self, saved: Manifest, *, where: str) -> None:
        """Raises UserError if the checkpoint was saved by another run, naming the fields.

        Older checkpoints have fewer fields, or none; those that both have are compared.
        """
        common = sorted(saved.run.keys() & self._run.keys())
        differing = [name for name in common if saved.run[name] != self._run[name]]
        if differing:
            shown = [f"{name} was {saved.run[name]}, is {self._run[name]}" for name in differing[:_SHOWN]]
            more = [f"{len(differing) - _SHOWN} more"] if len(differing) > _SHOWN else []
            raise UserError(
                "checkpoint of another run",
                where=where,
                expected="one of this configuration",
                found=", ".join(shown + more),
                fix="delete this checkpoint, or use the config it was trained with",
            )

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
        if self._base not in (None, saved.base):
            raise UserError(
                "the frozen weights are not those the checkpoint was trained on",
                where=where,
                expected=f"digest {saved.base[:12]}",
                found=str(self._base)[:12],
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
            self._writer.wait()
            if jax.process_index() == 0:
                directory, begun = self._directory / str(step), time.perf_counter()
                digests = manifest.describe_files(directory)
                self.seconds["digest"] += time.perf_counter() - begun
                shapes = {path: leaf.to_json() for path, leaf in described.items()}
                assert self._base is not None
                complete = Manifest(
                    step=step, host=host, base=self._base, files=digests, leaves=shapes, run=self._run
                )
                manifest.write(directory, complete)
                self._drop_old(step, best_step)
            self.last_seconds = time.perf_counter() - started
            self.seconds["save"] += self.last_seconds
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Keeps an error for the next `wait`, once Orbax's other threads have logged theirs."""
        self._failure, self._writer = error, None  # the writer would raise it again at later saves
        arrays.join_threads()

    def _drop_old(self, step: int, best_step: int | None) -> None:
        """Deletes checkpoints before step except the newest complete ones and the best."""
        complete = [s for s in self.finished() if s <= step and s not in self._damaged]
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
