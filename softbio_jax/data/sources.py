"""Prepared records as random-access data sets with their labels in memory."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from softbio_jax.data import features
from softbio_jax.data import index as index_lib
from softbio_jax.errors import UserError
from softbio_jax.safety import damage
from softbio_jax.tasks import MISSING

if TYPE_CHECKING:
    from softbio_jax.data.partial.targets import Targets


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PreparedDataset:
    """One split of a prepared data set, or some of its rows.

    `len(dataset)` is the number of examples N and `dataset[i]` the encoded bytes of image i. The
    record files are opened at the first access, and again in every process that receives the object.
    Every record is compared with the index as it is read: by a check of its bytes, and by its id where
    the index has no checks (version 0.1).
    """

    directory: str  # the folder that scripts/prepare_data.py wrote
    name: str
    split: str
    labels: dict[str, np.ndarray]  # task -> (N,) int32, MISSING where unknown
    columns: dict[str, np.ndarray]  # audit columns, (N,) str each, and `id`, the image's permanent name
    fingerprint: str  # SHA-256 (hex): that of the index, and the choice of rows
    records: np.ndarray  # (N,) int64, the record that holds each example
    checks: np.ndarray | None = None  # (N,) uint32, `damage.sample_check` of each image; None: unknown
    # task -> weights that replace the labels in training, see `partial.targets.attach`
    targets: Mapping[str, Targets] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, example: int) -> bytes:
        """Returns the encoded bytes of an image.

        Raises:
          UserError: a record that is damaged or belongs to another index; names its file.
        """
        try:
            features = self._source[self.records.item(example)]
            image = features["image"].bytes_list.value[0]
        except Exception as error:
            raise self._damaged(example, error) from error
        # Its bytes are the index's; reading the id as well would double the cost.
        if self.checks is None or damage.sample_check(image) != self.checks.item(example):
            self._identify(example, features)
        return image

    def _identify(self, example: int, features: Any) -> None:
        """Raises UserError unless the id alone decides, and the record has that of the index."""
        try:
            name = features["id"].bytes_list.value[0]
        except Exception as error:
            raise self._damaged(example, error) from error
        expected = str(self.columns["id"][example])
        if self.checks is None and name == expected.encode():
            return
        found, wanted = repr(name.decode(errors="replace")), repr(expected)
        if name == expected.encode():
            found, wanted = f"another image of {expected!r}", "the bytes that the index describes"
        what = "records and index do not belong together"
        raise self._mistake(what, example, expected=wanted, found=found)

    def _damaged(self, example: int, error: Exception) -> Exception:
        """Returns the error of a record that cannot be read; a disk that refuses keeps its own."""
        if isinstance(error, UserError) or damage.refusal(error):
            return error
        # The end of a truncated file can be a record without fields.
        found = "a record without image or id" if isinstance(error, IndexError) else damage.reason(error)
        return self._mistake("a damaged record", example, found=found)

    def _mistake(self, what: str, example: int, *, expected: str = "", found: str) -> UserError:
        """Returns the error of an example's record, which names its file."""
        file, record = self.directory, int(self.records[example])
        shards = self._source.shards
        ends = np.cumsum(shards.shard_lengths)
        if record < ends[-1]:
            file = str(shards.filepaths[int(np.searchsorted(ends, record, side="right"))])
        where, fix = f"{file} record {record}", "restore the file from a copy, or prepare the data again"
        return UserError(what, where=where, expected=expected, found=found, fix=fix)

    def take(self, rows: np.ndarray) -> PreparedDataset:
        """Returns the M examples `rows`, integers in [0, N), in their order; repetitions are allowed."""
        rows = np.asarray(rows, dtype=np.int64)
        return dataclasses.replace(
            self,
            labels={task: values[rows] for task, values in self.labels.items()},
            columns={name: values[rows] for name, values in self.columns.items()},
            fingerprint=_fingerprint_of_rows(self.fingerprint, rows),
            records=self.records[rows],
            checks=None if self.checks is None else self.checks[rows],
            targets={task: found.take(rows) for task, found in self.targets.items()},
        )

    def fingerprints(self) -> tuple[str, ...]:
        """Returns the fingerprint, and that of the same examples in a preparation of version 0.1.

        The latter covers ids, labels and the images of the source, but not how they are stored.
        """
        if self.checks is None:
            return (self.fingerprint,)
        index = index_lib.read(pathlib.Path(self.directory), self.split)
        older = dataclasses.replace(index, checks=None).fingerprint()
        if self.fingerprint != index.fingerprint():
            older = _fingerprint_of_rows(older, self.records)
        return self.fingerprint, older

    @functools.cached_property
    def _source(self) -> _Records:
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


def _fingerprint_of_rows(fingerprint: str, rows: np.ndarray) -> str:
    return hashlib.sha256(fingerprint.encode() + rows.astype("<i8").tobytes()).hexdigest()


def concatenate_labels(datasets: Sequence[PreparedDataset], task: str) -> np.ndarray:
    """Returns the labels of a task, (N,) int32 over all data sets, MISSING where one lacks it."""
    parts = [np.zeros(0, np.int32)]
    parts += [d.labels.get(task, np.full(len(d), MISSING, np.int32)) for d in datasets]
    return np.concatenate(parts)


def concatenate_targets(datasets: Sequence[PreparedDataset], tasks: Sequence[str]) -> dict[str, Targets]:
    """Returns the targets over all data sets of the tasks that have any; see `partial.targets`."""
    if not any(dataset.targets for dataset in datasets):
        return {}
    from softbio_jax.data.partial import targets

    found = {task: targets.concatenate(datasets, task) for task in tasks}
    return {task: both for task, both in found.items() if both is not None}


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


class _Records:
    """The record files of a split, each record as its map of features.

    TFDS would turn every feature into an array, labels included, which the index has already; for
    uncompressed images that took as long as reading them.
    """

    def __init__(self, directory: str, split: str):
        from softbio_jax.data.tfds import tf_example_pb2, tfds

        builder = tfds.builder_from_directory(directory)
        self._parse = tf_example_pb2.Example.FromString
        self._data = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        ).data_source
        self.shards = builder.info.splits[split]

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, record: int) -> Any:
        return self._parse(self._data[record]).features.feature


def _open_records(directory: str, split: str) -> _Records:
    features.check(directory)  # TFDS imports the classes that it names
    try:
        source = _Records(directory, split)
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

    With a `val_fraction` of 0 there are no validation parts. A set without a label has none: it can only be
    learned from with a teacher.
    """
    if not val_fraction:
        return list(datasets), []
    train, val = [], []
    for dataset in datasets:
        if not any((labels != MISSING).any() for labels in dataset.labels.values()):
            train.append(dataset)
            continue
        kept, held = train_val(len(dataset), seed=seed, val_fraction=val_fraction)
        train.append(dataset.take(kept))
        val.append(dataset.take(held))
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
