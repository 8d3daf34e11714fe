"""A lock on a folder: who works in it, and whether they still do.

The file `.lock` in the folder names the holder. On a disk the system's own file lock (flock) decides,
which ends with its process however that ends, and on NFS holds for all hosts. Where the disk has no
such locks, as in a bucket, the holder's word decides: a process of this host is looked for by its id
and start time, and one of another host by its heartbeat, a counter that it rewrites every 15 seconds.
A heartbeat that stands still for a minute is a dead holder's, whose lock is taken over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator

from etils import epath

from softbio_jax import files
from softbio_jax.console import QUIET, Console
from softbio_jax.errors import UserError

NAME = ".lock"
BEAT = 15.0  # seconds between two heartbeats
STALE = 60.0  # seconds without a heartbeat after which a holder is dead
SETTLE = 2.0  # seconds after which, of two that wrote a lock at the same time, the last one holds it
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a lock."""

    token: str  # of this hold
    host: str
    boot: str  # of the host, which distinguishes hosts of one name; empty where the system has none
    pid: int
    started: str  # of the process; empty where the system does not say
    since: str  # in UTC

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    def is_here(self) -> bool:
        """Returns whether it is a process of this host."""
        return (self.host, self.boot) == (socket.gethostname(), _boot())

    def is_running(self) -> bool:
        """Returns whether a process of this host still runs."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
        return _started(self.pid) == self.started


class _InUse(Exception):
    """Another process holds the lock."""

    def __init__(self, holder: Holder | None):
        super().__init__()
        self.holder = holder


class Lock:
    """A lock that is held."""

    def __init__(self, path: epath.Path, holder: Holder, descriptor: int | None):
        self._path, self._holder, self._descriptor = path, holder, descriptor
        self._done, self._beats = threading.Event(), 0
        self._write()

    def check(self) -> None:
        """Raises UserError if another process took the lock over, because this one seemed dead."""
        holder = _read(self._path)[0]
        if holder is not None and holder.token != self._holder.token:
            fix = "let that process go on, or stop it and start this one again"
            where = os.fspath(self._path.parent)
            raise UserError("folder was taken over", where=where, found=str(holder), fix=fix)

    def start(self) -> None:
        """Starts the heartbeat."""
        threading.Thread(target=self._beat, daemon=True, name="lock").start()

    def release(self) -> None:
        """Ends the heartbeat and removes the file, if it is still this holder's."""
        self._done.set()
        with contextlib.suppress(OSError):
            holder = _read(self._path)[0]
            if holder is not None and holder.token == self._holder.token:
                self._path.unlink(missing_ok=True)
        if self._descriptor is not None:
            os.close(self._descriptor)

    def is_held(self) -> bool:
        """Returns whether the file names this holder."""
        holder = _read(self._path)[0]
        return holder is not None and holder.token == self._holder.token

    def _beat(self) -> None:
        while not self._done.wait(BEAT):
            # A disk that fails now is the work's to report. A lock that was taken over stays so.
            with contextlib.suppress(Exception):
                if self.is_held():
                    self._beats += 1
                    self._write()

    def _write(self) -> None:
        text = json.dumps(dataclasses.asdict(self._holder) | {"beat": f"{self._beats:09d}"}) + "\n"
        if self._descriptor is None:
            self._path.write_text(text)
            return
        os.pwrite(self._descriptor, text.encode(), 0)
        os.ftruncate(self._descriptor, len(text.encode()))
        os.fsync(self._descriptor)  # other hosts see it at once


@contextlib.contextmanager
def hold(
    folder: epath.PathLike, *, what: str = "workdir is in use", console: Console = QUIET
) -> Iterator[Lock]:
    """Holds the lock of a folder, which is created if it is missing, and removed if it stays empty.

    Args:
      folder: local or gs://.
      what: the mistake, where another process holds it.
      console: reports that another host's holder is waited for.

    Raises:
      UserError: another process holds it; names the host, the process and since when.
      OSError: the folder cannot be written.
    """
    path = epath.Path(folder) / NAME
    local = files.is_local(folder)
    made = [p for p in (path.parent, *path.parent.parents) if local and not p.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _open(path) if local else None
    try:
        free = descriptor is not None and _flock(descriptor, path)
        _await_end(path, free=free, console=console)
        lock = Lock(path, _this_process(), descriptor)
        if not free:
            time.sleep(SETTLE)
            if not lock.is_held():
                raise _InUse(_read(path)[0])
    except BaseException as error:
        if descriptor is not None:
            os.close(descriptor)
        if not isinstance(error, _InUse):
            raise
        raise UserError(
            what,
            where=os.fspath(folder),
            found=str(error.holder or "another process"),
            fix="wait until it has ended, stop it, or choose another folder",
        ) from error
    lock.start()
    try:
        yield lock
    finally:
        lock.release()
        with contextlib.suppress(OSError):  # not empty
            for parent in made:
                os.rmdir(parent)


def _open(path: epath.Path) -> int:
    return os.open(os.fspath(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _flock(descriptor: int, path: epath.Path) -> bool:
    """Takes the system's lock; returns False where the disk has none.

    Raises:
      _InUse: another process has it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise _InUse(_holder_of(path)) from error
        raise
    # Its last holder removed the file between the two calls: somebody may hold a new one.
    with contextlib.suppress(FileNotFoundError):
        if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
            return True
    raise _InUse(_holder_of(path))


def _holder_of(path: epath.Path) -> Holder | None:
    """Returns the living holder, for a message; it may have the lock and not have written it yet."""
    for _ in range(10):
        holder = _read(path)[0]
        if holder is not None and (not holder.is_here() or holder.is_running()):
            return holder
        time.sleep(0.1)
    return None


def _await_end(path: epath.Path, *, free: bool, console: Console) -> None:
    """Returns once nobody holds the lock, as far as its content says.

    Args:
      path: the file.
      free: whether this process has the system's lock, so that no process of this host holds it.
      console: reports that another host's holder is waited for.

    Raises:
      _InUse: the holder lives.
    """
    holder, seen = _read(path)
    if holder is None and (free or not seen):
        return  # new, or left empty or damaged by a process that has ended
    if holder is not None and holder.is_here():
        if free or not holder.is_running():
            return
        raise _InUse(holder)
    owner = holder or "an unknown process"
    console.say(f"{path} is held by {owner}: waiting up to {STALE:.0f} s for a sign of life")
    began = time.monotonic()
    while time.monotonic() - began < STALE:
        time.sleep(min(1.0, STALE / 10))
        now, content = _read(path)
        if not content:
            return  # released
        if content != seen:
            raise _InUse(now)
    console.say(f"{path}: no sign of life, taken over")


def _read(path: epath.Path) -> tuple[Holder | None, bytes]:
    """Returns the holder that a lock names, None for no or damaged content, and the content."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None, b""
    try:
        values = json.loads(content)
        holder = Holder(**{field.name: values[field.name] for field in dataclasses.fields(Holder)})
        return (holder if isinstance(holder.pid, int) else None), content
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, content


def _this_process() -> Holder:
    return Holder(
        token=secrets.token_hex(8),
        host=socket.gethostname(),
        boot=_boot(),
        pid=os.getpid(),
        started=_started(os.getpid()),
        since=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    )


def _boot() -> str:
    """Returns the id of the host's current boot, where Linux gives it."""
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _started(pid: int) -> str:
    """Returns the start time of a process in clock ticks since the boot, where Linux gives it."""
    with contextlib.suppress(OSError, IndexError):
        # The name of the program, in parentheses, may hold anything.
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
