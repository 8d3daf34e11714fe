"""Three processes of a run inside one; what would end each is recorded instead."""

import contextlib
import socket
import time
import types

import jax
import pytest

from softbio_jax.errors import UserError
from softbio_jax.train import peers, preemption
from softbio_jax.train.preemption import EXIT_FELL_BACK


class Store(dict):
    """JAX's key-value store."""

    def key_value_set(self, key, value):
        self[key] = value

    def blocking_key_value_get(self, key, milliseconds):
        return self[key]


@pytest.fixture
def ended(monkeypatch):
    """(exit code, line) of every process that was ended."""
    found = []
    monkeypatch.setattr(preemption, "leave", lambda code, line: found.append((code, line)))
    monkeypatch.setattr(peers, "_SETTLE", 0.05)
    return found


@pytest.fixture
def store(monkeypatch):
    state = types.SimpleNamespace(client=Store(), coordinator_address="127.0.0.1:1")
    monkeypatch.setattr(peers.distributed, "global_state", state)
    return state.client


@pytest.fixture
def three(monkeypatch, ended, store):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    made = []
    for index in range(3):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        made.append(peers._Peers())
        made[-1].connect()
    _until(lambda: len(made[0]._links) == 2)
    return made


def _until(happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _closes(process):
    for link in process._links:
        link.shutdown(socket.SHUT_RDWR)


def _dies(process):
    """The system closes the sockets of a dead process."""
    process._ending.acquire()  # it says nothing
    _closes(process)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_the_end_of_one_ends_all_others(three, ended, victim):
    _dies(three[victim])
    _until(lambda: len(ended) == 2)
    assert {code for code, _ in ended} == {EXIT_FELL_BACK}
    assert all(f"process {victim} of 3 has ended" in line and "\n" not in line for _, line in ended)


def test_a_failure_is_passed_on_with_its_fix(three, ended):
    error = UserError("a record is damaged", where="x", fix="prepare it again")
    three[1]._ending.acquire()
    said = {"process": 1, "code": peers._code(error), "reason": peers._reason(error, 1)}
    three[1]._tell(said)
    _until(lambda: len(ended) == 2)
    assert ended == 2 * [
        (1, "error: process 1 of 3 has ended: a record is damaged: x; fix: prepare it again")
    ]


def test_a_process_that_has_done_its_work_may_end(three, ended):
    for process in reversed(three):
        process.leave()
    for process in three:
        _closes(process)
    for thread in [thread for process in three for thread in process._followers]:
        thread.join(60)
    assert ended == []


def test_a_stranger_changes_nothing(three, ended, store):
    port = int(store[peers._KEY].split()[0])
    for hello in (b'{"process": 1, "token": "x"}\n', b"[]\n", b"\xff\n", 5000 * b"x"):
        with socket.create_connection(("127.0.0.1", port)) as link:
            link.sendall(hello)
            link.settimeout(60)
            with contextlib.suppress(ConnectionResetError):
                assert link.recv(1) == b""
    assert ended == [] and len(three[0]._links) == 2
