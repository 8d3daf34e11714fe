"""Gives the memory of a command huge pages, which the C library must know when the process starts.

XLA's CPU backend allocates the intermediate values of a program in one piece at every call and frees
them afterwards, so the kernel maps and clears all of their pages in every step: with pages of 4 KiB a
fifth of the processor time of a LoRA step. Most systems give huge pages (2 MiB) only to memory for
which a program asks, and glibc asks if it is started with GLIBC_TUNABLES=glibc.malloc.hugetlb=1.

Imports nothing slow: a command calls `restart` before anything else.
"""

import contextlib
import itertools
import os
import pathlib
import signal
import sys

_TUNABLES, _TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
_MODE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")  # always [madvise] never
_OLDEST = (2, 35)  # glibc with the tunable


def restart() -> None:
    """Runs this command again in the same process, with huge pages, where that changes anything.

    That is on Linux, where huge pages are given to those who ask, unless GLIBC_TUNABLES has the tunable
    already (a value of 0 keeps pages small). Process id, arguments, open files and working directory stay.
    A SIGTERM in between is delivered afterwards, to the handler that the command has installed before.
    Nothing happens in debuggers and notebooks, whose process is not the command's.
    """
    given = os.environ.get(_TUNABLES, "")
    if _TUNABLE not in given and _on_request() and _is_own_process():
        value = ":".join(filter(None, (given, f"{_TUNABLE}=1")))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # which the new program inherits
        with contextlib.suppress(OSError):  # without huge pages it is only slower
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {_TUNABLES: value})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _on_request() -> bool:
    """Returns whether this system gives huge pages to memory for which a program asks, and only to it."""
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION") or ""  # "glibc 2.36"
        numbers = tuple(map(int, version.removeprefix("glibc ").split(".")[:2]))
        return sys.platform == "linux" and numbers >= _OLDEST and "[madvise]" in _MODE.read_text()
    except (OSError, ValueError, AttributeError):  # another system or C library
        return False


def _is_own_process() -> bool:
    """Returns whether the interpreter was started for this command, by its file or by its name."""
    options = list(itertools.takewhile(lambda argument: argument.startswith("-"), sys.orig_argv[1:]))
    started = "".join(sys.orig_argv[len(options) + 1 :][:1])
    if options and options[-1] in ("-c", "-m"):
        return options[-1] == "-m" and started == "softbio_jax"
    return started == sys.argv[0] or pathlib.Path(started).name == "softbio-jax"
