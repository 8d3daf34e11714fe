"""Reads the model that a run learns from."""

import dataclasses

from softbio_jax.errors import UserError
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.predictor import open_bundle as opened
from softbio_jax.runs import build
from softbio_jax.runs.build import Run
from softbio_jax.runs.config import RunConfig
from softbio_jax.runs.teacher import Teacher
from softbio_jax.tasks import TASKS


def load(config: RunConfig, found: Bundle | None = None) -> tuple[RunConfig, Teacher]:
    """Returns the teacher of `distill.teacher`, and the configuration with its digest and feature's width.

    Args:
      config: of the student.
      found: the model, where it was read already.

    Raises:
      UserError: no model, one without a task of the run or with other classes, or another one than that with
        which the run began.
    """
    given = config.distill
    found = found or opened(given.teacher)
    where = f"distill.teacher={given.teacher}"
    for task in config.tasks:
        _check_task(found, task, where=where)
    digest = bundle_lib.label(found).rpartition("@")[2]
    if given.digest not in ("", digest):
        raise UserError(
            "another teacher",
            where=where,
            expected=f"digest {given.digest}",
            found=digest,
            fix="give the model that the run began with, or choose another --workdir",
        )
    teacher = Teacher(
        name=found.name,
        digest=digest,
        tasks=config.tasks,
        feature=given.feature != "none",
        image_size=found.image_size,
        model=found.model,
        variables=found.variables,
        training_images=found.training_images,
    )
    distill = dataclasses.replace(given, digest=digest, feature_width=teacher.feature_width)
    return dataclasses.replace(config, distill=distill), teacher


def attach(run: Run) -> Run:
    """Returns the run with its teacher, see `load`."""
    config, teacher = load(run.config)
    # The configuration has the type that "auto" became.
    return dataclasses.replace(build.build(config, teacher=teacher), auto_dtype=run.auto_dtype)


def _check_task(teacher: Bundle, task: str, *, where: str) -> None:
    """Raises UserError unless the teacher has the task with the same classes in the same order."""
    classes = {spec.name: spec.classes for spec in teacher.tasks}
    if task not in classes:
        raise UserError(
            "the teacher does not have this task",
            where=where,
            expected=task,
            found=", ".join(classes),
            fix=f"drop {task} from tasks, or name another teacher",
        )
    if classes[task] != TASKS[task].classes:
        raise UserError(
            "the teacher has other classes",
            where=f"{where}: {task}",
            expected=", ".join(TASKS[task].classes),
            found=", ".join(classes[task]),
            fix="register the task with the teacher's classes in their order, or name another teacher",
        )
