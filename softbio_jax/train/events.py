"""TensorBoard events on disks and in object stores, through tensorboardX's own hook."""

import contextlib
import time
from typing import Protocol

import tensorboardX
from etils import epath
from tensorboardX import record_writer

from softbio_jax.checkpoints import files

_SCHEME = "softbio"


def summary_writer(folder: epath.Path, *, first: int) -> tensorboardX.SummaryWriter:
    """Returns a writer of scalars into a folder, which voids earlier ones from step `first` on.

    Events are a view of what metrics.jsonl holds: where they cannot be written, nothing is said
    and nothing stops. Whether the run goes on is for the files of record to tell.
    """
    # In place of tensorboardX's own, which need a client library of each store, and whose thread
    # and exit handlers tell of a full disk in tracebacks.
    record_writer.register_writer_factory(_SCHEME, _Factory())
    return tensorboardX.SummaryWriter(f"{_SCHEME}:{folder}", purge_step=first, write_to_disk=True)


class _Sink(Protocol):
    def write(self, record: bytes) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class _Factory:
    """What tensorboardX asks for a kind of path."""

    def open(self, path: str) -> _Sink:
        where = epath.Path(path.removeprefix(f"{_SCHEME}:"))
        return _File(where) if files.is_local(where) else _Object(where)

    def directory_check(self, path: str) -> None:
        where = epath.Path(path.removeprefix(f"{_SCHEME}:"))
        if files.is_local(where):  # object stores have no folders
            with contextlib.suppress(OSError):
                where.mkdir(parents=True, exist_ok=True)


class _File:
    """A local event file, written through."""

    def __init__(self, path: epath.Path):
        self._path = path

    def write(self, record: bytes) -> None:
        with contextlib.suppress(OSError), open(self._path, "ab") as file:
            file.write(record)

    def flush(self) -> None:
        """Every record is written at once."""

    def close(self) -> None:
        """No file stays open."""


class _Object:
    """An event file that is kept whole in memory and written anew every minute."""

    def __init__(self, path: epath.Path):
        self._path, self._content = path, bytearray()
        self._written = time.monotonic()

    def write(self, record: bytes) -> None:
        self._content += record

    def flush(self) -> None:
        if time.monotonic() - self._written >= files.EVERY:
            self._put()

    def close(self) -> None:
        self._put()

    def _put(self) -> None:
        with contextlib.suppress(OSError):
            self._path.write_bytes(bytes(self._content))
        self._written = time.monotonic()
