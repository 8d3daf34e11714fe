"""The thesis' comparison in one resumable command: every method, single-task models, ablations.

python scripts/small_reproduction.py --config=configs/small_reproduction.py \
    --workdir=runs/small_reproduction --jobs=2
python scripts/small_reproduction.py --report=runs/small_reproduction/small_reproduction.json

The results are collected in WORKDIR/NAME.json after every run; --report prints them
as Markdown tables, and with --page writes the tables between the markers of a page. It
reads a folder of --records as well, with the --config of the study.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from softbio_jax import command, files
from softbio_jax.errors import UserError
from softbio_jax.train import huge_pages
from softbio_jax.train.preemption import EXIT_SAVED

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A study of configs/.", lock_config=False, accept_new_attributes=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The study's folder.")
_RECORDS = flags.DEFINE_string(
    "records", None, "A folder with a small file per finished run, by which another machine continues."
)
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs at a time, each with its share of the CPU cores.")
_REPORT = flags.DEFINE_string(
    "report", None, "Collected results, or a folder of records, to print as tables; nothing is trained."
)
_PAGE = flags.DEFINE_string("page", None, "With --report: the page whose tables are replaced.")
_TEACHER = flags.DEFINE_string(
    "teacher_record", None, "With --report of a study of distillation: the record of the students' teacher."
)


_STUDY, _TABLES, _RECORDED = "no --report", "--report of a file", "--report of a folder"
_READERS = {name: [_STUDY] for name in ("workdir", "records", "jobs")}
_READERS |= {name: [_TABLES, _RECORDED] for name in ("page", "teacher_record")}
_READERS["config"] = [_STUDY, _RECORDED]


def main(argv: Sequence[str]) -> int:
    del argv
    source = pathlib.Path(_REPORT.value) if _REPORT.value else None
    mode = _STUDY if source is None else _RECORDED if source.is_dir() else _TABLES
    command.refuse_ignored(mode, _READERS)
    if source is not None:
        _report(source)
        return 0
    if _CONFIG.value is None or _WORKDIR.value is None:
        raise UserError("nothing to do", expected="--config and --workdir, or --report", fix="add them")
    from softbio_jax.console import Console
    from softbio_jax.thesis.study import conduct
    from softbio_jax.thesis.study.study import study_from

    study, workdir = study_from(_CONFIG.value.to_dict()), files.local(_WORKDIR.value, what="a study")
    console = Console()
    records = files.local(_RECORDS.value, what="a study's records") if _RECORDS.value else None
    try:
        found = conduct.conduct(study, workdir, jobs=_JOBS.value, records=records, console=console)
    except conduct.Stopped as stop:
        print(f"{stop}; start again to resume", file=sys.stderr)
        return EXIT_SAVED
    console.say(
        f"{len(found['runs'])} runs; tables: python scripts/small_reproduction.py "
        f"--report={workdir / study.name}.json"
    )
    return 0


def _report(source: pathlib.Path) -> None:
    from softbio_jax.thesis.study import kept
    from softbio_jax.thesis.study import tables as tables_lib

    teacher = kept.teacher_of(pathlib.Path(_TEACHER.value)) if _TEACHER.value else None
    if source.is_dir():
        tables = tables_lib.all_tables(_recorded(source), teacher)
    else:
        tables = tables_lib.tables_of(source, teacher)
    if _PAGE.value:
        tables_lib.fill(pathlib.Path(_PAGE.value), tables)
        print(f"wrote the tables into {_PAGE.value}")
    else:
        print(tables_lib.text(tables))


def _recorded(folder: pathlib.Path) -> Any:
    """Returns the collected results of a folder of records."""
    from softbio_jax.thesis.study import results
    from softbio_jax.thesis.study.collected import Collected
    from softbio_jax.thesis.study.study import study_from

    if _CONFIG.value is None:
        raise UserError(
            "records without their study", where="--config", expected="the study's file", fix="add it"
        )
    study = study_from(_CONFIG.value.to_dict())
    done = results.read_records(study, folder, encoder=study.pretrained)
    if not done:
        fix = "name the folder of --records"
        raise UserError("no record", where=str(folder), expected="files of this study", found="none", fix=fix)
    return Collected(values=results.collect(study, done, encoder={}, jobs=0))


if __name__ == "__main__":
    huge_pages.restart()
    command.run(main)
