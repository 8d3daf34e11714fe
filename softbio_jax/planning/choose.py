"""How a batch is computed so that a step fits: the remat policy and the microbatches."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.models.stack import REMAT_POLICIES
from softbio_jax.planning import fit
from softbio_jax.train.chips import chip_of
from softbio_jax.train.config import RunConfig


def fitting(
    config: RunConfig, devices: Sequence[Any], *, limit: float = 0
) -> tuple[RunConfig, fit.Fit]:
    """Finds the quickest way to compute a run's batch that fits the devices.

    The batch itself stays, and with it what is learned: first the remat policies are tried, the
    one that computes least again first, then the batch in 2, 4, ... parts under the last of them.

    Args:
      config: the run.
      devices: what it is to run on.
      limit: bytes a device has; 0: what the devices tell, or their published memory. Where
        neither is known, as on a CPU, the first way is taken.

    Returns:
      The run with its remat policy and microbatches set, and what its step was found to need.

    Raises:
      UserError: not even single rows fit.
    """
    chip = chip_of(devices[0].device_kind)
    limit = limit or _told(devices[0]) or (chip.memory if chip else 0)
    for remat, microbatches in _ways(config, len(devices)):
        changed = dataclasses.replace(
            config,
            train=dataclasses.replace(config.train, microbatches=microbatches),
            compute=dataclasses.replace(config.compute, remat=remat),
        )
        found = fit.fit(changed, devices, chip)
        found = fit.judged(dataclasses.replace(found, limit=limit)) if found.fits else found
        if found.fits:
            return changed, found
    raise UserError("no way to compute this batch fits", where=devices[0].device_kind,
                    expected=f"{limit / 2**30:.2f} GiB to hold {microbatches} parts of the batch",
                    found=found.needed,
                    fix="a smaller train.batch_size or variant, or a larger device")  # fmt: skip


def _ways(config: RunConfig, devices: int) -> Iterator[tuple[str, int]]:
    *most, last = REMAT_POLICIES
    yield from ((remat, 1) for remat in most)
    parts = 1
    while config.train.batch_size % (parts * devices) == 0:
        yield last, parts
        parts *= 2


def _told(device: Any) -> float:
    return float((device.memory_stats() or {}).get("bytes_limit", 0))
