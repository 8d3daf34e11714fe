"""Linear probing on cached features; `benchmarks.probes.features` measures."""

import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.probes import features

_SWEEP_STEPS = 490  # of some 6,600: the rest is extrapolated
_IMAGES, _ROUNDS, _BATCH = 96, 3, 16


def prepare(values: Mapping[str, Any], form: str) -> tuple[Callable[[], None], dict[str, Any]]:
    """Measures the part of a `FeatureWork`; `form` is "jit".

    Returns:
      Nothing to repeat, and epoch_seconds, sweep_seconds or probe_ratio.
    """
    if form != "jit":
        raise ValueError(f"no form {form!r} on this side")
    return lambda: None, _PARTS[values["part"]](**values["arguments"])


def _epoch(head: str) -> dict[str, Any]:
    found = features.epoch(head)
    return found | {"epoch_seconds": found["fastest"]}


def _sweep() -> dict[str, Any]:
    found = features.sweep(rows=features.THESIS_ROWS, epochs=10, batch_norm=False, steps=_SWEEP_STEPS)
    return found | {"sweep_seconds": found["seconds_whole"]}


def _probe(variant: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        tower = features.probe(variant, pathlib.Path(folder), images=_IMAGES, rounds=_ROUNDS, batch=_BATCH)
    found = features.projected(tower, features.epoch("deep"))
    return found | {"tower": tower, "probe_ratio": found["ratio"]}


_PARTS: dict[str, Callable[..., dict[str, Any]]] = {"epoch": _epoch, "sweep": _sweep, "probe": _probe}
