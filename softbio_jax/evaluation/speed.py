"""Measures how fast a trained run predicts."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from softbio_jax.data.loading import PADDING
from softbio_jax.runs import parallel
from softbio_jax.runs.session import Session
from softbio_jax.tasks import MISSING


def measure(session: Session, *, passes: int = 5, seconds: float = 2.0) -> dict[str, Any]:
    """Times forward passes of images already on the devices, with unmerged adapters.

    The result is a median over passes, each of which is waited for, without the first, which compiles.

    At least `passes` passes and `seconds` seconds are timed per batch size.

    Returns:
      `latency_ms` of one image per device, `throughput` {batch over all devices: images/s} for one
      image per device and for the run's evaluation batch, and the `device`.
    """
    devices = session.mesh.size
    times = {
        batch: _median_seconds(session, batch, passes, seconds)
        for batch in (devices, session.run.config.train.eval_batch_size)
    }
    return {
        "latency_ms": 1e3 * times[devices],
        "throughput": {str(batch): batch / median for batch, median in times.items()},
        "device": f"{devices} x {jax.devices()[0].device_kind}",
    }


def text(found: Mapping[str, Any]) -> str:
    """Returns the result of `measure` as one line."""
    rates = ", ".join(f"{rate:,.0f} images/s at batch {b}" for b, rate in found["throughput"].items())
    return f"one image per device takes {found['latency_ms']:.1f} ms; {rates} ({found['device']})"


def _median_seconds(session: Session, batch: int, passes: int, seconds: float) -> float:
    placed = _batch(session, batch)
    jax.block_until_ready(session.forward(placed))
    found: list[float] = []
    # Processes meet in every pass, so all must make the same number of passes.
    while len(found) < passes or (jax.process_count() == 1 and sum(found) < seconds):
        begun = time.perf_counter()
        jax.block_until_ready(session.forward(placed))
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def _batch(session: Session, size: int) -> dict[str, jax.Array]:
    rows, side = size // jax.process_count(), session.run.image_size
    batch = {"image": np.zeros((rows, side, side, 3), np.uint8), "example": np.full(rows, PADDING, np.int32)}
    unknown = np.full(rows, MISSING, np.int32)
    batch |= {f"labels/{task}": unknown for task in session.run.config.tasks}
    return parallel.to_global(batch, session.mesh)
