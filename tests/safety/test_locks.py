import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from softbio_jax.console import Console
from softbio_jax.errors import UserError
from softbio_jax.safety import locks

HOLD = """
import signal, sys, time
from softbio_jax.safety import locks
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
with locks.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def _other(folder):
    """Starts a process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def _end(process, how):
    process.send_signal(how)
    process.wait()
    process.stdout.close()


def _content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def no_system_locks(monkeypatch):
    """A disk without flock, as some network disks are; settles at once."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "SETTLE", 0.05)
    monkeypatch.setattr(locks, "STALE", 0.4)


def _write(folder, **values):
    """Writes a lock of another process."""
    holder = vars(locks._this_process()) | {"token": "other"} | values
    (folder / locks.NAME).write_text(json.dumps(holder | {"beat": "000000001"}))


@pytest.mark.parametrize("system", [True, False])
def test_a_living_holder_is_named_and_left_alone(tmp_path, system, request):
    process = _other(tmp_path)
    if not system:
        request.getfixturevalue("no_system_locks")
    before = _content(tmp_path)
    since = json.loads(before[locks.NAME])["since"]
    for _ in range(2):
        with pytest.raises(UserError, match="workdir is in use") as caught, locks.hold(tmp_path):
            pass
        assert f"process {process.pid} on {os.uname().nodename}, since {since}" in str(caught.value)
    assert _content(tmp_path) == before
    _end(process, signal.SIGINT)


@pytest.mark.parametrize("system", [True, False])
def test_a_killed_holders_lock_is_taken_over(tmp_path, system, request):
    process = _other(tmp_path)
    if not system:
        request.getfixturevalue("no_system_locks")
    _end(process, signal.SIGKILL)
    assert json.loads(_content(tmp_path)[locks.NAME])["pid"] == process.pid
    with locks.hold(tmp_path) as lock:
        assert lock.is_held()
    assert _content(tmp_path) == {}


def test_a_process_that_has_the_id_of_a_dead_holder_is_not_the_holder(tmp_path, no_system_locks):
    _write(tmp_path, started="1")
    with locks.hold(tmp_path) as lock:
        assert lock.is_held()


def test_with_system_locks_a_copied_folder_is_free(tmp_path):
    with locks.hold(tmp_path / "run"):
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / locks.NAME).write_bytes((tmp_path / "run" / locks.NAME).read_bytes())
        with locks.hold(tmp_path / "copy"):
            pass


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b'{"pid": ', b"[1]", b'{"pid": "x"}', b"\xff\xfe"])
@pytest.mark.parametrize("system", [True, False])
def test_an_empty_or_damaged_lock_of_nobody_is_taken_over(tmp_path, content, system, request):
    if not system:
        request.getfixturevalue("no_system_locks")
    (tmp_path / locks.NAME).write_bytes(content)
    with locks.hold(tmp_path) as lock:
        assert lock.is_held()
    assert _content(tmp_path) == {}


@contextlib.contextmanager
def _beating(path):
    """Beats in the lock's file every tenth of a second, in place, as a holder on another host does."""
    stop = threading.Event()

    def beat():
        count = 1
        while not stop.wait(0.1):
            count += 1
            holder = json.loads(path.read_bytes())
            with path.open("r+b") as file:
                file.write(json.dumps(holder | {"beat": f"{count:09d}"}).encode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("system", [True, False])
def test_another_hosts_holder_lives_by_its_heartbeat(tmp_path, alive, system, request, monkeypatch, capsys):
    if not system:
        request.getfixturevalue("no_system_locks")
    monkeypatch.setattr(locks, "STALE", 0.5)
    _write(tmp_path, host="elsewhere", boot="another")
    path = tmp_path / locks.NAME
    if alive:
        with _beating(path):
            with pytest.raises(UserError, match=r"in use: .* on elsewhere"), locks.hold(tmp_path):
                pass
            assert json.loads(path.read_text())["host"] == "elsewhere"
    else:
        with locks.hold(tmp_path, console=Console()) as lock:
            assert lock.is_held()
        assert "taken over" in capsys.readouterr().out


def _hold_briefly(folder, start, found):
    start.wait()
    try:
        with locks.hold(folder):
            time.sleep(1.5)
            found.put("held")
    except UserError:
        found.put("refused")


def test_of_four_starts_in_one_moment_one_holds(tmp_path):
    context = multiprocessing.get_context("fork")
    start, found = context.Event(), context.Queue()
    processes = [context.Process(target=_hold_briefly, args=(tmp_path, start, found)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    assert sorted(found.get(timeout=50) for _ in processes) == ["held"] + 3 * ["refused"]
    for process in processes:
        process.join()


def test_of_two_starts_without_system_locks_the_last_to_write_holds(tmp_path, no_system_locks, monkeypatch):
    """The second start writes after the first one has looked, and before it has settled."""
    sleep = time.sleep

    def second_start(seconds):
        monkeypatch.setattr(time, "sleep", sleep)
        _write(tmp_path, pid=1, started=locks._started(1))

    monkeypatch.setattr(time, "sleep", second_start)
    with pytest.raises(UserError, match=r"in use: .*process 1 "), locks.hold(tmp_path):
        pass
    assert json.loads(_content(tmp_path)[locks.NAME])["pid"] == 1


def test_the_heartbeat_beats_and_notices_a_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.02)
    with locks.hold(tmp_path) as lock:
        path = tmp_path / locks.NAME
        first = path.read_bytes()
        until = time.monotonic() + 30
        while path.read_bytes() == first and time.monotonic() < until:
            time.sleep(0.02)
        assert path.read_bytes() != first
        lock.check()
        path.unlink()
        _write(tmp_path, host="elsewhere")
        taken = path.read_bytes()
        with pytest.raises(UserError, match=r"taken over: .*elsewhere"):
            lock.check()
        time.sleep(0.1)
        assert path.read_bytes() == taken
    assert path.read_bytes() == taken


def test_a_folder_that_stays_empty_is_removed(tmp_path):
    with locks.hold(tmp_path / "runs" / "a"):
        pass
    assert not (tmp_path / "runs").exists()
    with locks.hold(tmp_path / "runs" / "a"):
        (tmp_path / "runs" / "a" / "log").touch()
    assert [path.name for path in (tmp_path / "runs" / "a").iterdir()] == ["log"]
