"""A command starts again in its own process to get huge pages, and loses nothing by it."""

import os
import pathlib
import subprocess
import sys

import pytest

from softbio_jax.train.preemption import EXIT_SAVED

ROOT = pathlib.Path(__file__).resolve().parents[2]
VERSION = (os.confstr("CS_GNU_LIBC_VERSION") or "") if hasattr(os, "confstr") else ""
pytestmark = pytest.mark.skipif(
    not VERSION.startswith("glibc ") or tuple(map(int, VERSION[6:].split(".")[:2])) < (2, 35),
    reason="this C library has no tunable for huge pages",
)

# The kernel's mode is a file of the test's, since machines differ.
SCRIPT = """
import os, pathlib, signal, sys
from softbio_jax.train import huge_pages, preemption
if __name__ == "__main__":
    print("start", os.getpid(), flush=True)
    preemption.leave_at_sigterm()
    huge_pages._MODE = pathlib.Path(os.environ["MODE"])
    {before}
    huge_pages.restart()
    {after}
    blocked = signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    print("run", sys.argv[1:], os.environ.get("GLIBC_TUNABLES"), blocked, sys.stdin.read())
"""


@pytest.fixture
def run(tmp_path):
    def call(*, mode="always [madvise] never", before="", after="", command=(), **variables):
        script, file = tmp_path / "script.py", tmp_path / "mode"
        script.write_text(SCRIPT.format(before=before, after=after))
        file.write_text(mode)
        environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        done = subprocess.run(
            [sys.executable, *command, str(script), "--a=b c", "d"],
            env=environment | {"PYTHONPATH": str(ROOT), "MODE": str(file)} | variables,
            input="input",
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert not done.stderr or done.returncode
        return done.returncode, done.stdout.splitlines()

    return call


def test_it_starts_once_more_in_the_same_process_with_its_arguments_and_input(run):
    code, (first, second, last) = run()
    assert code == 0 and first == second
    assert last == "run ['--a=b c', 'd'] glibc.malloc.hugetlb=1 False input"


def test_other_tunables_are_kept(run):
    _, lines = run(GLIBC_TUNABLES="glibc.malloc.arena_max=2")
    assert lines[2].split()[-3] == "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"


@pytest.mark.parametrize(
    "changed",
    [
        {"mode": "[always] madvise never"},
        {"mode": "always madvise [never]"},
        {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"},
        {"MODE": "/nowhere"},
        {"command": ("-c", "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')")},
        {"command": ("-m", "pdb", "-c", "continue", "-c", "quit")},
        {"before": "huge_pages.os.execve = lambda *_: (_ for _ in ()).throw(OSError('refused'))"},
    ],
    ids=["always", "never", "kept small", "no such file", "in another's process", "debugger", "refused"],
)
def test_otherwise_it_goes_on(run, changed):
    _, lines = run(**changed)
    assert len([line for line in lines if line.startswith("start ")]) == 1
    (last,) = [line for line in lines if line.startswith("run ")]
    assert " False " in last and "hugetlb=1" not in last


def test_sigterm_in_between_ends_the_command_as_its_handler_says(run):
    kill = (
        "execve = os.execve; "
        "huge_pages.os.execve = lambda *a: (os.kill(os.getpid(), signal.SIGTERM), execve(*a))"
    )
    code, lines = run(before=kill, after="import time; time.sleep(60)")
    assert code == EXIT_SAVED and [line.split()[0] for line in lines] == ["start", "start"]
