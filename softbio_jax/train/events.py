"""TensorBoard events in object stores, through tensorboardX's own hook for them."""

import time

import tensorboardX
from etils import epath
from tensorboardX import record_writer

from softbio_jax.checkpoints import files


def summary_writer(folder: epath.Path, *, first: int) -> tensorboardX.SummaryWriter:
    """Returns a writer of scalars into a folder, which voids earlier ones from step `first` on."""
    if not files.is_local(folder):
        scheme = str(folder).split(":")[0]
        # In place of tensorboardX's own, which need a client library of each store.
        record_writer.register_writer_factory(scheme, _Objects())
    return tensorboardX.SummaryWriter(str(folder), purge_step=first, write_to_disk=True)


class _Objects:
    """What tensorboardX asks for a kind of path."""

    def open(self, path: str) -> "_Object":
        return _Object(epath.Path(path))

    def directory_check(self, path: str) -> None:
        """Object stores have no folders."""


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
        self._path.write_bytes(bytes(self._content))
        self._written = time.monotonic()
