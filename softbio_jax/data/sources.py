"""Prepared records as random-access data sets with their labels in memory."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from softbio_jax.data import features
from softbio_jax.data import index as index_lib
from softbio_jax.errors import UserError
from softbio_jax.safety import damage
from softbio_jax.tasks import MISSING


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PreparedDataset:
    """One split of a prepared data set, or some of its rows.

    `len(dataset)` is the number of examples N and `dataset[i]` the encoded bytes of image i. The
    record files are opened at the first access, and again in every process that receives the object.
    Every record is compared with the index as it is read: its id and a check of its bytes.
    """

    directory: str  # the folder that scripts/prepare_data.py wrote
    name: str
    split: str
    labels: dict[str, np.ndarray]  # task -> (N,) int32, MISSING where unknown
    columns: dict[str, np.ndarray]  # audit columns, (N,) str each, and `id`, the image's permanent name
    fingerprint: str  # SHA-256 (hex): that of the index, and the choice of rows
    records: np.ndarray  # (N,) int64, the record that holds each example
    checks: np.ndarray | None = None  # (N,) uint32, `index.sample_check` of each image; None: unknown

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, example: int) -> bytes:
        """Returns the encoded bytes of an image.

        Raises:
          UserError: a record that is damaged or belongs to another index; names its file.
        """
        try:
            record = self._source[int(self.records[example])]
            image, name = record["image"], record["id"]
            if not (isinstance(image, bytes) and isinstance(name, bytes)):
                raise ValueError("a record without image or id")  # the end of a truncated file
        except Exception as error:
            if isinstance(error, UserError) or damage.refusal(error):
                raise
            raise self._mistake("a damaged record", example, found=damage.reason(error)) from error
        self._compare(example, image, name)
        return image

    def _compare(self, example: int, image: bytes, name: bytes) -> None:
        """Raises UserError unless a record is the one that the index describes."""
        expected, what = self.columns["id"][example], "records and index do not belong together"
        if name != expected.encode():
            found = repr(name.decode(errors="replace"))
            raise self._mistake(what, example, expected=repr(str(expected)), found=found)
        if self.checks is not None and index_lib.sample_check(image) != self.checks[example]:
            found = f"another image of {str(expected)!r}"
            raise self._mistake(what, example, expected="the bytes that the index describes", found=found)

    def _mistake(self, what: str, example: int, *, expected: str = "", found: str) -> UserError:
        """Returns the error of an example's record, which names its file."""
        file, record = self.directory, int(self.records[example])
        shards = self._source.dataset_info.splits[self.split]
        ends = np.cumsum(shards.shard_lengths)
        if record < ends[-1]:
            file = str(shards.filepaths[int(np.searchsorted(ends, record, side="right"))])
        where, fix = f"{file} record {record}", "restore the file from a copy, or prepare the data again"
        return UserError(what, where=where, expected=expected, found=found, fix=fix)

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
            checks=None if self.checks is None else self.checks[rows],
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
    _check_report(folder, split, index)
    dataset = PreparedDataset(
        directory=str(folder),
        name=folder.resolve().name,
        split=split,
        labels=index.labels,
        columns=index.columns | {"id": index.ids},
        fingerprint=index.fingerprint(),
        records=np.arange(len(index)),
        checks=None if index.checks is None else np.ascontiguousarray(index.checks[:, 0]),
    )
    dataset.__dict__["_source"] = source  # opened already to count the records
    for example in {0, len(index) - 1} if len(index) else ():
        dataset[example]  # another set's records are an error here, not in the middle of a run
    return dataset


def concatenate_labels(datasets: Sequence[PreparedDataset], task: str) -> np.ndarray:
    """Returns the labels of a task, (N,) int32 over all data sets, MISSING where one lacks it."""
    parts = [np.zeros(0, np.int32)]
    parts += [d.labels.get(task, np.full(len(d), MISSING, np.int32)) for d in datasets]
    return np.concatenate(parts)


def _check_report(folder: pathlib.Path, split: str, index: index_lib.Index) -> None:
    """Raises UserError unless the report, where there is one, has the fingerprint of the index."""
    path = folder / index_lib.REPORT
    if not path.is_file():
        return
    report = index_lib.read_report(folder)
    try:
        reported = report["splits"][split]["fingerprint"]
        if not isinstance(reported, str):
            raise TypeError(f"a fingerprint of type {type(reported).__name__}")
    except (KeyError, TypeError) as error:
        raise index_lib.broken_report(path, found=f"no fingerprint of split {split!r}") from error
    index_lib.check_fingerprint(index, reported, index_lib.path_of(folder, split), of=index_lib.REPORT)


def _open_records(directory: str, split: str) -> Any:
    import tensorflow_datasets as tfds

    features.check(directory)  # TFDS imports the classes that it names
    try:
        builder = tfds.builder_from_directory(directory)
        # The bytes are decoded by softbio_jax.data.decode, which is several times faster.
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        len(source)  # reads the ends of the files, where damage shows
        return source
    except Exception as error:  # its files are parsed by several libraries, each with its own errors
        if damage.refusal(error):
            raise
        raise UserError(
            "broken records",
            where=f"{directory}, split {split!r}",
            expected="what scripts/prepare_data.py writes",
            found=damage.reason(error),
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
