"""The common base of the TFDS builders: rows in, encoded pictures and labels out."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from softbio_jax.data.prepare import beam
from softbio_jax.data.prepare.account import Account, Checked, Journal
from softbio_jax.data.prepare.ingest import ingest
from softbio_jax.data.prepare.rows import Outcome
from softbio_jax.data.prepare.storage import Storage
from softbio_jax.data.prepare.survey import SplitSurvey, survey
from softbio_jax.data.sampling import digest_of
from softbio_jax.errors import UserError
from softbio_jax.registry import Registry
from softbio_jax.tasks import MISSING


class _OwnInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Asks no bucket for a set of this name, and leaves no folder for what it would say."""


BUILDERS = Registry[type["FaceBuilder"]]("data set", where="--dataset", group="softbio_jax.data_sets")


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
      remake: prepares by Apache Beam; makes this builder again in a worker.
      on_row: called once a row, for a progress bar.
    """

    VERSION = tfds.core.Version("1.0.0")
    TASKS: tuple[str, ...] = ()
    COLUMNS: tuple[str, ...] = ()
    OWN_PICTURES = False  # whatever people have, not a published set of crops

    def __init__(
        self,
        *,
        source: str | os.PathLike,
        data_dir: str | os.PathLike,
        max_rejected: float = 0.05,
        threads: int = 0,
        storage: Storage = Storage(),
        journals: pathlib.Path | None = None,
        remake: Callable[[], FaceBuilder] | None = None,
        on_row: Callable[[], None] = lambda: None,
    ):
        self.source = pathlib.Path(source)
        self.max_rejected = max_rejected
        self.threads = threads or os.cpu_count() or 1
        self.storage = storage
        self.journals = journals
        self.remake = remake
        self.on_row = on_row
        self.accounts: dict[str, Account] = {}
        super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    def splits(self) -> tuple[str, ...]:
        """Names the splits that the source has, and stops with one line if it is not complete."""
        raise NotImplementedError

    def rows(self, split: str) -> Iterator[Outcome]:
        """Yields the rows of a split in the source's own order."""
        raise NotImplementedError

    def groups(self, split: str) -> Sequence[str]:
        """Names the parts of a split that can be prepared apart from each other, by Beam."""
        raise UserError(
            "Apache Beam is for data sets that come in groups",
            where="--beam",
            expected="--dataset=vggface2",
            found=f"--dataset={self.name}",
            fix="leave --beam out",
        )

    def group_rows(self, split: str, group: str) -> Iterator[Outcome]:
        """Yields the rows of one group."""
        raise NotImplementedError

    def survey(self, split: str, *, files: bool = False) -> SplitSurvey:
        """Goes through the labels of a split; looks for the picture files if `files`."""
        crops = not self.OWN_PICTURES or self.storage.crops or self.storage.face_finder is not None
        return survey(self.rows(split), files=files, sizes=not crops)

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
        return _OwnInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            # The records keep the order of the source, which is the order of the index.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in self.splits()}

    def example(self, checked: Checked) -> dict[str, Any]:
        """Lays a checked row out as the features of a record."""
        row = checked.row
        example: dict[str, Any] = {"image": checked.data, "id": row.id}
        example |= {task: row.labels.get(task, MISSING) for task in self.TASKS}
        return example | {name: row.columns.get(name, "") for name in self.COLUMNS}

    def _generate_examples(self, split: str) -> Any:
        account = Account(split, tasks=self.TASKS, columns=self.COLUMNS)
        self.accounts[split] = account
        if self.remake is not None:
            return beam.examples(self.groups(split), split, self.remake, self._outcomes)
        return self._examples(split, account)

    def collect_groups(self) -> None:
        """Completes the accounts after a run of Beam, whose workers shared no memory."""
        for split, account in self.accounts.items():
            beam.collect(account, len(self.groups(split)), self._outcomes)
            account.verify(max_rejected=self.max_rejected)

    @property
    def _outcomes(self) -> str:
        return os.path.join(self.data_dir_root, "outcomes")

    def _examples(self, split: str, account: Account) -> Iterator[tuple[int, dict]]:
        checked_rows = ingest(
            self.rows(split),
            account,
            threads=self.threads,
            transform=self.storage,
            journal=self._journal(split),
            on_row=self.on_row,
        )
        for key, checked in enumerate(checked_rows):
            yield key, self.example(checked)
        account.verify(max_rejected=self.max_rejected)
