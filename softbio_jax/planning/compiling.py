"""Compiling in a process of its own: a compiler that crashes is an error of one line."""

from __future__ import annotations

import functools
import multiprocessing
import pathlib
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import jax

from softbio_jax.console import Console, duration
from softbio_jax.errors import UserError
from softbio_jax.planning import fit, stored
from softbio_jax.planning.fit import Fit
from softbio_jax.planning.topology import Target, described, devices_of, resolve
from softbio_jax.runs.config import RunConfig
from softbio_jax.runs.teacher import Teacher

_REFRESH = 0.5, 30.0  # seconds between two progress lines, on a terminal and in a log


class Compiler:
    """Compiles train steps for one topology, and shows how long each takes.

    This machine's own devices are compiled for in this process; everything else in one child, which
    serves all steps.

    Args:
      topology: any name that `topology.resolve` knows.
      console: where progress is shown.
      teacher: of the runs, see `fit.fit`.

    Raises:
      UserError: an unknown topology.
    """

    def __init__(self, topology: str, *, console: Console, teacher: Teacher | None = None):
        self.topology = resolve(topology)
        self.devices = described(self.topology)
        self._console = console
        self._fit = functools.partial(_fit, teacher=teacher and teacher.abstract())
        self._child: Any = None
        self._pipe: Connection | None = None
        self._compiled = 0

    def __enter__(self) -> Compiler:
        if self.topology != "local":
            context = multiprocessing.get_context("spawn")
            self._pipe, end = context.Pipe()
            self._child = context.Process(target=_serve, args=(end, self._fit, self.topology), daemon=True)
            self._child.start()
            end.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._console.close()
        if self._child is not None:
            self._child.kill()  # it has nothing to write, and may be in the middle of minutes of work
            self._child.join()

    def fit(self, config: RunConfig, *, name: str, save: pathlib.Path | None = None) -> Fit:
        """Compiles a step; `name` is what the progress line calls it.

        Args:
          config: the run.
          name: of the step, for the progress line.
          save: folder in which a step that fits is stored, see `stored.save`.

        Raises:
          UserError: the compiler crashed, or what `fit.fit` raises.
        """
        self._compiled += 1
        if self._pipe is None:
            self._console.show(f"compiling {name}", 0, 0)
            found = self._fit(config, devices_of(self.topology), save)
            self._console.close()
            return found
        begun = time.perf_counter()
        try:
            self._pipe.send((config, save))
            while True:
                spent = duration(time.perf_counter() - begun)
                self._console.show(f"step {self._compiled}, compiling {name}: {spent}", 0, 0)
                if self._pipe.poll(_REFRESH[not self._console.redraws]):
                    answer = self._pipe.recv()
                    break
        except (EOFError, OSError) as error:
            self._child.join()
            code = self._child.exitcode
            raise UserError(
                "the compiler crashed",
                where=f"--topology={self.topology}",
                expected="a compiled step",
                found=f"signal {-code}" if code < 0 else f"exit code {code}",
                fix="try another version of jax and libtpu, or plan on the chips themselves",
            ) from error
        self._console.close()
        if isinstance(answer, Fit):
            return answer
        raise answer


def _serve(
    pipe: Connection, fit_for: Callable[[RunConfig, Target, pathlib.Path | None], Fit], topology: str
) -> None:
    """Compiles the steps that arrive and answers each with its `Fit`, or with the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    count = topology.partition(":")[2]
    if count.isdigit():  # GPUs: as many CPU devices stand for them
        jax.config.update("jax_num_cpu_devices", int(count))
    target: Target | None = None
    while True:
        try:
            config, save = pipe.recv()
        except EOFError:
            return
        try:
            target = target or devices_of(topology)
            pipe.send(fit_for(config, target, save))
        except UserError as error:
            pipe.send(error)


def _fit(
    config: RunConfig, target: Target, save: pathlib.Path | None, *, teacher: Teacher | None = None
) -> Fit:
    if save is None:
        return fit.fit(config, *target, teacher=teacher)
    with stored.uncached():
        return fit.fit(config, *target, teacher=teacher, then=functools.partial(stored.save, folder=save))
