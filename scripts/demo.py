"""Draws synthetic faces, adapts a small frozen encoder with multitask LoRA, and evaluates it.

The encoder is assets/tiny_demo.safetensors, made by scripts/dev/pretrain_tiny.py.

python scripts/demo.py --out=runs/demo
"""

import pathlib
import runpy
import time
from collections.abc import Sequence

from absl import flags

from softbio_jax import command, files

_OUT = flags.DEFINE_string("out", "runs/demo", "Folder of the data and the run.")
_FACES = flags.DEFINE_integer("faces", 8000, "Training faces over all four sets.")
_TEST_FACES = flags.DEFINE_integer("test_faces", 600, "Faces per test set.")
_STEPS = flags.DEFINE_integer("steps", 0, "Training steps; 0: those of configs/demo.py.")

_SIZE = 48  # pixels


def main(argv: Sequence[str]) -> None:
    del argv
    out = files.local(_OUT.value, what="the demo", fix="name a folder on a disk")
    started = time.perf_counter()
    _draw(out / "data")
    _adapt(out)
    print(
        f"all done in {time.perf_counter() - started:.0f} s; "
        f"confusion matrices: {out / 'run' / 'eval' / 'confusion'}"
    )


def _draw(root: pathlib.Path) -> None:
    """Prepares the four training sets, in the thesis' proportions, and the four test sets."""
    from softbio_jax.data.drawing import synthetic
    from softbio_jax.data.prepare import prepare

    counts = synthetic.composite_counts(_FACES.value)
    for name in dict.fromkeys([*synthetic.SOURCES, *synthetic.TEST_SETS]):
        if (root / name).exists():
            continue
        report = prepare.prepare(
            "synthetic",
            source=name,
            out=root / name,
            size=_SIZE,
            count=counts.get(name),
            test_count=_TEST_FACES.value,
        )
        splits = ", ".join(f"{split} {part['kept']:,}" for split, part in report["splits"].items())
        print(f"drew {name}: {splits}", flush=True)


def _adapt(out: pathlib.Path) -> None:
    from softbio_jax.runs import build
    from softbio_jax.runs.data import open_all
    from softbio_jax.train import loop

    here = pathlib.Path(__file__).resolve().parent.parent
    config = runpy.run_path(str(here / "configs" / "demo.py"))["get_config"]()
    config.model.pretrained = str(here / "assets" / "tiny_demo.safetensors")
    config.data.root = str(out / "data")
    if _STEPS.value:
        config.train.steps = _STEPS.value
        config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, _STEPS.value // 2)
    run = build.build(config.to_dict())
    loop.train_and_evaluate(run, open_all(run.config.data), out / "run")


if __name__ == "__main__":
    command.run(main)
