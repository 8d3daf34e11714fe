"""The common base of the TFDS builders: rows in, encoded images and labels out."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.console import QUIET, Console, Meter
from softbio_jax.data.prepare import beam, layouts, locate, splitting
from softbio_jax.data.prepare.account import Account, Checked, Journal
from softbio_jax.data.prepare.ingest import ingest
from softbio_jax.data.prepare.locate import Layout, Place
from softbio_jax.data.prepare.rows import Outcome, Row, Skip
from softbio_jax.data.prepare.storage import Storage
from softbio_jax.data.prepare.survey import SplitSurvey, survey
from softbio_jax.data.sampling import digest_of
from softbio_jax.data.tfds import tfds
from softbio_jax.errors import UserError
from softbio_jax.registry import Registry
from softbio_jax.tasks import MISSING

DROPPED = "left out by --drop"
BUILDERS = Registry[type["FaceBuilder"]]("data set", where="--dataset", group="softbio_jax.data_sets")


class _LocalInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Does nothing: TFDS would look for a public data set of this name."""


class FaceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes a set of labelled faces as array_record files that need no TensorFlow to be read.

    A subclass names its splits, tasks and audit columns and yields the rows. Images are stored as
    the encoded bytes of the source: TFDS would need TensorFlow to encode arrays.

    Args:
      source: the folder as distributed.
      data_dir: where TFDS writes `name/version/`.
      max_rejected: the maximum share of rejected rows per split.
      threads: number of images checked at the same time; 0: one per core.
      storage: how images are stored; by default unchanged.
      split: of a source without splits, the fraction of the subjects that are "train"; the others are "test".
      drop: split -> ids of images that are left out.
      journals: a folder for the images already checked, so that a later run can resume.
      remake: prepares with Apache Beam; makes this builder again in a worker.
      console: its `check` is called for every row.
    """

    VERSION = tfds.core.Version("1.0.0")
    TASKS: tuple[str, ...] = ()
    COLUMNS: tuple[str, ...] = ()
    LAYOUTS: tuple[Layout, ...] = ()  # of a published set, the preferred ones first
    TITLE = ""  # the published set's name, for messages
    OWN_IMAGES = False  # a user's own images, not a published set of crops
    BOXED = False  # the faces are cut out by the annotation's boxes

    def __init__(
        self,
        *,
        source: str | os.PathLike[str],
        data_dir: str | os.PathLike[str],
        max_rejected: float = 0.05,
        threads: int = 0,
        storage: Storage = Storage(),
        split: float | None = None,
        drop: Mapping[str, Collection[str]] | None = None,
        journals: pathlib.Path | None = None,
        remake: Callable[[], FaceBuilder] | None = None,
        console: Console = QUIET,
    ):
        self.source = pathlib.Path(source).expanduser()
        self.max_rejected = max_rejected
        self.threads = threads or os.cpu_count() or 1
        self.storage = storage
        self.split = split
        self.drop = {part: frozenset(ids) for part, ids in (drop or {}).items()}
        self.journals = journals
        self.remake = remake
        self.console = console
        self.meter: Meter | None = None  # counts the rows
        self.accounts: dict[str, Account] = {}
        self.open_files = contextlib.ExitStack()  # the journals; whoever prepares closes them
        super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    @classmethod
    def recognise(cls, folder: pathlib.Path) -> Iterator[layouts.Proposal]:
        """Yields what a folder looks like to this builder, for errors about another one."""
        layout = next((layout for layout in cls.LAYOUTS if layout.distinct and layout.fits(folder)), None)
        if layout is not None:
            yield layouts.Proposal(f"{cls.TITLE or cls.name}, {layout.shown}", str(folder), layout.flags)

    def splits(self) -> tuple[str, ...]:
        """Returns the splits of the source; raises UserError if the source is incomplete."""
        raise NotImplementedError

    def rows(self, split: str) -> Iterator[Outcome]:
        """Yields the rows of a split in the source's own order."""
        raise NotImplementedError

    @functools.cached_property
    def place(self) -> Place:
        """The layout of the source and where it starts; raises UserError if there is none."""
        return locate.find(self.source, self.LAYOUTS, what=self.TITLE)

    def parts(self) -> tuple[str, ...]:
        """Returns the splits that are written: those of the source, or its parts; raises like `splits`."""
        splits = self.splits()
        if self.split is None:
            return splits
        splitting.require_share(self.split, splits)
        return splitting.PARTS

    def part_rows(self, part: str) -> Iterator[Outcome]:
        """Yields the rows of one of the `parts`."""
        if self.split is None:
            return self.rows(part)
        return splitting.divide(self.rows(self.splits()[0]), self._training_subjects, part=part)

    def kept_rows(self, part: str) -> Iterator[Outcome]:
        """Yields the rows of a part, those of `drop` as skips."""
        dropped = self.drop.get(part, frozenset())
        for row in self.part_rows(part):
            yield Skip(DROPPED) if isinstance(row, Row) and row.id in dropped else row

    @functools.cached_property
    def _training_subjects(self) -> frozenset[str]:
        return splitting.training_subjects(self.rows(self.splits()[0]), share=self.split or 0.0)

    def groups(self, split: str) -> Sequence[str]:
        """Returns the parts of a split that Beam can prepare independently."""
        what, found = "Apache Beam is for data sets that come in groups", f"--dataset={self.name}"
        raise UserError(what, where="--beam", expected="--dataset=vggface2", found=found, fix="omit --beam")

    def group_rows(self, split: str, group: str) -> Iterator[Outcome]:
        """Yields the rows of one group."""
        raise NotImplementedError

    def survey(self, split: str, *, files: bool = False) -> SplitSurvey:
        """Reads the labels of a split; looks for the image files if `files`."""
        crops = not self.OWN_IMAGES or self.storage.crops or self.storage.face_finder is not None
        return survey(self.part_rows(split), files=files, sizes=not crops)

    def protocol(self) -> dict[str, str]:
        """Returns the choices that shape the data set, for the report."""
        return {}

    def choices(self) -> dict[str, str]:
        """Returns the protocol with the choices that every data set has."""
        split = {} if self.split is None else {"split": f"{self.split:g} by subject"}
        drop = {"drop": f"{sum(map(len, self.drop.values()))} images"} if self.drop else {}
        return self.protocol() | split | drop | self.storage.protocol()

    def margin(self) -> float | None:
        """Returns the margin around the faces of the source's crops, None where it is not known."""
        return None

    def crop(self) -> dict[str, Any]:
        """Returns how the stored images are cut: "cut" in words, and the "margin", see `Storage`."""
        if self.storage.face_finder is not None:
            return {"cut": "the square around the found face", "margin": 0.0}
        known = self.margin() if self.storage.margin is None else self.storage.margin
        return {"cut": "the annotated box" if self.BOXED else "as distributed", "margin": known}

    def example(self, checked: Checked) -> dict[str, Any]:
        """Returns the features of a row's record."""
        row = checked.row
        example: dict[str, Any] = {"image": checked.data, "id": row.id}
        example |= {task: row.labels.get(task, MISSING) for task in self.TASKS}
        return example | {name: row.columns.get(name, "") for name in self.COLUMNS}

    def collect_groups(self) -> None:
        """Completes the accounts after a run of Beam, whose workers share no memory."""
        for split, account in self.accounts.items():
            beam.collect(account, len(self.groups(split)), self._group_accounts)
            account.verify(max_rejected=self.max_rejected)

    @property
    def _group_accounts(self) -> str:
        return os.path.join(self.data_dir_root, "outcomes")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(shape=(None, None, 3)), "id": tfds.features.Text()}
        features |= {task: tfds.features.Scalar(np.int32) for task in self.TASKS}
        features |= {column: tfds.features.Text() for column in self.COLUMNS}
        return _LocalInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            # The records keep the order of the source, which is the order of the index.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in self.parts()}

    def _generate_examples(self, split: str) -> Any:
        self.accounts[split] = account = Account(split, tasks=self.TASKS, columns=self.COLUMNS)
        if self.remake is not None:
            if self.split is not None:
                raise UserError("parts cannot be made with Apache Beam", where="--split", fix="omit --beam")
            if self.drop:
                raise UserError(
                    "no image can be left out with Apache Beam", where="--drop", fix="omit --beam"
                )
            return beam.examples(self.groups(split), split, self.remake, self._group_accounts)
        return self._examples(split, account)

    def _examples(self, split: str, account: Account) -> Iterator[tuple[int, dict]]:
        checked_rows = ingest(
            self.kept_rows(split),
            account,
            threads=self.threads,
            transform=self.storage,
            journal=self._journal(split),
            console=self.console,
            meter=self.meter,
        )
        for key, checked in enumerate(checked_rows):
            yield key, self.example(checked)
        account.verify(max_rejected=self.max_rejected)

    def _journal(self, split: str) -> Journal | None:
        if self.journals is None:
            return None
        # Other choices store other bytes, so each combination of them has its own journal.
        choices = sorted(self.choices().items())
        path = self.journals / f"{digest_of(self.name, split, choices)}.sqlite"
        return self.open_files.enter_context(contextlib.closing(Journal(path)))
