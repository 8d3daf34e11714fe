"""Turns a folder of labelled faces, as distributed, into records for training.

python scripts/prepare_data.py --dataset=fairface --source=DIR --out=DIR
python scripts/prepare_data.py --dataset=folder --task=emotion --source=DIR --out=DIR
python scripts/prepare_data.py --dataset=fairface --source=DIR --dry_run
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from softbio_jax import command
from softbio_jax.data.builders import BUILDERS
from softbio_jax.errors import UserError

_DATASET = flags.DEFINE_string(
    "dataset", None, f"The layout of the source (see docs/data.md): {', '.join(sorted(BUILDERS))}."
)
_SOURCE = flags.DEFINE_string(
    "source", None, "The folder of the complete set (csv: the file, or several; synthetic: the set)."
)
_OUT = flags.DEFINE_string("out", None, "The folder to write; it must not exist.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only check the source and list what is missing.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace --out if it exists.")
_MAX_REJECTED = flags.DEFINE_float(
    "max_rejected", 0.05, "Stop if more than this share of a split's rows is unusable."
)
_THREADS = flags.DEFINE_integer("threads", 0, "Images checked at the same time; 0: one per core.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "Store squares of this side, ready for the model.")
_ENCODING = flags.DEFINE_enum(
    "encoding",
    "source",
    ["source", "jpeg", "png", "raw"],
    "How images are stored: source keeps the bytes, png and raw are lossless.",
)
_BEAM = flags.DEFINE_list(
    "beam", None, "vggface2: prepare with Apache Beam and its flags: --runner=DirectRunner,..."
)
_FACES = flags.DEFINE_bool(
    "faces",
    None,
    "Find the largest face of every photograph and keep the square around it; --nofaces: the "
    "images are crops already, even those that look like photographs.",
)
_SPLIT = flags.DEFINE_float(
    "split", None, "Of a source without splits: the fraction of the subjects for training, for example 0.8."
)
_DROP = flags.DEFINE_string(
    "drop", None, "A table of images to leave out, as audit_data.py --drop writes it."
)
_MARGIN = flags.DEFINE_float(
    "margin",
    None,
    "Margin around the faces of the source's crops, as a fraction of the face's side, for predictions on "
    "photographs; FairFace's is known by the archive's name.",
)
_QUALITY = flags.DEFINE_integer("quality", 95, "JPEG quality of cut or resized images.")

# Options of single layouts: (flag, the layouts that have it).
_OPTIONS = (
    (flags.DEFINE_string("task", None, "folder: the task of the folder names."), ("folder",)),
    (
        flags.DEFINE_bool("fix_excel_ages", False, "fairface: read 03-Sep as 3-9, Oct-19 as 10-19."),
        ("fairface",),
    ),
    (
        flags.DEFINE_enum(
            "raf_filter",
            "sure",
            ["sure", "official", "thesis"],
            "rafdb: omit images of unsure gender, or keep them without gender; thesis: former name of sure.",
        ),
        ("rafdb",),
    ),
    (
        flags.DEFINE_enum(
            "utk",
            "aligned",
            ["aligned", "wild"],
            "utkface: the cropped faces, or the photographs in part1 to part3.",
        ),
        ("utkface",),
    ),
    (
        flags.DEFINE_string("ages", None, "vggface2: the file of ages, `n000001/0001_01.jpg,34`."),
        ("vggface2",),
    ),
    (flags.DEFINE_string("ferplus", None, "fer2013: the FER+ table of votes."), ("fer2013",)),
    (
        flags.DEFINE_enum("appa_age", "real", ["real", "apparent"], "appa_real: which of the two ages."),
        ("appa_real",),
    ),
    (
        flags.DEFINE_enum(
            "age_values",
            "class",
            ["class", "years", "range"],
            "csv, parquet, folder, standard: whether numbers for age are classes or years; of tables, range "
            "keeps ranges over several classes too.",
        ),
        ("csv", "parquet", "folder", "standard"),
    ),
    (
        flags.DEFINE_list(
            "columns", [], "csv, parquet: role=column pairs: path=file,age=age_group,...; by default by name."
        ),
        ("csv", "parquet"),
    ),
    (
        flags.DEFINE_list(
            "values",
            [],
            "csv, parquet, folder: task:word=class pairs: gender:0=male,...; emotion:contempt= leaves out.",
        ),
        ("csv", "parquet", "folder"),
    ),
    (
        flags.DEFINE_string("images", None, "csv, parquet: the folder that the paths start at."),
        ("csv", "parquet"),
    ),
    (
        flags.DEFINE_string(
            "identity",
            None,
            "csv, parquet, folder: a regular expression that finds the subject in an image's path.",
        ),
        ("csv", "parquet", "folder"),
    ),
    (flags.DEFINE_integer("size", 64, "synthetic: side of the images in pixels."), ("synthetic",)),
    (flags.DEFINE_integer("seed", 0, "synthetic: seed of the faces."), ("synthetic",)),
    (flags.DEFINE_integer("count", None, "synthetic: number of training rows."), ("synthetic",)),
    (flags.DEFINE_integer("test_count", None, "synthetic: number of test rows."), ("synthetic",)),
)
_READERS = {"quality": ["--encoding=source", "--encoding=jpeg"]}
_LISTED = 10  # rejected rows that are printed


def main(_: Sequence[str]) -> None:
    for flag, example in ((_DATASET, "folder"), (_SOURCE, "DIR"), (_OUT, "data/mine")):
        if flag.value is None and not (flag is _OUT and _DRY_RUN.value):
            fix = f"for example --{flag.name}={example}; see --help"
            raise UserError("a flag is missing", where=f"--{flag.name}", fix=fix)
    command.refuse_ignored(f"--encoding={_ENCODING.value}", _READERS)
    from softbio_jax.console import Console
    from softbio_jax.data.prepare import prepare
    from softbio_jax.data.prepare.survey import plot_classes

    if _DRY_RUN.value and _DROP.value:
        raise UserError(
            "a flag does not apply",
            where="--drop",
            found="--dry_run, which counts all rows",
            fix="omit one of them",
        )
    options = _options(_DATASET.value)
    if _DRY_RUN.value:
        surveys = prepare.survey(_DATASET.value, source=_SOURCE.value, **options)
        for split, found in surveys.items():
            print(f"{split}: {found.rows:,} rows, {found.missing:,} images missing")
            for path in found.first_missing:
                print(f"  missing {path}")
            for reason, count in found.rejected.items():
                print(f"  will be rejected {count:,}: {reason}")
            for rejection in found.first_rejected:
                print(f"  {rejection}")
            found.check_files(split, max_rejected=_MAX_REJECTED.value)
            found.check_rejected(split, max_rejected=_MAX_REJECTED.value)
        for line in prepare.warnings(prepare.counts_of(surveys)):
            print(line)
        valid = "the other labels are" if any(s.rejected for s in surveys.values()) else "the labels are"
        print(f"{valid} valid; no image was decoded")
        return
    report = prepare.prepare(
        _DATASET.value,
        source=_SOURCE.value,
        out=_OUT.value,
        overwrite=_OVERWRITE.value,
        beam_options=_BEAM.value,
        console=Console(),
        max_rejected=_MAX_REJECTED.value,
        threads=_THREADS.value,
        **options,
    )
    plot_classes(report["splits"], pathlib.Path(_OUT.value) / "classes.png")
    for split, part in report["splits"].items():
        _print_split(split, part)
    for line in report["warnings"]:
        print(line)
    seconds, speed = report["seconds"], report["images_per_second"]
    print(f"wrote {_OUT.value} in {seconds:.1f} s ({speed:,.0f} images/s)")


def _print_split(split: str, part: dict[str, Any]) -> None:
    from softbio_jax.data.prepare.rows import Rejection

    counts = ", ".join(f"{part[what]:,} {what}" for what in ("kept", "skipped", "rejected"))
    print(f"{split}: {part['rows_read']:,} rows read, {counts}")
    for what in ("skipped", "rejected", "masked"):
        for reason, count in part[f"{what}_by_reason"].items():
            print(f"  {what} {count:,}: {reason}")
    for file in part["files_left_out"][:_LISTED]:
        print(f"  left out {file}")
    if len(part["files_left_out"]) > _LISTED:
        print(f"  the other {len(part['files_left_out']) - _LISTED:,} are in {_OUT.value}/report.json")
    for rejection in part["rejected_rows"][:_LISTED]:
        print(f"  {Rejection(**rejection)}")
    if part["rejected"] > _LISTED:
        print(f"  the other {part['rejected'] - _LISTED:,} are in {_OUT.value}/report.json")
    for task, classes in part["class_counts"].items():
        print(f"  {task}: " + ", ".join(f"{name} {count:,}" for name, count in classes.items()))


def _options(dataset: str) -> dict[str, Any]:
    from softbio_jax.data import faces
    from softbio_jax.data.prepare import tables
    from softbio_jax.data.prepare.base import BUILDERS
    from softbio_jax.data.prepare.storage import Storage

    BUILDERS[dataset]  # an unknown one is reported before flags that would not apply to it
    options: dict[str, Any] = {
        "split": _SPLIT.value,
        "storage": Storage(
            image_size=_IMAGE_SIZE.value,
            encoding=_ENCODING.value,
            quality=_QUALITY.value,
            margin=_MARGIN.value,
            face_finder=faces.Mtcnn() if _FACES.value else None,
            crops=_FACES.value is False,
        ),
    }
    if _DROP.value:
        options["drop"] = tables.read_drop(pathlib.Path(_DROP.value), name=pathlib.Path(_OUT.value).name)
    for flag, datasets in _OPTIONS:
        if dataset in datasets:
            pairs = flag.name in ("columns", "values")
            options[flag.name] = _pairs(flag) if pairs else flag.value
        elif flag.present:
            expected, found = f"--dataset={' or '.join(datasets)}", f"--dataset={dataset}"
            where, fix = f"--{flag.name}", f"omit --{flag.name}"
            raise UserError("a flag does not apply", where=where, expected=expected, found=found, fix=fix)
    if dataset == "folder" and options["task"] is None:
        raise UserError("a flag is missing", where="--task", fix="for example --task=emotion")
    if options.get("raf_filter") == "thesis":
        options["raf_filter"] = "sure"
    return options


def _pairs(flag: flags.FlagHolder) -> dict[str, str]:
    pairs = {}
    for text in flag.value:
        values = flag.name == "values"  # whose words may have an = in them
        left, equals, right = text.rpartition("=") if values else text.partition("=")
        # A word without a class is left out.
        if not (left and equals and (right or values)):
            where, fix = f"--{flag.name}", "put = between a name and its value, commas between pairs"
            raise UserError("not a pair", where=where, expected="name=value", found=repr(text), fix=fix)
        if left.strip() in pairs:
            where, fix = f"--{flag.name}", "write it once"
            raise UserError(f"{left.strip()!r} is named twice", where=where, found=repr(text), fix=fix)
        pairs[left.strip()] = right.strip()
    return pairs


if __name__ == "__main__":
    command.run(main)
