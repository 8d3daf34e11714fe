"""Ends a process when another one of its run has ended.

JAX itself notices a missing process after 100 s without heartbeats, or when a collective fails. Here
every process keeps a connection to process 0, which the system closes when either end dies, whatever
it is doing. So no process that is only slow or busy counts as gone.
"""

import atexit
import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src import distributed

from softbio_jax.errors import UserError
from softbio_jax.train import preemption
from softbio_jax.train.preemption import EXIT_FELL_BACK
from softbio_jax.train.supervisor import AGAIN

_KEY = "softbio/peers"  # port and token of process 0, in JAX's key-value store
_CONNECT = 60.0  # seconds for process 0 to publish them, and to be reached
_SETTLE = 2.0  # seconds in which an error is explained by another process' end, or is passed on
_LEAVE = 5.0  # seconds in which the interpreter ends by itself after a failure


@contextlib.contextmanager
def watch() -> Iterator[None]:
    """Context around the work of one process, after `parallel.start_distributed`.

    If another process is killed, this one ends within seconds with one line and `EXIT_FELL_BACK`. If
    another one fails, it ends with that one's message and exit code. If this one fails, the others are
    told. With one process, it does nothing.
    """
    if jax.process_count() == 1:
        yield
        return
    peers = _Peers()
    peers.connect()
    threading.excepthook = _later(threading.excepthook)
    try:
        yield
    except BaseException as error:
        peers.fail(error)
        raise
    peers.leave()


class _Peers:
    def __init__(self) -> None:
        self._me, self._count = jax.process_index(), jax.process_count()
        self._links: list[socket.socket] = []
        self._followers: list[threading.Thread] = []
        self._ending = threading.Lock()  # taken once, by whoever ends this process
        self._left = threading.Event()

    def connect(self) -> None:
        """Opens the connections: process 0 listens, the others connect to it."""
        client: Any = distributed.global_state.client
        if self._me == 0:
            listener, token = _listen(), secrets.token_hex(16)
            client.key_value_set(_KEY, f"{listener.getsockname()[1]} {token}")
            threading.Thread(target=self._accept, args=(listener, token), daemon=True).start()
            return
        port, token = client.blocking_key_value_get(_KEY, int(1000 * _CONNECT)).split()
        host = str(distributed.global_state.coordinator_address).rsplit(":", 1)[0].strip("[]")
        try:
            link = socket.create_connection((host, int(port)), timeout=_CONNECT)
        except OSError as error:
            line = f"note: process {self._me} cannot reach process 0 ({host}, port {port}: {error.strerror})"
            print(f"{line}; the end of another process is noticed after 100 s", file=sys.stderr, flush=True)
            return
        link.settimeout(None)
        _send(link, {"process": self._me, "token": token})
        self._follow(0, link, b"")

    def leave(self) -> None:
        """Says that this process has done its work; from now on the others may end too."""
        self._left.set()
        self._tell({"left": True})

    def fail(self, error: BaseException) -> None:
        """Passes this process' own failure on, and has the process end without waiting for the others."""
        # A collective fails in the moment in which another process ends: then that is the reason, and
        # the thread that notices ends this process.
        time.sleep(_SETTLE)
        if not self._ending.acquire(blocking=False):
            time.sleep(2 * _LEAVE)
        code = _code(error)
        self._tell({"process": self._me, "code": code, "reason": _reason(error, self._me)})
        self._await_others()
        # JAX's own shutdown would wait for the others for minutes.
        timer = threading.Timer(_LEAVE, os._exit, [code])
        timer.daemon = True
        timer.start()
        atexit.register(_end_now, code)

    def _accept(self, listener: socket.socket, token: str) -> None:
        while True:
            link, _ = listener.accept()
            link.settimeout(_CONNECT)
            try:
                hello, rest = _first_line(link)
                if not secrets.compare_digest(str(hello["token"]), token):
                    raise ValueError
                process = int(hello["process"])
            except (OSError, ValueError, KeyError, TypeError):
                link.close()
                continue
            link.settimeout(None)
            self._follow(process, link, rest)

    def _follow(self, process: int, link: socket.socket, rest: bytes) -> None:
        _keep_alive(link)
        self._links.append(link)
        thread = threading.Thread(target=self._read, args=(process, link, rest), daemon=True)
        thread.start()
        self._followers.append(thread)  # started: another thread may wait for it from now on

    def _read(self, process: int, link: socket.socket, rest: bytes) -> None:
        """Reads what a process says until its end, which it must have announced."""
        left = False
        with contextlib.suppress(OSError):
            while read := link.recv(4096):
                *lines, rest = (rest + read).split(b"\n")
                for line in lines:
                    said = json.loads(line)
                    if "left" in said:
                        left = True
                    else:
                        self._end(said)
        if not (left or self._left.is_set()):
            self._end({"process": process, "code": EXIT_FELL_BACK, "reason": "it was killed or cut off"})

    def _end(self, said: dict[str, Any]) -> None:
        """Ends this process because another one has ended, and passes that on."""
        if not self._ending.acquire(blocking=False):
            return
        self._tell(said)
        line = f"error: process {said['process']} of {self._count} has ended: {said['reason']}"
        if said["code"] == EXIT_FELL_BACK:
            line += f"; {AGAIN}"
        self._await_others()
        preemption.leave(said["code"], line)

    def _tell(self, said: dict[str, Any]) -> None:
        for link in self._links:
            with contextlib.suppress(OSError):
                _send(link, said)

    def _await_others(self) -> None:
        """Waits briefly for the ends of the others, for which process 0's own end would be an abort."""
        if self._me == 0:
            until = time.monotonic() + _SETTLE
            for thread in self._followers:
                if thread is not threading.current_thread():
                    thread.join(max(0.0, until - time.monotonic()))


def _later(report: Callable[[threading.ExceptHookArgs], Any]) -> Callable[[threading.ExceptHookArgs], None]:
    """Returns a hook for the errors of threads that is silent where another process' end is the reason."""

    def report_later(error: threading.ExceptHookArgs) -> None:
        time.sleep(_SETTLE)
        report(error)

    return report_later


def _listen() -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _keep_alive(link: socket.socket) -> None:
    """Keeps firewalls from forgetting a connection on which nothing is sent for hours.

    Without an answer for 6 minutes it ends, long after JAX's own heartbeats.
    """
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 20)):
        if hasattr(socket, option):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _send(link: socket.socket, said: dict[str, Any]) -> None:
    link.sendall(json.dumps(said).encode() + b"\n")


def _first_line(link: socket.socket) -> tuple[dict[str, Any], bytes]:
    received = b""
    while b"\n" not in received:
        if len(received) > 4096 or not (read := link.recv(4096)):
            raise ValueError
        received += read
    line, _, rest = received.partition(b"\n")
    return json.loads(line), rest


def _code(error: BaseException) -> int:
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _reason(error: BaseException, process: int) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"{type(error).__name__}; fix: see the output of process {process}"


def _end_now(code: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
