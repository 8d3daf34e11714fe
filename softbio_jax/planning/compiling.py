"""Compiling in a process of its own: a compiler that crashes is an error of one line."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
import signal
import time
from types import TracebackType

from softbio_jax.console import Console, duration
from softbio_jax.errors import UserError
from softbio_jax.planning import fit
from softbio_jax.planning.fit import Fit
from softbio_jax.planning.topology import Target, described, devices_of, resolve
from softbio_jax.runs.config import RunConfig

_REFRESH = 0.5, 30.0  # seconds between two progress lines, on a terminal and in a log


class Compiler:
    """Compiles train steps for one topology, and shows how long each takes.

    This machine's own devices are compiled for in this process; everything else in one child, which
    serves all steps.

    Args:
      topology: any name that `topology.resolve` knows.
      console: where progress is shown.

    Raises:
      UserError: an unknown topology.
    """

    def __init__(self, topology: str, *, console: Console):
        self.topology = resolve(topology)
        self.devices = described(self.topology)
        self._console = console
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        self._compiled = 0

    def __enter__(self) -> Compiler:
        if self.topology != "local":
            count = self.topology.partition(":")[2]
            if count.isdigit():  # GPUs: as many CPU devices stand for them
                os.environ["JAX_NUM_CPU_DEVICES"] = count
            self._pool = concurrent.futures.ProcessPoolExecutor(
                max_workers=1, mp_context=multiprocessing.get_context("spawn"), initializer=_ignore_interrupts
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._console.close()
        if self._pool is not None:
            if kind is not None:  # do not wait minutes for a step that nobody needs
                for process in list(self._pool._processes.values()):
                    process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)

    def fit(self, config: RunConfig, *, name: str) -> Fit:
        """Compiles a step; `name` is what the progress line calls it.

        Raises:
          UserError: the compiler crashed, or what `fit.fit` raises.
        """
        self._compiled += 1
        if self._pool is None:
            self._console.show(f"compiling {name}", 0, 0)
            found = fit.fit(config, *_target(self.topology))
            self._console.close()
            return found
        begun = time.perf_counter()
        future = self._pool.submit(_fit, config, self.topology)
        while True:
            spent = duration(time.perf_counter() - begun)
            self._console.show(f"step {self._compiled}, compiling {name}: {spent}", 0, 0)
            try:
                found = future.result(timeout=_REFRESH[not self._console.redraws])
                self._console.close()
                return found
            except concurrent.futures.TimeoutError:
                continue
            except concurrent.futures.BrokenExecutor as error:
                raise UserError(
                    "the compiler crashed",
                    where=f"--topology={self.topology}",
                    expected="a compiled step",
                    found=self._end(),
                    fix="try another version of jax and libtpu, or plan on the chips themselves",
                ) from error

    def _end(self) -> str:
        processes = list(self._pool._processes.values()) if self._pool else []
        code = next((process.exitcode for process in processes if process.exitcode), None)
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process


def _fit(config: RunConfig, topology: str) -> Fit:
    return fit.fit(config, *_target(topology))


@functools.cache
def _target(topology: str) -> Target:
    return devices_of(topology)
