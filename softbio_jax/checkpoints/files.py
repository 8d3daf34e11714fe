"""Files of a run directory, on a disk or in an object store such as gs://.

An object store can neither append nor rename, but an object appears whole or not at all. So
what a disk appends to is kept in memory and written anew there.
"""

import contextlib
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence

from etils import epath

from softbio_jax import writing
from softbio_jax.errors import UserError

EVERY = 60.0  # seconds between two writings of an object that grows


def is_local(path: epath.PathLike) -> bool:
    """Returns whether a path is on a disk."""
    return "://" not in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns a path that does not depend on the current folder; epath's own breaks gs://."""
    return epath.Path(os.path.abspath(path) if is_local(path) else path)


def directory(path: epath.PathLike) -> epath.Path:
    """Returns a run's directory, which may not exist yet.

    Raises:
      UserError: it is in a store that cannot be reached.
    """
    folder = epath.Path(path)
    if not is_local(folder):
        try:
            folder.exists()
        except (ImportError, OSError) as error:
            missing = isinstance(error, ImportError)
            raise UserError(
                "directory cannot be reached", where=os.fspath(path), found=str(error),
                fix="pip install gcsfs" if missing else "check the name, network and credentials",
            ) from error  # fmt: skip
    return folder


def local(path: epath.PathLike, *, what: str, fix: str) -> pathlib.Path:
    """Returns a path that has to be on a disk.

    Raises:
      UserError: it is not.
    """
    if not is_local(path):
        raise UserError(f"{what} has to be on a disk", where=os.fspath(path), fix=fix)
    return pathlib.Path(path)


def write_text(path: epath.Path, text: str) -> None:
    """Writes a file that appears only once it is whole."""
    if is_local(path):
        writing.write_text(path, text)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def upload(folder: pathlib.Path, target: epath.Path, *, last: str = "") -> None:
    """Copies a folder to an object store in place of what is there.

    Args:
      folder: on a disk.
      target: where to.
      last: the file by which the whole is known: first to go, last to come.
    """
    if last:
        (target / last).unlink(missing_ok=True)
    target.rmtree(missing_ok=True)
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in sorted(found, key=lambda path: path == folder / last):
        goal = target / path.relative_to(folder).as_posix()
        goal.parent.mkdir(parents=True, exist_ok=True)
        goal.write_bytes(path.read_bytes())


@contextlib.contextmanager
def staged(directory: epath.PathLike, *, name: str, last: str) -> Iterator[pathlib.Path]:
    """Yields a folder on a disk whose subfolder `name` ends up in a directory, local or not.

    For what writes with the disk's own means; `last` is that of `upload`.
    """
    if is_local(directory):
        yield pathlib.Path(directory)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield pathlib.Path(scratch)
        upload(pathlib.Path(scratch) / name, epath.Path(directory) / name, last=last)


class LineFile:
    """A text file that grows by lines.

    On a disk every line is there at once; an object is written anew every minute and by `flush`.

    Args:
      path: the file.
      lines: what it holds at first, in place of what it held; None: that.
    """

    def __init__(self, path: epath.PathLike, lines: Sequence[str] | None = None):
        self._path, self._local = epath.Path(path), is_local(path)
        if lines is not None:
            write_text(self._path, "".join(f"{line}\n" for line in lines))
        if self._local:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a")
        else:
            self._text = [self._path.read_text()] if self._path.exists() else []
            self._written, self._fresh = time.monotonic(), False

    def write(self, line: str) -> None:
        """Adds a line."""
        if self._local:
            self._file.write(f"{line}\n")
            self._file.flush()
            return
        self._text.append(f"{line}\n")
        self._fresh = True
        if time.monotonic() - self._written >= EVERY:
            self.flush()

    def flush(self) -> None:
        """Makes sure that every line so far outlives the process."""
        if not self._local and self._fresh:
            write_text(self._path, "".join(self._text))
            self._written, self._fresh = time.monotonic(), False

    def close(self) -> None:
        """Flushes and closes."""
        self.flush()
        if self._local:
            self._file.close()
