"""Samplers: which example is at each position of an endless global sample stream.

A sampler knows nothing of hosts, workers or batches: the pipeline cuts its stream into global
batches, and those into one slice per process. Label tables are task -> (N,), MISSING where unknown; the
probabilities of rows are (N,) float64 and sum to 1.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Protocol

import numpy as np

from softbio_jax.data.sources import PreparedDataset, concatenate_labels, concatenate_targets
from softbio_jax.errors import UserError
from softbio_jax.ranges import Range, check_arguments
from softbio_jax.registry import Registry
from softbio_jax.tasks import MISSING, TASKS


class Sampler(Protocol):
    """An endless stream of example numbers, in epochs that are each drawn from the seed.

    One that never draws some of its N rows may have `probabilities` (N,), 0 for those, as `Weighted`
    has: then they do not count as training images (`softbio_jax.coverage`).
    """

    @property
    def epoch_size(self) -> int:
        """The number of positions in an epoch."""

    def epoch(self, number: int) -> np.ndarray:
        """Returns the examples of one epoch: (epoch_size,) int64."""

    def digest(self) -> str:
        """Returns a name of the stream: equal digests mean equal streams."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Natural:
    """Every example of `size` once per epoch, in an order drawn anew for each epoch."""

    size: int
    seed: int

    @property
    def epoch_size(self) -> int:
        return self.size

    def epoch(self, number: int) -> np.ndarray:
        return generator(self.seed, number).permutation(self.size)

    def digest(self) -> str:
        return digest_of("natural", self.size, self.seed)


class Weighted:
    """Draws `epoch_size` examples per epoch with replacement, by probabilities (N,)."""

    def __init__(self, probabilities: np.ndarray, *, epoch_size: int, seed: int):
        self.probabilities, self.epoch_size, self.seed = probabilities, epoch_size, seed
        self._cumulative = np.cumsum(probabilities)
        self._cumulative /= self._cumulative[-1]

    def epoch(self, number: int) -> np.ndarray:
        draws = generator(self.seed, number).random(self.epoch_size)
        return np.searchsorted(self._cumulative, draws, side="right")

    def digest(self) -> str:
        # Rounded: a sum in another order must not make a checkpoint unusable.
        rounded = np.round(self.probabilities * len(self.probabilities), 9)
        table = hashlib.sha256(rounded.astype("<f8").tobytes()).hexdigest()
        return digest_of("weighted", table, self.epoch_size, self.seed)


class Stream:
    """Looks up positions of a sampler's stream; the epoch in use stays in memory."""

    def __init__(self, sampler: Sampler):
        self.sampler = sampler
        # Two epochs: batches that are read ahead cross the border.
        self._epoch = functools.lru_cache(maxsize=2)(sampler.epoch)

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Returns the examples (b,) int64 at positions (b,) of the stream."""
        numbers, offsets = np.divmod(positions, self.sampler.epoch_size)
        rows = np.empty(len(positions), np.int64)
        for number in np.unique(numbers):
            here = numbers == number
            rows[here] = self._epoch(int(number))[offsets[here]]
        return rows

    def __getstate__(self) -> Sampler:
        return self.sampler

    def __setstate__(self, sampler: Sampler) -> None:
        self.__init__(sampler)  # type: ignore[misc]


def generator(seed: int, epoch: int) -> np.random.Generator:
    """Returns the random generator of one epoch; Philox is the same on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))


