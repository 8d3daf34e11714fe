"""The cases of each suite, with the targets they are held against."""

import dataclasses
import os
from typing import Any

from benchmarks.comparison.case import Case, Entry
from benchmarks.comparison.input_work import InputWork
from benchmarks.comparison.workload import FeatureWork, IdleWork, StartWork, Workload

_B16: dict[str, Any] = {"variant": "PE-Core-B16-224", "image_size": 224}
_L14: dict[str, Any] = {"variant": "PE-Core-L14-336", "image_size": 336}
_EITHER = ("eager", "blocks compiled")
_PASSES = ("eager", "compiled")  # when it compiles everything, torch may change the layout of frozen weights
_THESIS_RANK = 64


def against_twin(workload: Workload, *, forms: tuple[str, ...] = _EITHER) -> tuple[Entry, ...]:
    """Returns this package's entry and the twin's, one per form, of the same work."""
    return (
        Entry(label="ours", side="ours.step", work=workload),
        *(Entry(label=form, side="twins.step", work=workload, form=form) for form in forms),
    )


def against_itself(
    label: str, work: Workload, other: str, beside: Workload, units: tuple[float, float] = (1, 1)
) -> tuple[Entry, Entry]:
    """Returns two entries of this package, each time divided by its units."""
    return (
        Entry(label=label, side="ours.step", work=work, units=units[0]),
        Entry(label=other, side="ours.step", work=beside, units=units[1]),
    )


def cpu_suite(scratch: str) -> list[Case]:
    """Returns the cases in float32 on the processor's cores."""
    step = Workload(work="train", method="lora", batch=4, **_B16)
    # At 577 tokens attention's weights are half of what a step would keep.
    step_l14 = Workload(work="train", method="lora", batch=1, remat="attention", **_L14)
    return [
        *_cpu_steps(step, step_l14),
        *_cpu_passes(Workload(work="forward", method="merged", batch=1, **_B16)),
        *_inputs(scratch, workers=len(os.sched_getaffinity(0))),
        *_memory(step, step_l14),
        *_starts(scratch, step_l14),
        *_scaling(step),
        *_features(),
    ]


def _cpu_steps(step: Workload, step_l14: Workload) -> list[Case]:
    def with_method(method: Any, **changes: Any) -> tuple[Entry, ...]:
        return against_twin(dataclasses.replace(step, method=method, **changes))

    return [
        Case(
            name="lora-b16",
            title="LoRA step, PE-Core-B16-224, batch 4",
            entries=against_twin(step, forms=(*_EITHER, "compiled")),
            target=0.9,
            images=4,
        ),
        Case(
            name="lora-l14",
            title="LoRA step, PE-Core-L14-336, batch 1",
            entries=against_twin(step_l14),
            target=0.9,
            repeats=5,
            images=1,
        ),
        Case(
            name="dora-b16",
            title="DoRA step, B16-224, batch 4",
            entries=with_method("dora"),
            target=0.6,
            repeats=5,
            images=4,
        ),
        Case(
            name="mtlora-b16",
            title="MTLoRA step, rank 64, B16-224, batch 4",
            entries=with_method("mtlora", rank=_THESIS_RANK),
            target=0.85,
            repeats=5,
            images=4,
        ),
        Case(
            name="ft4-b16",
            title="FT_4 step, B16-224, batch 4",
            entries=with_method("ft4"),
            target=0.9,
            images=4,
        ),
    ]


def _cpu_passes(one: Workload) -> list[Case]:
    sixteen = dataclasses.replace(one, batch=16)
    large = dataclasses.replace(one, **_L14)
    return [
        Case(
            name="infer-b16-1",
            title="inference, merged, B16-224, batch 1",
            entries=against_twin(one, forms=_PASSES),
            target=1.0,
            repeats=15,
            images=1,
        ),
        Case(
            name="infer-b16-16",
            title="inference, merged, B16-224, batch 16",
            entries=against_twin(sixteen, forms=_PASSES),
            target=1.0,
            images=16,
        ),
        Case(
            name="infer-l14-1",
            title="inference, merged, L14-336, batch 1",
            entries=against_twin(large, forms=_PASSES),
            target=1.0,
            images=1,
        ),
    ]


def _inputs(scratch: str, *, workers: int) -> list[Case]:
    cases = []
    for source, size in ((224, 224), (384, 336)):
        work = InputWork(folder=scratch, source_side=source, image_size=size, workers=workers)
        cases.append(
            Case(
                name=f"input-{source}",
                title=f"input pipeline, {source} px JPEG to {size}",
                entries=(
                    Entry(label="ours", side="ours.input", work=work),
                    Entry(label="workers normalise", side="twins.input", work=work, form="float"),
                    Entry(label="device normalises", side="twins.input", work=work, form="uint8"),
                ),
                target=0.5,
                repeats=5,
                images=work.batch * work.batches,
            )
        )
    return cases


def _memory(step: Workload, step_l14: Workload) -> list[Case]:
    return [
        Case(
            name=f"memory-{name}",
            title=f"peak memory of the LoRA step, {title}",
            entries=against_twin(work),
            target=0.8,
            measure="memory",
            repeats=2,
        )
        for name, title, work in (("b16", "B16-224, batch 4", step), ("l14", "L14-336, batch 1", step_l14))
    ]


