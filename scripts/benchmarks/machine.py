"""What the figures were measured on."""

import os
import pathlib
import platform
import time
from collections.abc import Mapping
from typing import Any


def describe(sides: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns date, processor, cores, memory, Python, and what each side tells of itself."""
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


def _cpu() -> str:
    for text in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
