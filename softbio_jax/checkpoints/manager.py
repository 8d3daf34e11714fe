"""Saving and restoring a run's state: the only user of Orbax.

checkpoints/<step>/ holds `state`, written by Orbax, and `manifest.json`, written last: a
checkpoint without it was never finished. Nothing is restored that is not, bit for bit, what was
saved.
"""

import dataclasses
import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from softbio_jax import files
from softbio_jax.checkpoints import leaves, quiet
from softbio_jax.checkpoints.leaves import Described
from softbio_jax.errors import UserError

NAME = "manifest.json"
# Larger files hold array values, whose digests are taken anyway: hashing them twice costs time.
HASHED_FILES = 1 << 20  # bytes
_FIELDS = {"step", "host", "base", "leaves", "files"}


class Damaged(Exception):
    """A checkpoint that is not as it was written; the message tells what."""

    unfinished = False  # its manifest was never written


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a whole checkpoint says of itself."""

    step: int
    host: dict[str, Any]  # JSON values: sample stream, course of the validation loss
    base: str  # digest of the frozen tree that the state was trained on
    leaves: dict[str, dict[str, Any]]  # path -> shape, dtype, digest of the array that was saved
    files: dict[str, str]  # file under the checkpoint's folder -> sha256 or size


def describe_files(directory: epath.Path) -> dict[str, str]:
    """Returns the `files` of a manifest: the digest of each, of large ones the size."""
    return leaves.of_files(directory, largest=HASHED_FILES)


def write(directory: epath.Path, manifest: Manifest) -> None:
    """Writes the manifest, under its name only once it is whole."""
    values = dataclasses.asdict(manifest)
    text = json.dumps(values | {"sha256": _own_digest(values)}, indent=1)
    files.write_text(directory / NAME, text)


def read(directory: epath.Path) -> Manifest:
    """Reads a manifest back.

    Raises:
      Damaged: there is none (the save was not finished), or it is not as it was written.
    """
    try:
        values = json.loads((directory / NAME).read_bytes())
        own = values.pop("sha256")
    except FileNotFoundError:
        unfinished = Damaged(f"no {NAME}, its save was not finished")
        unfinished.unfinished = True
        raise unfinished from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise Damaged(f"{NAME} cannot be read") from None
    if set(values) != _FIELDS or own != _own_digest(values):
        raise Damaged(f"{NAME} is not as it was written")
    return Manifest(**values)


def check_files(directory: epath.Path, manifest: Manifest) -> None:
    """Raises Damaged unless every file of the checkpoint is as it was written."""
    found = describe_files(directory)
    found.pop(NAME, None)
    for name in sorted(manifest.files.keys() | found.keys()):
        if name not in found:
            raise Damaged(f"{name} is missing")
        if name not in manifest.files:
            raise Damaged(f"{name} does not belong to it")
        if manifest.files[name] != found[name]:
            raise Damaged(f"{name} is not as it was written")


def check_leaves(state: Any, manifest: Manifest) -> None:
    """Raises Damaged unless the restored arrays are those that were saved."""
    for name, leaf in leaves.named(state).items():
        saved = manifest.leaves[name]
        if "sha256" in saved:  # checkpoints written with SHA-256 digests
            same = leaves.of_array(leaves.to_host(leaf)) == saved["sha256"]
        else:
            same = leaves.again(leaf, saved["digest"]) == saved["digest"]
        if not same:
            raise Damaged(f"{name} is not as it was saved")


def _own_digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """What a checkpoint held."""

    step: int
    state: Any  # the pytree given to save
    host: dict[str, Any]  # the JSON values given to save


_DISK_TROUBLES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
_PATIENCE = 30 * 60_000  # milliseconds: a process may compile long, one that is gone never comes


def barrier(name: str) -> None:
    """Waits until every process is here, by JAX's coordination service and not by a collective.

    So also before the first collective, whose start gives the slowest process only 30 seconds.
    """
    ocp.multihost.get_barrier_sync_fn()(key=f"softbio_{name}", timeout_ms=_PATIENCE)


class CheckpointManager:
    """Keeps the newest `keep` checkpoints of a run and the best one.

    Args:
      workdir: the run's directory, local or gs://.
      keep: how many of the newest are kept.
      base: digest of the frozen tree, which checkpoints do not hold but must be used with.
      say: takes one line about a checkpoint that had to be passed over.
    """

    def __init__(self, workdir: epath.PathLike, *, keep: int, base: str, say: Callable[[str], None] = print):
        self._directory = files.absolute(workdir) / "checkpoints"
        self._keep, self._base, self._say = keep, base, say
        self._writer: ocp.AsyncCheckpointer | None = None
        self._finishing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._damaged: set[int] = set()
        self.seconds = {"save": 0.0, "digest": 0.0}  # spent so far, the saving thread's included
        self.last_seconds: float | None = None  # what the newest finished save took

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, unfinished ones too, newest first."""
        if not self._directory.is_dir():
            return []
        found = [path.name for path in self._directory.iterdir()]
        return sorted((int(name) for name in found if name.isdecimal()), reverse=True)

    def save(self, step: int, state: Any, host: dict[str, Any], *, best_step: int | None = None) -> None:
        """Starts saving; the arrays are copied before this returns, so state may be donated.

        Args:
          step: the step that the state is of.
          state: pytree of arrays.
          host: JSON values that belong to it.
          best_step: an older checkpoint that is kept whatever its age.
        """
        self.wait()
        started, target = time.perf_counter(), self._directory / str(step)
        if jax.process_index() == 0:
            # What an interrupted save left, or a damaged one that was passed over.
            target.rmtree(missing_ok=True)
            target.mkdir(parents=True)
        begun = time.perf_counter()
        described = leaves.describe(state)
        self.seconds["digest"] += time.perf_counter() - begun
        if self._writer is None:
            quiet.hush_failed_saves()
            self._writer = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        self._writer.save(target / "state", args=ocp.args.StandardSave(state))
        self._finishing = threading.Thread(
            target=self._finish, args=(step, described, host, best_step, started), daemon=True
        )
        self._finishing.start()

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
          UserError: it could not be written; earlier checkpoints are as they were.
        """
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise UserError(
                "checkpoint cannot be written",
                where=str(self._directory),
                found=_reason(failure),
                fix="check space and permissions; earlier checkpoints are whole",
            ) from failure

    def restore_newest(self, like: Any) -> Restored | None:
        """Returns the newest checkpoint that is whole, None where none was ever finished.

        Others are named and passed over; the next save of their step replaces them.

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
                self._say(f"checkpoint {step} passed over: {damage}")
                if not damage.unfinished:
                    self._damaged.add(step)
        if self._damaged:
            raise UserError(
                "no checkpoint is whole",
                where=str(self._directory),
                expected="one that is as it was written",
                found=f"{len(self._damaged)} damaged",
                fix="restore the folder from a copy, or start again in another --workdir",
            )
        return None

    def restore(self, step: int, like: Any) -> Restored:
        """Returns the checkpoint of one step.

        Raises:
          UserError: it is not there, damaged, or belongs to another model or base.
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
        """Waits for a save under way, on every process."""
        self.wait()
        barrier("close")
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _restore(self, step: int, like: Any) -> Restored:
        directory = self._directory / str(step)
        saved = read(directory)
        self._check_fit(saved, like, where=str(directory))
        check_files(directory, saved)
        try:
            reader = ocp.Checkpointer(ocp.StandardCheckpointHandler())
            state = reader.restore(directory / "state", args=ocp.args.StandardRestore(like))
        except (ValueError, KeyError, OSError) as error:
            raise Damaged(str(error).strip().splitlines()[0][:200]) from error
        check_leaves(state, saved)
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
        """Waits for Orbax, then commits by the manifest and drops what is no longer kept."""
        try:
            assert self._writer is not None
            self._writer.wait_until_finished()
            if jax.process_index() == 0:
                directory, begun = self._directory / str(step), time.perf_counter()
                digests = describe_files(directory)
                self.seconds["digest"] += time.perf_counter() - begun
                write(
                    directory,
                    Manifest(
                        step=step,
                        host=host,
                        base=self._base,
                        files=digests,
                        leaves={path: leaf.to_json() for path, leaf in described.items()},
                    ),
                )
                self._drop_old(step, best_step)
            self.last_seconds = time.perf_counter() - started
            self.seconds["save"] += self.last_seconds
        except BaseException as error:  # told by the next wait
            self._failure = error

    def _drop_old(self, step: int, best_step: int | None) -> None:
        """Deletes what is neither among the newest whole checkpoints up to step nor the best."""
        older = [s for s in self.steps() if s <= step and s not in self._damaged]
        whole = [s for s in older if (self._directory / str(s) / NAME).exists()]
        for old in {s for s in self.steps() if s < step} - {*whole[: self._keep], best_step}:
            directory = self._directory / str(old)
            # First the marker: what a kill leaves of it is then no checkpoint.
            (directory / NAME).unlink(missing_ok=True)
            directory.rmtree()


def _reason(failure: BaseException) -> str:
    """Returns the system's words for a disk's troubles; Orbax has long paths before them."""
    text = str(failure).strip()
    said = (os.strerror(code) for code in _DISK_TROUBLES)
    return next((words for words in said if words in text), text.partition("\n")[0][:300])
