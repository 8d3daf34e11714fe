"""Files and folders that are complete or absent, on a disk or in an object store such as gs://.

An object store can neither append nor rename, but its objects appear complete. A file that grows
is therefore kept in memory and rewritten there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence

from etils import epath

from softbio_jax.errors import UserError

_ADDRESS = re.compile(r"(gs|s3|hdfs|https?):(?!//)/?")  # pathlib makes one of gs://, too
EVERY = 60.0  # seconds between two uploads of an object that grows


def is_local(path: epath.PathLike) -> bool:
    """Returns whether a path is on a disk."""
    return "://" not in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns a path that does not depend on the current folder; epath's own breaks gs://.

    Raises:
      UserError: an address with a slash too few, of which a local folder would be made.
    """
    _check_slashes(path)
    return epath.Path(os.path.abspath(home(path)) if is_local(path) else path)


def directory(path: epath.PathLike) -> epath.Path:
    """Returns a directory, which may not exist yet.

    Raises:
      UserError: it is in a store that cannot be reached, or as of `absolute`.
    """
    _check_slashes(path)
    folder = epath.Path(home(path))
    if not is_local(folder):
        try:
            folder.exists()
        except (ImportError, OSError) as error:
            missing = isinstance(error, ImportError)
            raise UserError(
                "directory cannot be reached",
                where=os.fspath(path),
                found=str(error),
                fix="pip install gcsfs" if missing else "check the name, network and credentials",
            ) from error
    return folder


def made(path: epath.PathLike, *, what: str, fix: str) -> epath.Path:
    """Returns a directory that exists, with those above it; raises UserError where it cannot be made."""
    folder = directory(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{what} cannot be made",
            where=os.fspath(path),
            expected="a folder that can be written",
            found=error.strerror or str(error),
            fix=fix,
        ) from error
    return absolute(folder)


def local(path: epath.PathLike, *, what: str, fix: str = "write it to a disk, then copy it") -> pathlib.Path:
    """Returns a path on a disk; raises UserError for one in an object store, or as of `absolute`."""
    if not is_local(absolute(path)):
        raise UserError(f"{what} has to be on a disk", where=os.fspath(path), fix=fix)
    return pathlib.Path(home(path))


def home(path: str | os.PathLike[str]) -> str:
    """Returns a path whose `~` at the start is the home folder."""
    return os.path.expanduser(os.fspath(path))


def _check_slashes(path: epath.PathLike) -> None:
    if found := _ADDRESS.match(os.fspath(path)):
        raise UserError(
            "an address needs two slashes",
            where=os.fspath(path),
            expected=f"{found[1]}://BUCKET/FOLDER",
            found=found[0],
            fix=f"write {found[1]}://{os.fspath(path)[found.end() :]}",
        )


def read_bytes(path: str | os.PathLike[str], *, most: int = 1 << 30) -> bytes:
    """Returns what is in a file on a disk, but reads neither pipes nor devices, which may never end.

    Raises:
      OSError: it cannot be read, is something else than a file, has more than `most` bytes, or cannot
        be a name.
    """
    name = home(path)
    try:
        with open(name, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "a pipe or a device, not a file", name)
            if os.fstat(file.fileno()).st_size > most:
                raise OSError(errno.EFBIG, f"more than {most >> 20:,} MiB", name)
            return file.read(most)
    except ValueError as error:  # a NUL, or half of a surrogate pair
        raise OSError(errno.EINVAL, "no possible name of a file", name) from error


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a UTF-8 text file that appears only once complete, and creates missing folders."""
    target = epath.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_local(path):
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    else:
        target.write_text(text)


def upload(folder: pathlib.Path, target: epath.Path, *, last: str = "") -> None:
    """Replaces a folder of an object store by a copy of a local one.

    Args:
      folder: the local folder.
      target: its destination.
      last: the file that marks a complete folder: deleted first, written last.
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
    """Yields a local folder whose subfolder `name` ends up in a directory, local or remote.

    For code that can only write to a disk; `last` is that of `upload`.
    """
    if is_local(directory):
        yield pathlib.Path(directory)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield pathlib.Path(scratch)
        upload(pathlib.Path(scratch) / name, epath.Path(directory) / name, last=last)


class LineFile:
    """A text file that grows by lines.

    On a disk every line is written at once; an object is rewritten every minute and by `flush`.

    Args:
      path: the file.
      lines: replaces its content; None appends to it.
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
        """Appends a line."""
        if self._local:
            self._file.write(f"{line}\n")
            self._file.flush()
            return
        self._text.append(f"{line}\n")
        self._fresh = True
        if time.monotonic() - self._written >= EVERY:
            self.flush()

    def flush(self) -> None:
        """Uploads the lines that are not in the object store yet."""
        if not self._local and self._fresh:
            write_text(self._path, "".join(self._text))
            self._written, self._fresh = time.monotonic(), False

    def close(self) -> None:
        """Flushes and closes the file."""
        self.flush()
        if self._local:
            self._file.close()


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`; its file replaces `path` when the block succeeds.

    If the block raises, `path` is unchanged and the temporary file is removed.

    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with atomic_file(folder / "table.csv") as temporary:
    ...     _ = temporary.write_text("id,age\\n")
    >>> os.listdir(folder)
    ['table.csv']

    Args:
      path: a file on a disk, in a folder that exists.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(directory: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Yields a temporary folder beside `directory` that is renamed to it when the block succeeds.

    Raises:
      UserError: the directory exists and is not to be overwritten.
    """
    directory = pathlib.Path(directory)
    if not overwrite:
        check_new(directory)
    temporary = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        replace_folder(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new(path: str | os.PathLike[str], *, where: str = "") -> None:
    """Raises UserError where something has this name, which the user gave as `where`, or as the path."""
    if pathlib.Path(path).exists():
        raise UserError(
            "the destination exists",
            where=where or os.fspath(path),
            expected="a new name",
            found="something there",
            fix="remove it or name another",
        )


def check_own(path: str | os.PathLike[str], begins: str, *, where: str) -> None:
    """Raises UserError where a file that would be replaced is not one of the kind that has this beginning.

    An empty file may be replaced. `where` is the flag that names the path, which has to be on a disk.
    """
    path = local(path, what=where)
    if not path.exists():
        return
    wanted, found = begins.encode(), "a folder"
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(len(wanted))
        if start in (b"", wanted):
            return
        found = "another file"
    raise UserError(
        "the destination exists",
        where=f"{where}={path}",
        expected=f"a new name, or a file that {where} wrote",
        found=found,
        fix="name another, or remove it",
    )


def replace_folder(new: pathlib.Path, final: pathlib.Path) -> None:
    """Renames `new` to `final` and removes the folder that was there."""
    old = final.with_name(f".{final.name}.old")  # a folder cannot be renamed over a full one
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)
