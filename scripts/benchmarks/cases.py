"""The cases of each suite, with the targets they are held against."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.case import Case, Entry
from benchmarks.workload import Workload

from softbio_jax.errors import UserError

_B16: dict[str, Any] = {"variant": "PE-Core-B16-224", "image_size": 224}
_L14: dict[str, Any] = {"variant": "PE-Core-L14-336", "image_size": 336}


def against_twin(workload: Workload, *, forms: tuple[str, ...]) -> tuple[Entry, ...]:
    """Returns this package's entry and the twin's, a form each, of the same work."""
    return (
        Entry(label="ours", side="ours", work=workload),
        *(Entry(label=form, side="twin", work=workload, form=form) for form in forms),
    )


_BOTH = ("eager", "compiled")


def cpu_suite() -> list[Case]:
    """Returns the cases in float32 on the processor's cores."""
    lora = Workload(work="train", method="lora", batch=4, **_B16)
    lora_l14 = Workload(work="train", method="lora", batch=1, **_L14)
    return [
        Case(
            name="lora-b16", title="LoRA step, PE-Core-B16-224, batch 4",
            entries=against_twin(lora, forms=_BOTH), target=0.9, images=4,
        ),
        Case(
            name="lora-l14", title="LoRA step, PE-Core-L14-336, batch 1",
            entries=against_twin(lora_l14, forms=_BOTH), target=0.9, repeats=5, images=1,
        ),
    ]  # fmt: skip


def choose(suite: str, names: Sequence[str], *, remat: str, small: bool) -> list[Case]:
    """Returns the cases of a suite that have one of `names`, or all without any.

    Args:
      suite: "cpu" or "gpu".
      names: what --only was given.
      remat: the remat policy of this package's steps.
      small: whether the smallest tower stands in for theirs.

    Raises:
      UserError: no case of that name.
    """
    found = {case.name: case for case in SUITES[suite]()}
    if unknown := [name for name in names if name not in found]:
        raise UserError("no such case", where="--only", expected=f"some of {', '.join(found)}",
                        found=unknown[0], fix="correct the name")  # fmt: skip
    chosen = [found[name] for name in names or found]
    chosen = [_with_remat(case, remat) for case in chosen]
    return [tiny(case) for case in chosen] if small else chosen


def tiny(case: Case) -> Case:
    """Returns the case with the smallest tower in the place of its own, to try the code."""
    entries = tuple(
        dataclasses.replace(entry, work=_shrunk(entry.work)) for entry in case.entries
    )
    return dataclasses.replace(case, entries=entries)


def _shrunk(work: Any) -> Any:
    if not isinstance(work, Workload):
        return work
    return dataclasses.replace(
        work, variant="tiny-test", image_size=32, batch=min(work.batch, 4), rank=4,
        layers=min(work.layers, 3),
    )  # fmt: skip


def _with_remat(case: Case, remat: str) -> Case:
    entries = tuple(
        dataclasses.replace(entry, work=dataclasses.replace(entry.work, remat=remat))
        if isinstance(entry.work, Workload) and entry.work.work == "train"
        else entry
        for entry in case.entries
    )
    return dataclasses.replace(case, entries=entries)


SUITES = {"cpu": cpu_suite}
