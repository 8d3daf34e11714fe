"""From a folder of images as distributed to records, an index and a report, all or nothing."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from softbio_jax import coverage, files
from softbio_jax.console import QUIET, Console
from softbio_jax.data import index as index_lib
from softbio_jax.data.audit import expected
from softbio_jax.data.builders import BUILDERS
from softbio_jax.data.index import REPORT
from softbio_jax.data.index import read_report as read_report
from softbio_jax.data.prepare import beam, layouts, tables
from softbio_jax.data.prepare.base import DROPPED, FaceBuilder
from softbio_jax.data.prepare.survey import SplitSurvey
from softbio_jax.errors import UserError
from softbio_jax.safety import locks
from softbio_jax.tasks import TASKS


def survey(dataset: str, *, source: str, **options: Any) -> dict[str, SplitSurvey]:
    """Checks a source without reading an image: layout, columns, classes, missing files.

    Takes the arguments of `prepare` and returns split -> survey.

    Raises:
      UserError: the first thing that is missing or wrong.
    """
    options = _at_home(options | {"source": source})
    with tempfile.TemporaryDirectory() as scratch, _explained(dataset, options):
        return _survey(BUILDERS[dataset](data_dir=scratch, **options), files=True)


def prepare(
    dataset: str,
    *,
    source: str,
    out: str | os.PathLike[str],
    overwrite: bool = False,
    beam_options: Sequence[str] | None = None,
    console: Console = QUIET,
    **options: Any,
) -> dict[str, Any]:
    """Writes a data set's records, indices and report under `out`.

    Everything is written beside `out` and renamed at the end, so that `out` is complete or absent.
    A preparation that was killed resumes when it is started again: images already checked are
    read, but not decoded, cut or resized a second time.

    Args:
      dataset: a key of BUILDERS.
      source: the folder as distributed.
      out: the folder to make.
      overwrite: replaces an existing `out`.
      beam_options: prepares with Apache Beam and these flags of it ("--runner=...").
      console: shows the progress; its `check` is called for every row. Unused with Beam.
      **options: options of the builder.

    Returns:
      The report, as in `out`/report.json.

    Raises:
      UserError: a mistake in the source, or `out` exists or is in an object store.
    """
    out = files.local(out, what="a prepared data set")
    if out.exists() and not overwrite:
        raise UserError("the output exists", where=str(out), fix="give another --out or pass --overwrite")
    start = time.monotonic()
    options = _at_home(options | {"source": source})
    with _scratch(out) as scratch, _explained(dataset, options, out=str(out)):
        records_root = scratch / "records"
        shutil.rmtree(records_root, ignore_errors=True)  # left by a run that was killed
        make = functools.partial(BUILDERS[dataset], data_dir=records_root, **options)
        if beam_options is None:
            builder = make(journals=scratch, console=console)
        else:
            builder = make(remake=make)
            builder.groups(builder.parts()[0])  # a data set without groups stops here
        found = _survey(builder, files=False)
        builder.meter = console.meter(f"preparing {dataset}", sum(part.rows for part in found.values()))
        with builder.open_files, contextlib.closing(console):
            _write_records(builder, beam_options)
        folder = pathlib.Path(builder.data_dir)
        if builder.storage.encoding == "raw":
            _uncompress(folder)
        for split, account in builder.accounts.items():
            index_lib.write(account.index(), folder, split)
        report = _report(builder, seconds=time.monotonic() - start)
        (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n")
        files.replace_folder(folder, out)
        return report


@contextlib.contextmanager
def _explained(dataset: str, options: dict[str, Any], *, out: str | None = None) -> Iterator[None]:
    """Adds to the error about a missing file what the source is instead."""
    try:
        yield
    except tables.MissingSource as error:
        source, task = options["source"], options.get("task", "")
        raise layouts.explain(
            error, dataset=dataset, source=source, builders=BUILDERS, task=task, out=out
        ) from error


def warnings(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[str]:
    """Returns one line per split and task without a label, or with classes that no image shows.

    `counts` are split -> task -> class -> number of images.
    """
    return [
        f"warning: {split}: {task}: {text}"
        for split, tasks in counts.items()
        for task, classes in tasks.items()
        if (text := coverage.gap(classes))
    ]


def counts_of(surveys: Mapping[str, SplitSurvey]) -> dict[str, dict[str, dict[str, int]]]:
    """Returns split -> task -> class -> number of rows, for the tasks that any split has labels of."""
    tasks = list(dict.fromkeys(task for found in surveys.values() for task in found.classes))
    return {
        split: {
            task: dict(zip(TASKS[task].classes, found.classes.get(task) or itertools.repeat(0), strict=False))
            for task in tasks
        }
        for split, found in surveys.items()
    }


def _at_home(options: dict[str, Any]) -> dict[str, Any]:
    paths = {name: value for name, value in options.items() if isinstance(value, str | pathlib.Path)}
    return options | {name: files.home(value) for name, value in paths.items()}


@contextlib.contextmanager
def _scratch(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a hidden folder beside `out`, which is kept only if the process is interrupted."""
    scratch = out.parent / f".{out.name}.partial"
    with locks.hold(scratch, what="another preparation is running"):
        try:
            yield scratch
        except KeyboardInterrupt:
            raise  # the next run resumes from the journals
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        shutil.rmtree(scratch, ignore_errors=True)


