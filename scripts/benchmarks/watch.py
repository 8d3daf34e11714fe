"""Who used the cores while a repetition ran."""

import contextlib
import os
import pathlib
import statistics
import time
from collections.abc import Iterator


class Watch:
    """Collects, over the repetitions of one entry, its processor time and that of all others."""

    def __init__(self) -> None:
        self._own: list[float] = []
        self._others: list[float] = []
        self._waiting: list[float] = []

    @contextlib.contextmanager
    def repetition(self) -> Iterator[dict[str, float]]:
        """Surrounds one repetition; the body puts what the worker told into the yielded dict."""
        told: dict[str, float] = {}
        start, before = time.perf_counter(), busy_seconds()
        yield told
        seconds, busy = time.perf_counter() - start, busy_seconds() - before
        self._own.append(told["cpu_seconds"])
        self._waiting.append(told["waiting_cores"])
        self._others.append(max(busy - told["cpu_seconds"], 0.0) / seconds)

    def facts(self) -> dict[str, float]:
        """Returns medians: cpu_seconds of a repetition; other_cores that all other processes used
        beside it; waiting_cores that its own used while the other side ran, 0 unless it spins."""
        return {
            "waiting_cores": statistics.median(self._waiting),
            "cpu_seconds": statistics.median(self._own),
            "other_cores": statistics.median(self._others),
        }


def busy_seconds() -> float:
    """Returns the processor seconds that the whole machine has used, over all cores (Linux)."""
    fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _waiting, *interrupts = (int(field) for field in fields[:7])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
