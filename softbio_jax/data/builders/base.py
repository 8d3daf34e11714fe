"""The common base of the TFDS builders: rows in, encoded pictures and labels out."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from softbio_jax.data.ingest import Account, ingest
from softbio_jax.data.journal import Journal
from softbio_jax.data.rows import Outcome
from softbio_jax.data.sampling import digest_of
from softbio_jax.data.storage import Storage
from softbio_jax.tasks import MISSING


class FaceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes a set of labelled faces as array_record files that need no TensorFlow to be read.

    A subclass says which splits, tasks and audit columns there are and yields the rows. Pictures
    are stored as the encoded bytes of the source: TFDS would need TensorFlow to encode arrays.

    Args:
      source: the folder as people have it.
      data_dir: where TFDS puts `name/version/`.
      max_rejected: the share of rejected rows above which a split is given up.
      threads: how many pictures are checked at once; by default one a core.
      storage: what is done to the pictures before they are stored; by default nothing.
      journals: a folder for what is needed to go on when the process is cut off.
      on_row: called once a row, for a progress bar.
    """

    VERSION = tfds.core.Version("1.0.0")
    TASKS: tuple[str, ...] = ()
    COLUMNS: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        source: str | os.PathLike,
        data_dir: str | os.PathLike,
        max_rejected: float = 0.05,
        threads: int = 0,
        storage: Storage = Storage(),
        journals: pathlib.Path | None = None,
        on_row: Callable[[], None] = lambda: None,
    ):
        self.source = pathlib.Path(source)
        self.max_rejected = max_rejected
        self.threads = threads or os.cpu_count() or 1
        self.storage = storage
        self.journals = journals
        self.on_row = on_row
        self.accounts: dict[str, Account] = {}
        super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    def splits(self) -> tuple[str, ...]:
        """Names the splits that the source has, and stops with one line if it is not complete."""
        raise NotImplementedError

    def rows(self, split: str) -> Iterator[Outcome]:
        """Yields the rows of a split in the source's own order."""
        raise NotImplementedError

    def survey(self, split: str) -> int:
        """Goes through the labels of a split without its pictures and counts the rows."""
        return sum(1 for _ in self.rows(split))

    def protocol(self) -> dict[str, str]:
        """Tells the choices that shape the data set, for the report."""
        return {}

    def _journal(self, split: str) -> Journal | None:
        if self.journals is None:
            return None
        # Other choices store other bytes, so each combination of them has its own journal.
        choices = sorted((self.protocol() | self.storage.protocol()).items())
        return Journal(self.journals / f"{digest_of(self.name, split, choices)}.journal")

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict = {"image": tfds.features.Image(shape=(None, None, 3))}
        features["id"] = tfds.features.Text()
        features |= {task: tfds.features.Scalar(np.int32) for task in self.TASKS}
        features |= {column: tfds.features.Text() for column in self.COLUMNS}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            # The records keep the order of the source, which is the order of the index.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        return {split: self._generate_examples(split) for split in self.splits()}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        account = Account(split, tasks=self.TASKS, columns=self.COLUMNS)
        self.accounts[split] = account
        checked_rows = ingest(
            self.rows(split),
            account,
            threads=self.threads,
            max_rejected=self.max_rejected,
            transform=self.storage,
            journal=self._journal(split),
            on_row=self.on_row,
        )
        for key, checked in enumerate(checked_rows):
            row = checked.row
            example: dict = {"image": checked.data, "id": row.id}
            example |= {task: row.labels.get(task, MISSING) for task in self.TASKS}
            example |= {name: row.columns.get(name, "") for name in self.COLUMNS}
            yield key, example
