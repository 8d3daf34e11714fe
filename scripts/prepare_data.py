"""Turns a folder of labelled faces as people have it into records for training.

python scripts/prepare_data.py --dataset=fairface --source=DIR --out=DIR
python scripts/prepare_data.py --dataset=folder --task=emotion --source=DIR --out=DIR
python scripts/prepare_data.py --dataset=fairface --source=DIR --dry_run
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags

from softbio_jax import command
from softbio_jax.errors import UserError

_DATASET = flags.DEFINE_string("dataset", None, "Which layout: fairface, folder, synthetic.")
_SOURCE = flags.DEFINE_string("source", None, "The folder (synthetic: the name of the set).")
_OUT = flags.DEFINE_string("out", None, "The folder to write; it must not exist.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only check the source and say what is missing.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace --out if it exists.")
_MAX_REJECTED = flags.DEFINE_float(
    "max_rejected", 0.05, "Give up when more than this share of a split's rows is unusable."
)
_THREADS = flags.DEFINE_integer("threads", 0, "Pictures checked at once; 0: one a core.")
_TASK = flags.DEFINE_string("task", None, "folder: the task that the folder names belong to.")
_FIX_EXCEL_AGES = flags.DEFINE_bool(
    "fix_excel_ages", False, "fairface: read 03-Sep as 3-9 and Oct-19 as 10-19."
)
_SIZE = flags.DEFINE_integer("size", 64, "synthetic: side of the pictures in pixels.")
_SEED = flags.DEFINE_integer("seed", 0, "synthetic: which faces.")
_COUNT = flags.DEFINE_integer("count", None, "synthetic: how many faces.")

# The flags that only some layouts know.
_OPTIONS = {
    "fairface": (_FIX_EXCEL_AGES,),
    "folder": (_TASK,),
    "synthetic": (_SIZE, _SEED, _COUNT),
}


def main(_: Sequence[str]) -> None:
    for flag in (_DATASET, _SOURCE, *(() if _DRY_RUN.value else (_OUT,))):
        if flag.value is None:
            raise UserError("a flag is missing", where=f"--{flag.name}", fix="see --help")
    from softbio_jax.data import prepare

    dataset, source = _DATASET.value, _SOURCE.value
    options = _dataset_options(dataset)
    if _DRY_RUN.value:
        found = prepare.survey(dataset, source=source, **options)
        for split, rows in found.rows.items():
            print(f"{split}: {rows:,} rows")
        print("nothing is missing; no picture was read")
        return
    report = _prepare_with_progress(dataset, source, options)
    for split, part in report["splits"].items():
        print(f"{split}: {part['rows_read']:,} rows read, {part['kept']:,} kept", end="")
        print(f", {part['rejected']:,} rejected", end="")
        for reason, count in part["rejected_by_reason"].items():
            print(f" ({count}: {reason})", end="")
        print()
        for task, counts in part["class_counts"].items():
            listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            print(f"  {task}: {listed}")
    speed = f"{report['images_per_second']:,.0f} images/s"
    print(f"wrote {_OUT.value} in {report['seconds']:.1f} s ({speed})")


def _dataset_options(dataset: str) -> dict[str, Any]:
    mine = {flag.name for flag in _OPTIONS.get(dataset, ())}
    for name, group in _OPTIONS.items():
        for flag in group:
            if flag.present and flag.name not in mine:
                raise UserError(
                    "a flag does not apply", where=f"--{flag.name}", expected=f"--dataset={name}"
                )
    options = {flag.name: flag.value for flag in _OPTIONS.get(dataset, ())}
    if "task" in options and options["task"] is None:
        raise UserError("a flag is missing", where="--task", fix="for example --task=emotion")
    return options


def _prepare_with_progress(dataset: str, source: str, options: dict[str, Any]) -> dict:
    from rich import console, progress

    from softbio_jax.data import prepare

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[speed]}"),
        progress.TimeRemainingColumn(),
        console=console.Console(stderr=True),
    )
    with bar:
        job = bar.add_task(f"preparing {dataset}", total=None, speed="")

        def show_total(found: prepare.Survey) -> None:
            bar.update(job, total=sum(found.rows.values()) or None)

        def advance() -> None:
            speed = bar.tasks[job].speed or bar.tasks[job].finished_speed
            bar.update(job, advance=1, speed=f"{speed:,.0f} images/s" if speed else "")

        return prepare.prepare(
            dataset,
            source=source,
            out=_OUT.value,
            overwrite=_OVERWRITE.value,
            on_survey=show_total,
            on_row=advance,
            max_rejected=_MAX_REJECTED.value,
            threads=_THREADS.value,
            **options,
        )


if __name__ == "__main__":
    command.run(main)
