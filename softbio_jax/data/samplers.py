"""The samplers by name: (data sets, seed) -> sampler over their concatenation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.data import weighting
from softbio_jax.data.sampling import Natural, Sampler, Weighted
from softbio_jax.data.sources import PreparedDataset, concatenate_labels
from softbio_jax.errors import UserError
from softbio_jax.tasks import TASKS

MakeSampler = Callable[[Sequence[PreparedDataset], int], Sampler]


def natural(datasets: Sequence[PreparedDataset], seed: int) -> Sampler:
    """Goes through every example once an epoch."""
    return Natural(size=sum(len(dataset) for dataset in datasets), seed=seed)


def thesis(
    datasets: Sequence[PreparedDataset],
    seed: int,
    *,
    emotion_share: float = weighting.EMOTION_SHARE,
    epoch_size: int | None = None,
) -> Sampler:
    """Follows the thesis: emotion rows repeated to a share, rows weighted by the mean rule.

    Args:
      emotion_share: the share of emotion rows in the index; 0 repeats none.
      epoch_size: draws an epoch; by default as many as the index has rows, repetitions included.
    """
    labels = _labels(datasets)
    counts = weighting.repetitions(labels, seed=seed, emotion_share=emotion_share)
    probabilities = weighting.mean_rule(labels, counts)
    return Weighted(probabilities, epoch_size=epoch_size or int(counts.sum()), seed=seed)


def balanced(
    datasets: Sequence[PreparedDataset], seed: int, *, epoch_size: int | None = None
) -> Sampler:
    """Draws a task, then a class, then a row, all uniformly; an epoch has as many draws as rows."""
    probabilities = weighting.balanced(_labels(datasets))
    return Weighted(probabilities, epoch_size=epoch_size or len(probabilities), seed=seed)


def mixture(
    datasets: Sequence[PreparedDataset],
    seed: int,
    *,
    shares: Mapping[str, float],
    epoch_size: int | None = None,
) -> Sampler:
    """Draws a data set with a fixed share, then one of its rows uniformly.

    Args:
      shares: data set's name -> relative share, for every data set.

    Raises:
      UserError: a data set without a share, or a share without a data set.
    """
    names = [dataset.name for dataset in datasets]
    if sorted(names) != sorted(shares):
        raise UserError(
            "the shares do not fit the data sets",
            where="shares",
            expected=", ".join(names),
            found=", ".join(shares),
            fix="give each set of data.train one share, by its name",
        )
    sizes = [len(dataset) for dataset in datasets]
    probabilities = weighting.mixture(sizes, [shares[name] for name in names])
    return Weighted(probabilities, epoch_size=epoch_size or sum(sizes), seed=seed)


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "natural": natural,
    "thesis": thesis,
    "balanced": balanced,
    "mixture": mixture,
}


def make(name: str, **arguments: Any) -> MakeSampler:
    """Returns the sampler `name` with its own arguments set.

    Args:
      name: a key of SAMPLERS.
      **arguments: its keyword arguments (epoch_size, emotion_share, shares).

    Raises:
      UserError: an unknown name, or arguments that the sampler does not take or lacks.
    """
    if name not in SAMPLERS:
        raise UserError(
            "unknown sampler",
            where="data.sampler.name",
            expected=f"one of {', '.join(SAMPLERS)}",
            found=repr(name),
            fix="take one of them",
        )
    try:
        inspect.signature(SAMPLERS[name]).bind((), 0, **arguments)
    except TypeError as error:
        raise UserError(
            f"sampler {name!r}: {error}",
            where="data.sampler",
            fix="correct its arguments",
        ) from error
    return functools.partial(SAMPLERS[name], **arguments)


def _labels(datasets: Sequence[PreparedDataset]) -> dict[str, np.ndarray]:
    labelled = {task for dataset in datasets for task in dataset.labels}
    return {task: concatenate_labels(datasets, task) for task in TASKS if task in labelled}