def _starts(scratch: str, step_l14: Workload) -> list[Case]:
    def alone(cache: str) -> tuple[Entry, ...]:
        return (Entry(label="ours", side="ours.start", work=StartWork(workload=step_l14, cache=cache)),)

    folder = os.path.join(scratch, "compiled")
    return [
        Case(
            name="compile",
            title="lower and compile, LoRA step of L14-336",
            entries=alone(""),
            target=25.0,
            measure="fact",
            fact="compile_seconds",
            repeats=2,
        ),
        Case(
            name="compile-again",
            title="the same, second start, from the cache",
            entries=alone(folder),
            target=6.0,
            measure="fact",
            fact="compile_seconds",
            repeats=2,
        ),
        Case(
            name="import",
            title="import softbio_jax",
            entries=alone(folder),
            target=1.5,
            measure="fact",
            fact="package_seconds",
            repeats=2,
        ),
    ]


def _scaling(step: Workload) -> list[Case]:
    def case(name: str, title: str, target: float, *entries: Entry) -> Case:
        return Case(name=name, title=title, entries=entries, target=target, repeats=5)

    def but(base: Workload = step, /, **changes: Any) -> Workload:
        return dataclasses.replace(base, **changes)

    forward = but(work="forward", rank=_THESIS_RANK)
    forward_l14 = but(forward, batch=1, **_L14)
    return [
        case(
            "scale-batch",
            "LoRA step an image, batch 8 vs batch 4",
            1.05,
            *against_itself("batch 8", but(batch=8), "batch 4", step, units=(8, 4)),
        ),
        case(
            "scale-depth",
            "LoRA step a block, 12 blocks vs 6",
            1.05,
            *against_itself("12 blocks", step, "6 blocks", but(layers=6), units=(12, 6)),
        ),
        case(
            "scale-tasks",
            "LoRA step, 3 tasks vs 1",
            1.02,
            *against_itself("3 tasks", step, "1 task", but(tasks=("age",))),
        ),
        case(
            "scale-dora",
            "DoRA step vs LoRA step",
            1.15,
            *against_itself("DoRA", but(method="dora"), "LoRA", step),
        ),
        case(
            "scale-mtlora",
            "MTLoRA forward vs LoRA forward, rank 64",
            1.10,
            *against_itself("MTLoRA", but(forward, method="mtlora"), "LoRA", forward),
        ),
        case(
            "scale-mtlora-l14",
            "the same, PE-Core-L14-336, batch 1",
            1.10,
            *against_itself("MTLoRA", but(forward_l14, method="mtlora"), "LoRA", forward_l14),
        ),
    ]


def _features() -> list[Case]:
    def case(name: str, title: str, target: float, fact: str, part: Any, **arguments: str) -> Case:
        work = FeatureWork(part=part, arguments=arguments)
        return Case(
            name=name,
            title=title,
            entries=(Entry(label="ours", side="ours.features", work=work),),
            target=target,
            measure="fact",
            fact=fact,
            repeats=1,
            warm_ups=0,
        )

    return [
        case(
            "lp-epoch-linear",
            "LP, an epoch over 168,362 cached features, linear heads",
            3.0,
            "epoch_seconds",
            "epoch",
            head="linear",
        ),
        case("lp-epoch-deep", "the same, deep heads", 40.0, "epoch_seconds", "epoch", head="deep"),
        case(
            "lp-sweep",
            "LP, 50 rates and decays at once, 10 epochs, linear heads",
            180.0,
            "sweep_seconds",
            "sweep",
        ),
        case(
            "lp-probe",
            "LP, 20 epochs on 12,500 images: features once vs the encoder every epoch",
            0.08,
            "probe_ratio",
            "probe",
            variant="PE-Core-B16-224",
        ),
    ]


def gpu_suite(scratch: str) -> list[Case]:
    """Returns the cases in bfloat16 on one GPU, PE-Core-L14-336, the most important ones first."""
    common: dict[str, Any] = {"dtype": "bfloat16", "steps": 5, **_L14}
    step = Workload(work="train", method="lora", batch=64, **common)
    dora = dataclasses.replace(step, method="dora")
    mtlora = dataclasses.replace(step, method="mtlora", rank=_THESIS_RANK)
    passes = Workload(work="forward", method="merged", batch=128, **common)
    images = InputWork(folder=scratch, source_side=384, image_size=336)
    # Eager is slower on a GPU, and its memory would not leave room. One block compiles sooner than 24.
    trained, frozen = ("blocks compiled",), ("compiled",)

    def case(name: str, title: str, work: Workload, forms: tuple[str, ...], rate: float = 0.0) -> Case:
        return Case(
            name=name,
            title=title,
            entries=against_twin(work, forms=forms),
            target=0.95,
            repeats=5,
            images=work.batch * work.steps,
            least_rate=rate,
        )

    def by_xla(name: str, title: str, work: Workload) -> Case:
        # In processes of its own: a device counts the memory of a process, not of a workload.
        alone = case(name, f"{title}, attention=xla", dataclasses.replace(work, attention="xla"), ())
        return dataclasses.replace(alone, target=None)

    return [
        case("lora-l14", "LoRA step, L14-336, batch 64", step, trained, 500),
        case("infer-l14", "inference, merged, batch 128", passes, frozen, 1300),
        case("mtlora-l14", "MTLoRA step, rank 64", mtlora, trained),
        case("ft4-l14", "FT_4 step", dataclasses.replace(step, method="ft4"), trained, 760),
        by_xla("lora-l14-xla", "LoRA step", step),
        by_xla("infer-l14-xla", "inference", passes),
        Case(
            name="scale-dora",
            title="DoRA step vs LoRA step",
            target=1.15,
            entries=against_itself("DoRA", dora, "LoRA", step),
        ),
        Case(
            name="idle",
            title="share of the LoRA step's time that waits for input",
            target=3.0,
            entries=(Entry(label="ours", side="ours.idle", work=IdleWork(workload=step, images=images)),),
            measure="fact",
            fact="idle_percent",
            repeats=1,
            warm_ups=0,
        ),
    ]