def digest_of(*parts: object) -> str:
    """Returns a short hexadecimal hash of what defines a stream."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).hexdigest()[:32]


def check_stream(found: str, expected: str) -> None:
    """Raises UserError if a checkpoint's stream, named as by `digest_of`, is not the run's."""
    if found != expected:
        what = "the checkpoint belongs to another sample stream"
        fix = "resume with the same data, seed, sampler and global batch size"
        raise UserError(what, where="data state", expected=expected, found=found, fix=fix)


EpochSize = Annotated[int, Range(1, 10**9)]
Labels = Mapping[str, np.ndarray]
MakeSampler = Callable[[Sequence[PreparedDataset], int], Sampler]
SAMPLERS = Registry[Callable[..., Sampler]](
    "sampler", where="data.sampler.name", group="softbio_jax.samplers"
)


@SAMPLERS.register("natural")
def natural(datasets: Sequence[PreparedDataset], seed: int) -> Sampler:
    """Visits every example once per epoch."""
    return Natural(size=sum(len(dataset) for dataset in datasets), seed=seed)


@SAMPLERS.register("balanced")
def balanced(
    datasets: Sequence[PreparedDataset], seed: int, *, epoch_size: EpochSize | None = None
) -> Sampler:
    """Draws a task, then a class, then a row, all uniformly; by default as many as there are rows.

    A partial label counts for its classes by its expectation.
    """
    labels = label_tables(datasets)
    probabilities = balanced_probabilities(labels, expected_classes(datasets, labels))
    return Weighted(probabilities, epoch_size=epoch_size or len(probabilities), seed=seed)


@SAMPLERS.register("mixture")
def mixture(
    datasets: Sequence[PreparedDataset],
    seed: int,
    *,
    shares: Mapping[str, Annotated[float, Range(0, 1e9)]],
    epoch_size: EpochSize | None = None,
) -> Sampler:
    """Draws a data set by the relative shares of their names, then one of its rows uniformly.

    Raises:
      UserError: a data set without a share, or a share without a data set.
    """
    names = [dataset.name for dataset in datasets]
    if sorted(names) != sorted(shares):
        what, fix = "the shares do not fit the data sets", "give each set of data.train a share by its name"
        expected, found = ", ".join(names), ", ".join(shares)
        raise UserError(what, where="shares", expected=expected, found=found, fix=fix)
    sizes = [len(dataset) for dataset in datasets]
    probabilities = mixture_probabilities(sizes, [shares[name] for name in names])
    return Weighted(probabilities, epoch_size=epoch_size or sum(sizes), seed=seed)


def make(name: str, **arguments: Any) -> MakeSampler:
    """Returns the sampler `name` with its own arguments set.

    Raises:
      UserError: an unknown name, arguments that the sampler does not accept or lacks, or values
        out of their ranges.
    """
    sampler = SAMPLERS[name]
    try:
        inspect.signature(sampler).bind((), 0, **arguments)
    except TypeError as error:
        what, fix = f"sampler {name!r}: {error}", "correct its arguments"
        raise UserError(what, where="data.sampler", fix=fix) from error
    check_arguments(sampler, arguments, "config.data.sampler")
    return functools.partial(sampler, **arguments)


def label_tables(datasets: Sequence[PreparedDataset]) -> dict[str, np.ndarray]:
    """Returns task -> (N,) labels over all data sets, for the tasks that any of them has."""
    labelled = {task for dataset in datasets for task in (*dataset.labels, *dataset.targets)}
    return {task: concatenate_labels(datasets, task) for task in TASKS if task in labelled}


def expected_classes(datasets: Sequence[PreparedDataset], tasks: Collection[str]) -> dict[str, np.ndarray]:
    """Returns the expected classes (N, C) of the tasks that have targets, see `partial.targets`."""
    found = concatenate_targets(datasets, tuple(tasks))
    if not found:
        return {}
    from softbio_jax.data.partial.targets import memberships

    return {task: memberships(targets) for task, targets in found.items()}


def balanced_probabilities(labels: Labels, expected: Labels = types.MappingProxyType({})) -> np.ndarray:
    """Draws a task, then one of its classes that have rows, then a row of it, all uniformly.

    p_i = (1 / T) sum over the tasks t that row i is labelled for of 1 / (K_t n_c), with n_c rows of
    its class c, K_t classes that have rows and T tasks that have labels. A row of a task in `expected`
    counts for every class c by q_ic in place of 1: n_c = sum_i q_ic.

    Args:
      labels: task -> (N,).
      expected: task -> q (N, C), rows that sum to 1, or to 0 without a label.
    """
    weights = np.zeros(len(next(iter(labels.values()))))
    for task, values in labels.items():
        if task in expected:
            in_class = expected[task].sum(axis=0)
            share = np.divide(1, in_class, out=np.zeros_like(in_class), where=in_class > 0)
            weights += expected[task] @ share / max((in_class > 0).sum(), 1)
            continue
        known = values != MISSING
        in_class = np.bincount(values[known], minlength=TASKS[task].num_classes)
        if known.any():
            weights[known] += 1 / ((in_class > 0).sum() * in_class[values[known]])
    return normalised(weights)


def mixture_probabilities(sizes: Sequence[int], shares: Sequence[float]) -> np.ndarray:
    """Draws a data set with a fixed share, then one of its rows uniformly.

    Args:
      sizes: rows of each data set, in the order of their concatenation.
      shares: relative share of each data set, at least 0.

    Raises:
      UserError: the numbers of shares and data sets differ, or a share is negative.
    """
    if len(sizes) != len(shares) or min(shares, default=0) < 0 or sum(shares) <= 0:
        expected, found = f"{len(sizes)} shares, none negative", ", ".join(map(str, shares))
        fix = "give each set one share of 0 or more"
        raise UserError("not a mixture", where="shares", expected=expected, found=found, fix=fix)
    return normalised(np.repeat(np.asarray(shares, float) / np.maximum(sizes, 1), sizes))


def drawn_shares(labels: np.ndarray, probabilities: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns each class's expected share, (C,) float64, of the labelled draws of a task.

    `labels` (N,) are MISSING where unknown; `probabilities` (N,) are those of the rows.
    """
    known = labels != MISSING
    mass = np.bincount(labels[known], weights=probabilities[known], minlength=num_classes)
    return mass / mass.sum()


def normalised(weights: np.ndarray) -> np.ndarray:
    """Returns weights divided by their sum; raises UserError if they are all zero."""
    if not weights.sum() > 0:
        expected, fix = "labelled rows", "name a set with labels in data.train"
        raise UserError("no row can be drawn", where="the sampler", expected=expected, fix=fix)
    return weights / weights.sum()
