"""Prepared records as random-access data sets with their labels in memory."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from softbio_jax.data import features
from softbio_jax.data import index as index_lib
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PreparedDataset:
    """One split of a prepared data set, or some of its rows.

    `len(dataset)` is the number of examples N and `dataset[i]` the encoded bytes of image i. The
    record files are opened at the first access, and again in every process that receives the object.

    """

    directory: str  # the folder that scripts/prepare_data.py wrote
    name: str
    split: str
    labels: dict[str, np.ndarray]  # task -> (N,) int32, MISSING where unknown
    columns: dict[str, np.ndarray]  # audit columns, (N,) str each, and `id`, the image's permanent name
    fingerprint: str  # SHA-256 (hex) over ids, labels, digests of the images, and the choice of rows
    records: np.ndarray  # (N,) int64, the record that holds each example

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, example: int) -> bytes:
        return self._source[int(self.records[example])]["image"]

    def take(self, rows: np.ndarray) -> PreparedDataset:
        """Returns the M examples `rows`, integers in [0, N), in their order; repetitions are allowed."""
        rows = np.asarray(rows, dtype=np.int64)
        digest = hashlib.sha256(self.fingerprint.encode() + rows.astype("<i8").tobytes())
        return dataclasses.replace(
            self,
            labels={task: values[rows] for task, values in self.labels.items()},
            columns={name: values[rows] for name, values in self.columns.items()},
            fingerprint=digest.hexdigest(),
            records=self.records[rows],
        )

    @functools.cached_property
    def _source(self) -> Any:
        return _open_records(self.directory, self.split)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_source"}


def open_prepared(directory: str | os.PathLike, split: str) -> PreparedDataset:
    """Opens a split, as its report lists them, of a folder that scripts/prepare_data.py wrote.

    Raises:
      UserError: no such folder or split, records and index that do not match, or labels that were
        edited after the preparation.
    """
    folder = pathlib.Path(directory).expanduser()
    index = index_lib.read(folder, split)
    source = _open_records(str(folder), split)
    if len(source) != len(index):
        what, where = "records and index do not belong together", f"{folder}, split {split!r}"
        expected, fix = f"{len(index)} records", "run scripts/prepare_data.py again"
        raise UserError(what, where=where, expected=expected, found=str(len(source)), fix=fix)
    fingerprint = index.fingerprint()
    _check_fingerprint(folder, split, fingerprint)
    dataset = PreparedDataset(
        directory=str(folder),
        name=folder.resolve().name,
        split=split,
        labels=index.labels,
        columns=index.columns | {"id": index.ids},
        fingerprint=fingerprint,
        records=np.arange(len(index)),
    )
    dataset.__dict__["_source"] = source  # opened already to count the records
    return dataset


def concatenate_labels(datasets: Sequence[PreparedDataset], task: str) -> np.ndarray:
    """Returns the labels of a task, (N,) int32 over all data sets, MISSING where one lacks it."""
    parts = [np.zeros(0, np.int32)]
    parts += [d.labels.get(task, np.full(len(d), MISSING, np.int32)) for d in datasets]
    return np.concatenate(parts)


def _check_fingerprint(folder: pathlib.Path, split: str, found: str) -> None:
    path = folder / index_lib.REPORT
    if not path.is_file():
        return
    reported = json.loads(path.read_text())["splits"].get(split, {}).get("fingerprint", found)
    if reported != found:
        where, found = str(index_lib.path_of(folder, split)), found[:12]
        expected = f"the fingerprint of its report, {reported[:12]}"
        fix = "correct the source instead and run scripts/prepare_data.py again"
        raise UserError("prepared data was edited", where=where, expected=expected, found=found, fix=fix)


def _open_records(directory: str, split: str) -> Any:
    import tensorflow_datasets as tfds

    features.check(directory)  # TFDS imports the classes that it names
    try:
        builder = tfds.builder_from_directory(directory)
        # The bytes are decoded by softbio_jax.data.decode, which is several times faster.
        return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise UserError(
            "broken records",
            where=f"{directory}, split {split!r}",
            expected="what scripts/prepare_data.py writes",
            found=str(error)[:200],
            fix="run scripts/prepare_data.py again",
        ) from error


def split_each(
    datasets: Sequence[PreparedDataset], *, seed: int, val_fraction: float
) -> tuple[list[PreparedDataset], list[PreparedDataset]]:
    """Splits every data set by `train_val` into (training parts, validation parts).

    With a `val_fraction` of 0 there are no validation parts.
    """
    if not val_fraction:
        return list(datasets), []
    rows = [train_val(len(d), seed=seed, val_fraction=val_fraction) for d in datasets]
    train = [dataset.take(kept) for dataset, (kept, _) in zip(datasets, rows, strict=True)]
    val = [dataset.take(held) for dataset, (_, held) in zip(datasets, rows, strict=True)]
    return train, val


def train_val(size: int, *, seed: int, val_fraction: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Draws round(val_fraction N) of `size` = N rows for validation, 0 < val_fraction < 1.

    Returns:
      (rows of the training part, rows of the validation part), int64, each ascending.

    Raises:
      UserError: one of the parts would be empty.
    """
    num_val = round(val_fraction * size)
    if not 0 < num_val < size:
        raise UserError(
            "a split without rows",
            where="data.val_fraction",
            expected="at least one row in each part",
            found=f"{val_fraction} of {size} rows",
            fix="set a share between 0 and 1 that is a row at least, or 0 for no validation",
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(size)
    return np.sort(order[num_val:]), np.sort(order[:num_val])
