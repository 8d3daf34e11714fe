"""The machine of a measurement: its description, and who used its cores meanwhile."""

import contextlib
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any


def describe(sides: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns date, processor, cores, memory, Python, and what each side reports."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "system": platform.platform(),
        "python": platform.python_version(),
        "sides": {name: dict(facts) for name, facts in sides.items()},
    }


def line(machine: Mapping[str, Any]) -> str:
    """Returns the description in one line."""
    versions: dict[str, str] = {}
    for facts in machine["sides"].values():
        versions |= facts["versions"]
    devices = sorted({facts["device"] for facts in machine["sides"].values()} - {"cpu"})
    names = ", ".join(f"{name} {version}" for name, version in versions.items())
    hardware = f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']:.0f} GiB"
    return f"{machine['date']}; {'; '.join([*devices, hardware])}; {names}"


class Watch:
    """Collects, over the repetitions of one entry, its processor time and that of all others."""

    def __init__(self) -> None:
        self._own: list[float] = []
        self._others: list[float] = []
        self._waiting: list[float] = []

    @contextlib.contextmanager
    def repetition(self) -> Iterator[dict[str, float]]:
        """Surrounds one repetition; the body adds what the worker reports to the yielded dict."""
        measured: dict[str, float] = {}
        start, before = time.perf_counter(), busy_seconds()
        yield measured
        seconds, busy = time.perf_counter() - start, busy_seconds() - before
        self._own.append(measured["cpu_seconds"])
        self._waiting.append(measured["waiting_cores"])
        self._others.append(max(busy - measured["cpu_seconds"], 0.0) / seconds)

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


def _cpu() -> str:
    for text in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
