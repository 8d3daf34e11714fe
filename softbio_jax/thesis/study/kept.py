"""How much of a teacher's accuracy its students keep: ratios in percent, with intervals over seeds."""

import pathlib
from collections.abc import Mapping

from softbio_jax.errors import UserError
from softbio_jax.thesis.study import results
from softbio_jax.thesis.study.collected import TASKS, Collected, over_seeds

HEADER = ("share of the teacher's accuracy, %", *TASKS)


def teacher_of(record: pathlib.Path) -> dict[str, float]:
    """Returns the accuracies in [0, 1] of a teacher's record, by task.

    Raises:
      UserError: no such file, or one that is not the record of a finished run with every task.
    """
    averages = (results.read(record) or {}).get("averages", {})
    if not isinstance(averages, Mapping) or not set(TASKS) <= set(averages):
        raise UserError(
            "no record of the teacher",
            where=str(record),
            expected=f"a finished run's record, with averages of {', '.join(TASKS)}",
            found="other contents" if record.is_file() else "no such file",
            fix="name the teacher's file in its study's folder of --records",
        )
    return {task: float(averages[task]) for task in TASKS}


def rows(study: Collected, teacher: Mapping[str, float], labels: Mapping[str, str]) -> list[list[str]]:
    """Returns the teacher's accuracies, and per complete cell 100 accuracy / the teacher's of each task.

    The teacher is one model, so the interval is that of the student's seeds.
    """
    found = [["the teacher's accuracy, %", *(f"{100 * teacher[task]:.1f}" for task in TASKS)]]
    for cell, label in labels.items():
        if study.has(cell):
            shares = ([value / teacher[task] for value in study.by_seed(cell, task)] for task in TASKS)
            found.append([label, *(str(over_seeds(share)) for share in shares)])
    return found
