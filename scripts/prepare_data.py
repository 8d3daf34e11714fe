"""Turns a folder of labelled faces as people have it into records for training.

python scripts/prepare_data.py --dataset=fairface --source=DIR --out=DIR
python scripts/prepare_data.py --dataset=folder --task=emotion --source=DIR --out=DIR
python scripts/prepare_data.py --dataset=fairface --source=DIR --dry_run
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from softbio_jax import command
from softbio_jax.data.builders import BUILDERS
from softbio_jax.errors import UserError

if TYPE_CHECKING:
    from softbio_jax.data.prepare import prepare

_DATASET = flags.DEFINE_string(
    "dataset", None, f"Which layout (docs/data.md: what each is): {', '.join(sorted(BUILDERS))}."
)
_SOURCE = flags.DEFINE_string(
    "source", None, "The folder of the whole set (csv: the file; synthetic: the set)."
)
_OUT = flags.DEFINE_string("out", None, "The folder to write; it must not exist.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only check the source and say what is missing.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace --out if it exists.")
_MAX_REJECTED = flags.DEFINE_float(
    "max_rejected", 0.05, "Give up when more than this share of a split's rows is unusable."
)
_THREADS = flags.DEFINE_integer("threads", 0, "Pictures checked at once; 0: one a core.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "Store squares of this side, ready for the model.")
_ENCODING = flags.DEFINE_enum(
    "encoding",
    "source",
    ["source", "jpeg", "png", "raw"],
    "How pictures are stored: source keeps the bytes, png and raw are lossless.",
)
_BEAM = flags.DEFINE_list(
    "beam", None, "vggface2: prepare by Apache Beam, with its flags: --runner=DirectRunner,..."
)
_FACES = flags.DEFINE_bool(
    "faces",
    None,
    "Find the largest face of every photograph and keep the square around it; --nofaces: the "
    "pictures are crops already, even those that look like photographs.",
)
_QUALITY = flags.DEFINE_integer("quality", 95, "JPEG quality of cut or resized pictures.")

_TOLD = 10  # rejected rows that are printed

# Choices of single layouts: (flag, the layouts that know it).
_CHOICES = (
    (flags.DEFINE_string("task", None, "folder: the task of the folder names."), ("folder",)),
    (
        flags.DEFINE_bool("fix_excel_ages", False, "fairface: read 03-Sep as 3-9, Oct-19 as 10-19."),
        ("fairface",),
    ),
    (
        flags.DEFINE_enum(
            "raf_filter",
            "thesis",
            ["thesis", "official"],
            "rafdb: leave pictures of unsure gender out, or keep them without gender.",
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
        flags.DEFINE_enum(
            "age_values", "class", ["class", "years"], "csv, standard: what the age column holds."
        ),
        ("csv", "standard"),
    ),
    (flags.DEFINE_list("columns", [], "csv: role=column pairs: path=file,age=age_group,..."), ("csv",)),
    (flags.DEFINE_list("values", [], "csv: task:word=class pairs: gender:0=male,..."), ("csv",)),
    (flags.DEFINE_string("images", None, "csv: the folder that the paths start at."), ("csv",)),
    (flags.DEFINE_integer("size", 64, "synthetic: side of the pictures."), ("synthetic",)),
    (flags.DEFINE_integer("seed", 0, "synthetic: which faces."), ("synthetic",)),
    (flags.DEFINE_integer("count", None, "synthetic: training rows."), ("synthetic",)),
    (flags.DEFINE_integer("test_count", None, "synthetic: test rows."), ("synthetic",)),
)


def main(_: Sequence[str]) -> None:
    for flag in (_DATASET, _SOURCE, *(() if _DRY_RUN.value else (_OUT,))):
        if flag.value is None:
            example = {"dataset": "folder", "source": "DIR", "out": "data/mine"}[flag.name]
            raise UserError(
                "a flag is missing",
                where=f"--{flag.name}",
                fix=f"for example --{flag.name}={example}; see --help",
            )
    from softbio_jax.data.prepare import prepare, rows, survey

    dataset, source = _DATASET.value, _SOURCE.value
    options = _dataset_options(dataset)
    if _DRY_RUN.value:
        found = prepare.survey(dataset, source=source, **options)
        _tell(found)
        return
    report = _prepare_with_progress(dataset, source, options)
    survey.write(report["splits"], pathlib.Path(_OUT.value) / "classes.png")
    for split, part in report["splits"].items():
        print(f"{split}: {part['rows_read']:,} rows read, {part['kept']:,} kept", end="")
        print(f", {part['skipped']:,} left out, {part['rejected']:,} rejected")
        for what in ("skipped", "rejected", "masked"):
            for reason, count in part[f"{what}_by_reason"].items():
                print(f"  {what} {count:,}: {reason}")
        for rejection in part["rejected_rows"][:_TOLD]:
            print(f"  {rows.Rejection(**rejection)}")
        if part["rejected"] > _TOLD:
            print(f"  the other {part['rejected'] - _TOLD:,} are in {_OUT.value}/report.json")
        for task, counts in part["class_counts"].items():
            listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            print(f"  {task}: {listed}")
    speed = f"{report['images_per_second']:,.0f} images/s"
    print(f"wrote {_OUT.value} in {report['seconds']:.1f} s ({speed})")


def _tell(found: prepare.Survey) -> None:
    for split, part in found.splits.items():
        print(f"{split}: {part.rows:,} rows, {part.missing:,} pictures missing")
        for path in part.first_missing:
            print(f"  missing {path}")
        if part.missing > _MAX_REJECTED.value * part.rows:
            raise UserError(
                "too many pictures are missing",
                where=f"split {split!r}",
                expected=f"at most {_MAX_REJECTED.value:.1%} of the rows",
                found=f"{part.missing:,} of {part.rows:,} ({part.first_missing[0]}, ...)",
                fix="complete the source, or raise --max_rejected",
            )
    print("the labels are sound; no picture was decoded")


def _dataset_options(dataset: str) -> dict[str, Any]:
    from softbio_jax.data import faces
    from softbio_jax.data.prepare import storage

    options: dict[str, Any] = {
        "storage": storage.Storage(
            image_size=_IMAGE_SIZE.value,
            encoding=_ENCODING.value,
            quality=_QUALITY.value,
            face_finder=faces.Mtcnn() if _FACES.value else None,
            crops=_FACES.value is False,
        )
    }
    for flag, datasets in _CHOICES:
        if dataset in datasets:
            pairs = flag.name in ("columns", "values")
            options[flag.name] = _pairs(flag) if pairs else flag.value
        elif flag.present:
            raise UserError(
                "a flag does not apply",
                where=f"--{flag.name}",
                expected=f"--dataset={' or '.join(datasets)}",
                found=f"--dataset={dataset}",
                fix=f"leave --{flag.name} out",
            )
    if dataset == "folder" and options["task"] is None:
        raise UserError("a flag is missing", where="--task", fix="for example --task=emotion")
    return options


def _pairs(flag: flags.FlagHolder) -> dict[str, str]:
    pairs = {}
    for text in flag.value:
        left, equals, right = text.partition("=")
        if not (left and equals and right):
            raise UserError(
                "not a pair",
                where=f"--{flag.name}",
                expected="name=value",
                found=repr(text),
                fix="put = between a name and its value, commas between pairs",
            )
        pairs[left.strip()] = right.strip()
    return pairs


def _prepare_with_progress(dataset: str, source: str, options: dict[str, Any]) -> dict:
    from rich import console, progress

    from softbio_jax.data.prepare import prepare

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[speed]}"),
        progress.TimeRemainingColumn(),
        console=console.Console(stderr=True),
        disable=not sys.stderr.isatty(),  # in a log it would be a line beside a mistake's
    )
    job = bar.add_task(f"preparing {dataset}", total=None, speed="")

    def show_total(found: prepare.Survey) -> None:
        bar.update(job, total=sum(found.rows.values()) or None)
        shown.enter_context(bar)  # not before: a mistake in the labels is one line alone

    def advance() -> None:
        speed = bar.tasks[job].speed or bar.tasks[job].finished_speed
        bar.update(job, advance=1, speed=f"{speed:,.0f} images/s" if speed else "")

    with contextlib.ExitStack() as shown:
        return prepare.prepare(
            dataset,
            source=source,
            out=_OUT.value,
            overwrite=_OVERWRITE.value,
            beam_options=_BEAM.value,
            on_survey=show_total,
            on_row=advance,
            max_rejected=_MAX_REJECTED.value,
            threads=_THREADS.value,
            **options,
        )


if __name__ == "__main__":
    command.run(main)
