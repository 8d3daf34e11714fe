"""The largest batch that fits, in as few compilations as the memory of those before allows."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.models.stack import REMAT_POLICIES
from softbio_jax.planning import fit
from softbio_jax.planning.fit import Fit
from softbio_jax.runs.chips import chip_of
from softbio_jax.runs.config import RunConfig


def fitting(config: RunConfig, devices: Sequence[Any], *, limit: float = 0) -> tuple[RunConfig, fit.Fit]:
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
    raise UserError(
        "no way to compute this batch fits",
        where=devices[0].device_kind,
        expected=f"{limit / 2**30:.2f} GiB to hold {microbatches} parts of the batch",
        found=found.needed,
        fix="a smaller train.batch_size or variant, or a larger device",
    )


def _ways(config: RunConfig, devices: int) -> Iterator[tuple[str, int]]:
    *most, last = REMAT_POLICIES
    yield from ((remat, 1) for remat in most)
    parts = 1
    while config.train.batch_size % (parts * devices) == 0:
        yield last, parts
        parts *= 2


def _told(device: Any) -> float:
    return float((device.memory_stats() or {}).get("bytes_limit", 0))


_GROWTH = 4  # times the largest known to fit, where memory tells nothing


class NothingFitsError(UserError):
    """Not even the fewest rows that were to be tried fit."""


def largest(try_rows: Callable[[int], Fit], *, granularity: int = 1, guess: int = 0) -> tuple[Fit, Fit]:
    """Finds the largest batch that fits: returns it and the next one, which does not.

    Both are compiled; what to compile next comes from a line through the memory of two before, or
    from halving what is left where that misleads.

    Args:
      try_rows: compiles for so many rows a chip.
      granularity: only multiples of it are tried.
      guess: rows a chip to begin with; 0: the fewest.

    Raises:
      NothingFitsError: not even the fewest rows fit.
      UserError: it is not known when they do not.
    """
    found: dict[int, Fit] = {}
    low, high = 0, 0  # what fits and what does not, in granules; 0: not known yet
    while not high or high - low > 1:
        count = _next(found, low, high) if found else max(1, guess // granularity)
        found[count] = try_rows(count * granularity)
        if found[count].fits:
            low = count
        else:
            high = count
        if not found[count].limit:
            raise UserError(
                "nothing to search for",
                where="--table",
                expected="chips of a known memory",
                found="devices that do not tell theirs",
                fix="name a --topology, or --rows to try",
            )
    if not low:
        fewest = found[high]
        raise NothingFitsError(
            "no batch fits",
            where=f"remat {fewest.remat}",
            expected=f"room for {granularity} rows on each of {fewest.chips} chips",
            found=fewest.needed,
            fix="take a stronger remat policy, more microbatches, mesh.fsdp, or larger chips",
        )
    return found[low], found[high]


def largest_of_each(
    policies: Iterable[str],
    fit_with: Callable[[str, int], Fit],
    *,
    granularity: int = 1,
    guess: Callable[[str], int] = lambda policy: 0,
) -> tuple[list[Fit], list[NothingFitsError]]:
    """Finds the largest batch of each remat policy; one with which nothing fits is passed over.

    Args:
      policies: their names.
      fit_with: compiles with a policy, for so many rows a chip.
      granularity: only multiples of it are tried.
      guess: rows a chip to begin with, by policy.

    Returns:
      Of each policy the largest that fits and the next one; what was said of the others.

    Raises:
      NothingFitsError: there is no policy with which any fits; the last one's.
      UserError: see `largest`.
    """
    found: list[Fit] = []
    refusals: list[NothingFitsError] = []
    for policy in policies:
        try_rows = functools.partial(fit_with, policy)
        try:
            found += largest(try_rows, granularity=granularity, guess=guess(policy))
        except NothingFitsError as error:  # a stronger policy may still
            refusals.append(error)
    if refusals and not found:
        raise refusals[-1]
    return found, refusals


def _next(found: dict[int, Fit], low: int, high: int) -> int:
    expected = _expected(found)
    if not high:
        return max(low + 1, expected or _GROWTH * low)
    if expected is None or len(found) % 4 == 3:  # the line misled more than once
        expected = (low + high) // 2
    return max(low + 1, min(high - 1, expected))


def _expected(found: dict[int, Fit]) -> int | None:
    """Returns how many granules reach the limit by the memory of those tried."""
    sizes = {count: fit for count, fit in found.items() if fit.used}
    if len(sizes) < 2:
        for count, fit in sizes.items():
            fixed = fit.arguments  # weights and moments; the batch itself is small beside them
            if fit.used > fixed:
                return int(count * (fit.limit - fixed) / (fit.used - fixed))
        return None
    # The two nearest to the limit: memory is no straight line far from it.
    by_distance = sorted(sizes.items(), key=lambda item: abs(item[1].used - item[1].limit))
    (a, one), (b, two) = by_distance[:2]
    slope = (two.used - one.used) / (b - a)
    return a + int((one.limit - one.used) / slope) if slope > 0 else None