def _survey(builder: FaceBuilder, *, files: bool) -> dict[str, SplitSurvey]:
    splits, copy_of = {}, expected.set_of(builder.name, builder.protocol())
    for split in builder.parts():
        splits[split] = found = builder.survey(split, files=files)
        expected.check(copy_of, split, rows=found.labelled, counts=found.classes)
        found.check_crops(split)
    return splits


def _write_records(builder: FaceBuilder, beam_options: Sequence[str] | None) -> None:
    from softbio_jax.data.tfds import tfds

    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        # TFDS prints about downloads, of which there are none, and about its scratch folder.
        with contextlib.redirect_stdout(io.StringIO()), _spooled():
            if beam_options is None:
                builder.download_and_prepare()
            else:
                builder.download_and_prepare(download_config=beam.config(beam_options))
                builder.collect_groups()
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _spooled() -> Iterator[None]:
    """Has TFDS hold the records of a split in a file until it knows how many files to write.

    Its own way holds up to 1000 MiB in memory and needs TensorFlow for more.
    """
    from softbio_jax.data.tfds import shuffle

    original, shuffle.Shuffler = shuffle.Shuffler, _Spool
    try:
        yield
    finally:
        shuffle.Shuffler = original


class _Spool:
    """TFDS' `Shuffler` for records whose keys ascend: it yields them in the order of their arrival."""

    def __init__(self, dirpath: os.PathLike[str], hash_salt: str, *, disable_shuffling: bool, **options: Any):
        del hash_salt, options
        if not disable_shuffling:
            raise ValueError("records are not shuffled here")
        pathlib.Path(dirpath).mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=dirpath)  # noqa: SIM115 (closed when it was read)
        self._lengths: list[tuple[int, int]] = []  # key and bytes of each record
        self.size = 0

    @property
    def num_examples(self) -> int:
        return len(self._lengths)

    @property
    def bucket_lengths(self) -> list[int]:
        return [self.num_examples]

    def add(self, key: int, data: bytes) -> None:
        self._file.write(data)
        self._lengths.append((key, len(data)))
        self.size += len(data)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        self._file.seek(0)
        with self._file:
            for key, length in self._lengths:
                yield key, self._file.read(length)


def _report(builder: FaceBuilder, *, seconds: float) -> dict[str, Any]:
    splits = {split: account.report() for split, account in builder.accounts.items()}
    left = sum(map(len, builder.drop.values())) - sum(a.skipped[DROPPED] for a in builder.accounts.values())
    unknown = [f"warning: {left:,} images of --drop are not in this source"] if left else []
    read = sum(split["rows_read"] for split in splits.values())
    return {
        "dataset": builder.name,
        "version": str(builder.version),
        "protocol": builder.choices(),
        "crop": builder.crop(),
        "splits": splits,
        "warnings": warnings({split: part["class_counts"] for split, part in splits.items()}) + unknown,
        "seconds": round(seconds, 3),
        "images_per_second": round(read / max(seconds, 1e-9), 1),
    }


def _uncompress(directory: pathlib.Path) -> None:
    """Rewrites the record files of a folder without compression, one record at a time.

    TFDS compresses all records; raw images are then a fifth smaller and read at a fifth of the speed.
    """
    from array_record.python import array_record_data_source, array_record_module

    for path in sorted(directory.glob("*.array_record-*")):
        with files.atomic_file(path) as temporary:
            writer = array_record_module.ArrayRecordWriter(os.fspath(temporary), "group_size:1,uncompressed")
            with array_record_data_source.ArrayRecordDataSource(os.fspath(path)) as records:
                for number in range(len(records)):
                    writer.write(records[number])
            writer.close()
