"""The machine of a measurement: its processor and settings, and who used its cores meanwhile."""

import contextlib
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

# Extensions that decide how fast products are, as /proc/cpuinfo names them.
_EXTENSIONS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "sve")
# Settings of either side that change its speed.
_SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "KMP_BLOCKTIME", "GLIBC_TUNABLES")
_HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")  # always [madvise] never


def describe(sides: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns date, processor, cores, memory, Python, settings, and what each side reports."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        **processor(pathlib.Path("/proc/cpuinfo").read_text()),
        "settings": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
        "huge_pages": _granted(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "system": platform.platform(),
        "python": platform.python_version(),
        "sides": {name: dict(facts) for name, facts in sides.items()},
    }


def _granted() -> str:
    """Returns to which memory the kernel gives huge pages: always, madvise or never; "" if unknown."""
    return _HUGE_PAGES.read_text().partition("[")[2].partition("]")[0] if _HUGE_PAGES.exists() else ""


def line(machine: Mapping[str, Any]) -> str:
    """Returns the description in one line."""
    versions: dict[str, str] = {}
    for facts in machine["sides"].values():
        versions |= facts["versions"]
    devices = sorted({facts["device"] for facts in machine["sides"].values()} - {"cpu"})
    names = ", ".join(f"{name} {version}" for name, version in versions.items())
    hardware = f"{machine['cores']} cores of {kind(machine)}, {machine['memory_gib']:.0f} GiB"
    sides = [facts["library"] for facts in machine["sides"].values() if facts.get("library")]
    settings = [f"{name}={value}" for name, value in machine["settings"].items()]
    if machine.get("huge_pages"):
        settings.append(f"huge pages: {machine['huge_pages']}")
    return f"{machine['date']}; {'; '.join([*devices, hardware])}; {names}; {'; '.join([*sides, *settings])}"


def kind(machine: Mapping[str, Any]) -> str:
    """Returns the processor: model, family, and the extensions that products use."""
    extensions = ", ".join(machine["extensions"])
    numbers = f"family {machine['family']}, model {machine['model']}"
    return f"{machine['cpu']} ({numbers}; {extensions or 'no vector extension that is known here'})"


def processor(cpuinfo: str) -> dict[str, Any]:
    """Returns the name, vendor, family, model and extensions of the first processor in /proc/cpuinfo."""
    found: dict[str, str] = {}
    for text in cpuinfo.splitlines():
        name, _, value = text.partition(":")
        found.setdefault(name.strip(), value.strip())
    flags = found.get("flags", found.get("Features", "")).split()
    return {
        "cpu": found.get("model name", platform.processor() or platform.machine()),
        "vendor": found.get("vendor_id", found.get("CPU implementer", "unknown")),
        "family": found.get("cpu family", "unknown"),
        "model": found.get("model", "unknown"),
        "extensions": [name for name in _EXTENSIONS if name in flags],
    }


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
