"""Searches for what fits: the fastest way to compute a given batch, or the largest batch."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.models.blocks import REMAT_POLICIES
from softbio_jax.planning import fit
from softbio_jax.planning.fit import Fit
from softbio_jax.runs.chips import chip_of
from softbio_jax.runs.config import RunConfig

_GROWTH = 4  # factor over the largest known to fit, where memory gives no estimate


class NothingFitsError(UserError):
    """Not even the smallest batch that may be tried fits."""


def fitting(config: RunConfig, devices: Sequence[Any], *, limit: float = 0) -> tuple[RunConfig, Fit]:
    """Returns a run with the fastest remat policy and microbatches that fit, and its compiled step.

    The batch size does not change, so the result of training does not depend on the devices. The remat
    policies are tried from the least to the most recomputation, then 2, 4, ... microbatches under the last.
    `train_and_evaluate(..., compiled=found.step)` trains with the step that was compiled here.

    Args:
      limit: bytes per device; 0: what the devices report, or their published memory. If neither is
        known, as on a CPU, the first way is returned.

    Raises:
      UserError: not even one row per device fits.
    """
    chip = chip_of(devices[0].device_kind)
    limit = limit or _reported(devices[0]) or (chip.memory if chip else 0)
    for remat, microbatches in _ways(config, len(devices), list(REMAT_POLICIES)):
        changed = fit.changed(config, remat=remat, microbatches=microbatches)
        found = fit.fit(changed, devices, chip, keep=True)
        found = fit.apply_limit(dataclasses.replace(found, limit=limit)) if found.fits else found
        if found.fits:
            return changed, found
    raise UserError(
        "no way to compute this batch fits",
        where=devices[0].device_kind,
        expected=f"{limit / 2**30:.2f} GiB to hold {microbatches} microbatches",
        found=found.needed,
        fix="a smaller train.batch_size or variant, or a larger device",
    )


def ways_out(config: RunConfig, fit_with: Callable[..., Fit], found: Fit) -> Iterator[tuple[str, Fit]]:
    """Yields what fits in place of a step that does not, as flags and the compiled step.

    In this order: the least remat policy that fits the batch, else the fewest microbatches that do under
    the last policy, and the largest of the batches halved from the given one that fits as it is.

    Args:
      config: the run.
      fit_with: compiles it with other values of `fit.changed`.
      found: its step, which does not fit.
    """
    policies, given = list(REMAT_POLICIES), config.train.microbatches
    _, *others = _ways(config, found.chips, policies[policies.index(found.remat) :], given)
    ways: list[dict[str, Any]] = [
        {"remat": remat} | ({"microbatches": count} if count != given else {}) for remat, count in others
    ]
    batches: list[dict[str, Any]] = []
    batch = config.train.batch_size // 2
    while batch and batch % (config.train.microbatches * found.chips) == 0:
        batches.append({"batch_size": batch})
        batch //= 2
    for group in (ways, batches):
        for way in group:
            step = fit_with(**way)
            if step.fits:
                yield " ".join(f"--config.{_KEYS[name]}={value}" for name, value in way.items()), step
                break


_KEYS = {"remat": "compute.remat", "microbatches": "train.microbatches", "batch_size": "train.batch_size"}


def _ways(
    config: RunConfig, devices: int, policies: Sequence[str], microbatches: int = 1
) -> Iterator[tuple[str, int]]:
    """Yields remat policies and microbatches, from the least recomputation to the most."""
    *others, last = policies
    yield from ((remat, microbatches) for remat in others)
    while config.train.batch_size % (microbatches * devices) == 0:
        yield last, microbatches
        microbatches *= 2


def _reported(device: Any) -> float:
    return float((device.memory_stats() or {}).get("bytes_limit", 0))


def largest(try_rows: Callable[[int], Fit], *, granularity: int = 1, guess: int = 0) -> tuple[Fit, Fit]:
    """Finds the largest batch that fits, and the next one, which does not; both are compiled.

    Compiling takes minutes, so the next size is extrapolated from the memory of two earlier ones. Where
    that misleads, the interval is halved.

    Args:
      try_rows: compiles a step with this number of rows per chip.
      granularity: only multiples of it are tried.
      guess: rows per chip to start with; 0: the smallest number.

    Raises:
      NothingFitsError: not even the smallest batch fits.
      UserError: the memory of the devices is not known.
    """
    found: dict[int, Fit] = {}
    low, high = 0, 0  # the largest that fits and the smallest that does not, in granules; 0: not known
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
                found="devices that do not report theirs",
                fix="name a --topology, or --rows to try",
            )
    if not low:
        smallest = found[high]
        raise NothingFitsError(
            "no batch fits",
            where=f"remat {smallest.remat}",
            expected=f"room for {granularity} rows on each of {smallest.chips} chips",
            found=smallest.needed,
            fix="use a stronger remat policy, more microbatches, mesh.fsdp, or larger chips",
        )
    return found[low], found[high]


def largest_of_each(
    policies: Iterable[str],
    fit_with: Callable[[str, int], Fit],
    *,
    granularity: int = 1,
    guess: Callable[[str], int] = lambda policy: 0,
) -> tuple[list[Fit], list[NothingFitsError]]:
    """Runs `largest` for each remat policy; also returns the errors of those with which nothing fits.

    Raises:
      NothingFitsError: nothing fits with any policy; the error of the last one.
    """
    found: list[Fit] = []
    refusals: list[NothingFitsError] = []
    for policy in policies:
        try_rows = functools.partial(fit_with, policy)
        try:
            found += largest(try_rows, granularity=granularity, guess=guess(policy))
        except NothingFitsError as error:  # a stronger policy may fit
            refusals.append(error)
    if refusals and not found:
        raise refusals[-1]
    return found, refusals


def _next(found: dict[int, Fit], low: int, high: int) -> int:
    expected = _expected(found)
    if not high:
        return max(low + 1, expected or _GROWTH * low)
    if expected is None or len(found) % 4 == 3:  # extrapolating misled more than once
        expected = (low + high) // 2
    return max(low + 1, min(high - 1, expected))


def _expected(found: dict[int, Fit]) -> int | None:
    """Returns the number of granules that reaches the limit, by the memory of those tried."""
    sizes = {count: fit for count, fit in found.items() if fit.used}
    if len(sizes) < 2:
        for count, fit in sizes.items():
            fixed = fit.arguments  # weights and moments; the batch is small in comparison
            if fit.used > fixed:
                return int(count * (fit.limit - fixed) / (fit.used - fixed))
        return None
    # The two nearest to the limit: far from it, memory is not linear in the rows.
    by_distance = sorted(sizes.items(), key=lambda item: abs(item[1].used - item[1].limit))
    (a, one), (b, two) = by_distance[:2]
    slope = (two.used - one.used) / (b - a)
    return a + int((one.limit - one.used) / slope) if slope > 0 else None
