"""Chooses the cases of a suite, and shrinks them for a quick trial."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.comparison.case import Case
from benchmarks.comparison.cases import cpu_suite, gpu_suite
from benchmarks.comparison.input_work import InputWork
from benchmarks.comparison.workload import FeatureWork, IdleWork, StartWork
from softbio_jax.errors import UserError

SUITES = {"cpu": cpu_suite, "gpu": gpu_suite}


def choose(
    suite: str, names: Sequence[str], *, scratch: str, remat: str = "", small: bool = False
) -> list[Case]:
    """Returns the cases of a suite that have one of `names`, or all without any.

    Args:
      suite: "cpu" or "gpu".
      names: what --only was given.
      scratch: a folder for images and compiled programs.
      remat: the remat policy of this package's steps; empty: its default.
      small: whether to use the smallest encoder instead.

    Raises:
      UserError: no case of that name.
    """
    found = {case.name: case for case in SUITES[suite](scratch)}
    if unknown := [name for name in names if name not in found]:
        raise UserError(
            "no such case",
            where="--only",
            expected=f"some of {', '.join(found)}",
            found=unknown[0],
            fix="correct the name",
        )
    return [_changed(found[name], remat=remat, small=small) for name in names or found]


def _changed(case: Case, *, remat: str, small: bool) -> Case:
    def change(work: Any) -> Any:
        if isinstance(work, StartWork | IdleWork):
            return dataclasses.replace(work, workload=change(work.workload))
        if isinstance(work, FeatureWork):
            return work
        if isinstance(work, InputWork):
            return dataclasses.replace(work, batch=8, batches=2, warm=1) if small else work
        if small:
            work = dataclasses.replace(
                work,
                variant="tiny-demo",
                image_size=48,
                batch=min(work.batch, 8),
                rank=4,
                layers=min(work.layers, 3),
                steps=1,
            )
        return dataclasses.replace(work, remat=remat) if remat and work.work == "train" else work

    entries = tuple(dataclasses.replace(e, work=change(e.work)) for e in case.entries)
    if small:  # its rates say nothing
        case = dataclasses.replace(case, images=0, least_rate=0.0)
    return dataclasses.replace(case, entries=entries)
