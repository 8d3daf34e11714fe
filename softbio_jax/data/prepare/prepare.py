"""From a folder as people have it to records, an index and a report, all or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import io
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import logging

from softbio_jax import files
from softbio_jax.data import index as index_lib
from softbio_jax.data.audit import expected
from softbio_jax.data.builders import BUILDERS
from softbio_jax.data.prepare import beam
from softbio_jax.data.prepare.base import FaceBuilder
from softbio_jax.data.prepare.survey import SplitSurvey
from softbio_jax.errors import UserError

REPORT = index_lib.REPORT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """What is there before any picture is read, split by split."""

    splits: dict[str, SplitSurvey]

    @property
    def rows(self) -> dict[str, int]:
        """The number of rows of each split."""
        return {split: part.rows for split, part in self.splits.items()}


def survey(dataset: str, *, source: str, **options: Any) -> Survey:
    """Checks a source without reading a picture: layout, columns, classes, missing files.

    Args:
      dataset: a key of BUILDERS.
      source: the folder as people have it.
      **options: the builder's own options.

    Returns:
      The rows found and the picture files missing, split by split.

    Raises:
      UserError: the first thing that is missing or wrong.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return _survey(_builder(dataset, source=source, data_dir=scratch, **options), files=True)


def prepare(
    dataset: str,
    *,
    source: str,
    out: str | os.PathLike,
    overwrite: bool = False,
    beam_options: Sequence[str] | None = None,
    on_survey: Callable[[Survey], None] = lambda survey: None,
    on_row: Callable[[], None] = lambda: None,
    **options: Any,
) -> dict:
    """Writes a data set's records, indices and report under `out`.

    Everything is written beside `out` first and renamed at the end, so that `out` is either
    whole or not there. A preparation that was killed goes on when it is started again: pictures
    that it had checked are read but not decoded, cut or resized another time.

    Args:
      dataset: a key of BUILDERS.
      source: the folder as people have it.
      out: the folder to make.
      overwrite: replace `out` if it is there.
      beam_options: prepare by Apache Beam with these flags of its own ("--runner=...").
      on_survey: gets the number of rows before the pictures are read.
      on_row: called once a row, for a progress bar; never by Beam.
      **options: the builder's own options.

    Returns:
      The report, as in `out`/report.json.

    Raises:
      UserError: the source is not what it should be, or `out` exists.
    """
    out = pathlib.Path(out)
    if out.exists() and not overwrite:
        raise UserError("the output exists", where=str(out), fix="give another --out or pass --overwrite")
    start = time.monotonic()
    with _scratch(out) as scratch:
        records_root = scratch / "records"
        shutil.rmtree(records_root, ignore_errors=True)  # what a process that was cut off left
        common = {"source": source, "data_dir": records_root}
        if beam_options is None:
            builder = _builder(dataset, **common, journals=scratch, on_row=on_row, **options)
        else:
            remake = functools.partial(_builder, dataset, **common, **options)
            builder = _builder(dataset, **common, remake=remake, **options)
            builder.groups(builder.splits()[0])  # a data set without groups stops here
        on_survey(_survey(builder, files=False))
        _write_records(builder, beam_options)
        folder = pathlib.Path(builder.data_dir)
        if builder.storage.encoding == "raw":
            uncompress(folder)
        for split, account in builder.accounts.items():
            index_lib.write(account.index(), folder, split)
        report = _report(builder, seconds=time.monotonic() - start)
        (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n")
        if out.exists():
            out.rename(scratch / "replaced")  # deleted with the rest, once the new one stands
        folder.rename(out)
        return report


def read_report(directory: str | os.PathLike) -> dict:
    """Reads the report of a prepared folder.

    Raises:
      UserError: there is none.
    """
    path = pathlib.Path(directory) / REPORT
    if not path.is_file():
        raise UserError(
            "not prepared data",
            where=str(directory),
            expected=REPORT,
            found="none",
            fix="run scripts/prepare_data.py",
        )
    return json.loads(path.read_text())


@contextlib.contextmanager
def _scratch(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a hidden folder beside `out` that outlives nothing but the end of the process."""
    scratch = out.parent / f".{out.name}.partial"
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                "another preparation is at work", where=str(out), fix="wait for it to end"
            ) from error
        try:
            yield scratch
        except KeyboardInterrupt:
            raise  # to be gone on with
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        shutil.rmtree(scratch, ignore_errors=True)


def _builder(dataset: str, **options: Any) -> FaceBuilder:
    return BUILDERS[dataset](**options)


def _survey(builder: FaceBuilder, *, files: bool) -> Survey:
    splits, copy_of = {}, expected.set_of(builder.name, builder.protocol())
    for split in builder.splits():
        found = builder.survey(split, files=files)
        expected.check(copy_of, split, rows=found.labelled, counts=found.classes)
        found.check_crops(split)
        splits[split] = found
    return Survey(splits=splits)


def _write_records(builder: FaceBuilder, beam_options: Sequence[str] | None) -> None:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        # TFDS tells of downloads, which there are none of, and of its scratch folder.
        with contextlib.redirect_stdout(io.StringIO()):
            if beam_options is None:
                builder.download_and_prepare()
            else:
                builder.download_and_prepare(download_config=beam.config(beam_options))
                builder.collect_groups()
    finally:
        logging.set_verbosity(verbosity)


def _report(builder: FaceBuilder, *, seconds: float) -> dict:
    splits = {split: account.report() for split, account in builder.accounts.items()}
    read = sum(split["rows_read"] for split in splits.values())
    return {
        "dataset": builder.name,
        "version": str(builder.version),
        "protocol": builder.protocol() | builder.storage.protocol(),
        "splits": splits,
        "seconds": round(seconds, 3),
        "images_per_second": round(read / max(seconds, 1e-9), 1),
    }


def uncompress(directory: pathlib.Path) -> None:
    """Rewrites the record files of a folder without compression, one record at a time.

    TFDS compresses all records; raw pictures are then read at a fifth of the speed, for files
    that are a fifth smaller.

    Args:
      directory: the folder of the record files.
    """
    from array_record.python import array_record_data_source, array_record_module

    for path in sorted(directory.glob("*.array_record-*")):
        with files.atomic_file(path) as temporary:
            writer = array_record_module.ArrayRecordWriter(os.fspath(temporary), "group_size:1,uncompressed")
            with array_record_data_source.ArrayRecordDataSource(os.fspath(path)) as records:
                for number in range(len(records)):
                    writer.write(records[number])
            writer.close()
