"""One training set in two parts, by the pictures' stable ids: one pretrains, the other adapts."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from softbio_jax.data import split
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.reproduction.study import Pretrain
from softbio_jax.train.config import DataConfig
from softbio_jax.train.data import RunData, open_all, open_tests


def halves(
    ids: Sequence[str] | np.ndarray, *, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits N pictures by the SHA-256 of seed and id: which part one is in depends on nothing
    else but its rank among the others, not on their order.

    Args:
      ids: (N,) different strings.
      fraction: the first part's share.
      seed: which split.

    Returns:
      (rows of the first part, rows of the second), int64, each ascending.

    Raises:
      UserError: a share that leaves one of the parts empty.
    """
    digests = [hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in ids]
    order, first = np.argsort(np.array(digests)), round(fraction * len(digests))
    if not 0 < first < len(order):
        raise UserError("a part without pictures", where="config.pretrain.fraction",
                        found=f"{fraction} of {len(order)}", fix="set another share")  # fmt: skip
    return np.sort(order[:first]), np.sort(order[first:])


def pretraining_rows(settings: Pretrain, root: str) -> PreparedDataset:
    """Opens the part of the training set that pretrains the tower."""
    dataset = _open(root, settings.data)
    return dataset.take(_parts(dataset, settings)[0])


def identities(settings: Pretrain, root: str) -> dict[str, Any]:
    """Returns n and the SHA-256 of the sorted ids of both parts."""
    dataset, told = _open(root, settings.data), {}
    for role, rows in zip(("pretraining", "adaptation"), _parts(dataset, settings), strict=True):
        names = "\n".join(sorted(dataset.columns["id"][rows]))
        told[role] = {"n": len(rows), "ids_sha256": hashlib.sha256(names.encode()).hexdigest()}
    return told


def open_run(config: DataConfig, settings: Pretrain | None) -> RunData:
    """Opens a run's data sets as `open_all` does, without the pictures that pretrained its tower.

    Args:
      config: the run's data.
      settings: how the tower was made; None: not from these data.
    """
    if settings is None:
        return open_all(config)
    sets = []
    for entry in config.train:
        dataset = _open(config.root, entry)
        if entry == settings.data:
            dataset = dataset.take(_parts(dataset, settings)[1])
        sets.append(dataset)
    train, val = split.split_each(
        sets, seed=config.split_seed, val_fraction=config.val_fraction
    )  # fmt: skip
    return RunData(train=train, val=val, test=open_tests(config.root, config.test))


def _parts(dataset: PreparedDataset, settings: Pretrain) -> tuple[np.ndarray, np.ndarray]:
    return halves(dataset.columns["id"], fraction=settings.fraction, seed=settings.split_seed)


def _open(root: str, entry: str) -> PreparedDataset:
    whole = dataclasses.replace(_ONE, root=root, train=(entry,))
    return open_all(whole).train[0]


_ONE = DataConfig(root="", train=(), val_fraction=0.0)
