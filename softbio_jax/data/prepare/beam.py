"""Apache Beam, by TFDS's support for it, for data sets that are too large for one machine.

Each worker prepares groups of rows (VGGFace2: one identity per group) and writes the account of
each group beside the records; these are joined to the split's account at the end.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from softbio_jax.data.prepare.account import Account
from softbio_jax.data.prepare.ingest import ingest
from softbio_jax.errors import UserError

if TYPE_CHECKING:
    from softbio_jax.data.prepare.base import FaceBuilder

_ROWS_PER_GROUP = 10**7  # keys are group * this + row: the order of the source


def examples(groups: Sequence[str], split: str, remake: Callable[[], FaceBuilder], folder: str) -> Any:
    """Returns the Beam transform that yields (key, example) of a split.

    `remake` makes the builder in a worker and must be picklable; all workers write the accounts of
    their groups to `folder`.
    """
    import apache_beam as beam

    work = functools.partial(_group_examples, split=split, remake=remake, folder=folder)
    return beam.Create(list(enumerate(groups))) | beam.Reshuffle() | beam.FlatMap(work)


def collect(account: Account, num_groups: int, folder: str) -> None:
    """Adds the accounts of the groups, in order, to that of their split."""
    for number in range(num_groups):
        account.add_json(json.loads(_outcome(folder, account.split, number).read_text()))


def config(options: Sequence[str]) -> Any:
    """Returns TFDS's configuration of a run, from Beam's own flags such as "--runner=DirectRunner".

    Raises:
      UserError: Apache Beam is not installed.
    """
    from softbio_jax.data.tfds import tfds

    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        fix = "pip install apache-beam"
        raise UserError("Apache Beam is not installed", where="--beam", fix=fix) from error
    return tfds.download.DownloadConfig(beam_options=PipelineOptions(list(options)))


def _group_examples(
    group: tuple[int, str], *, split: str, remake: Callable[[], FaceBuilder], folder: str
) -> Iterator[tuple[int, dict]]:
    number, name = group
    builder = remake()
    account = Account(split, tasks=builder.TASKS, columns=builder.COLUMNS)
    rows = ingest(builder.group_rows(split, name), account, threads=1, transform=builder.storage)
    for row_number, checked in enumerate(rows):
        yield number * _ROWS_PER_GROUP + row_number, builder.example(checked)
    # A group that is prepared twice writes the same account twice.
    path = _outcome(folder, split, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(account.to_json()))


def _outcome(folder: str, split: str, number: int) -> epath.Path:
    return epath.Path(folder) / split / f"{number:07d}.json"
