"""What can be known to be wrong with a run's data before its first step."""

import pathlib
from collections.abc import Sequence

import numpy as np

from softbio_jax.data import index
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING
from softbio_jax.train.data import RunData

# Sets that people collected share a few pictures by accident (scripts/audit_data.py lists them);
# a larger share of a test set is a mistake that makes its results worthless.
_MOST_SHARED = 0.05


def check(data: RunData, *, tasks: Sequence[str], batch_size: int) -> None:
    """Raises UserError if a run's data cannot train or judge what it is to learn.

    Args:
      data: its sets.
      tasks: what it learns.
      batch_size: of training.

    Raises:
      UserError: a batch larger than the training set, a task without training labels, a test set
        without labels, or test pictures that are trained on.
    """
    rows = sum(map(len, data.train))
    if batch_size > rows:
        raise UserError("batch larger than the training set", where="train.batch_size",
                        expected=f"at most {rows:,} rows", found=f"{batch_size:,}",
                        fix="lower it or name more sets in data.train")  # fmt: skip
    for task in tasks:
        if not any(_labelled(dataset, task) for dataset in data.train):
            names = ", ".join(dataset.name for dataset in data.train)
            raise UserError(f"no training labels for {task}", where="data.train",
                            expected=f"a set with {task}", found=names,
                            fix=f"name one, or drop {task} from tasks")  # fmt: skip
    for dataset in data.test:
        if not any(_labelled(dataset, task) for task in tasks):
            raise UserError("a test set without labels of the tasks", where=_entry(dataset),
                            expected=" or ".join(tasks),
                            found=", ".join(t for t in dataset.labels if _labelled(dataset, t))
                            or "no label", fix="drop it from data.test")  # fmt: skip
    trained = _digests((*data.train, *data.val))
    for dataset in data.test:
        shared = np.isin(_digests([dataset]), trained)
        if shared.mean() > _MOST_SHARED:
            first = dataset.columns["id"][np.flatnonzero(shared)[0]]
            raise UserError("test pictures are trained on", where=_entry(dataset),
                            expected="pictures that data.train does not hold",
                            found=f"{shared.sum():,} of {len(shared):,} that it holds, bit for "
                            f"bit, the first {str(first)!r}",
                            fix="test on another split, or prepare one without them (scripts/"
                            "audit_data.py lists them)")  # fmt: skip


def _labelled(dataset: PreparedDataset, task: str) -> bool:
    return task in dataset.labels and bool((dataset.labels[task] != MISSING).any())


def _entry(dataset: PreparedDataset) -> str:
    return f"data.test: {dataset.name}/{dataset.split}"


def _digests(datasets: Sequence[PreparedDataset]) -> np.ndarray:
    """Returns the SHA-256 of every picture, (N,) of 32 opaque bytes each."""
    parts = [np.zeros((0, 32), np.uint8)]
    for dataset in datasets:
        whole = index.read(pathlib.Path(dataset.directory), dataset.split).digests
        parts.append(whole[dataset.records])
    return np.ascontiguousarray(np.concatenate(parts)).view("V32").reshape(-1)
