"""`scripts/parity.py --training`: its flags, and what they choose."""

import dataclasses
import importlib
import pathlib
import time
from typing import Any

from absl import flags

from softbio_jax import command
from softbio_jax.errors import UserError, nearest
from softbio_jax.models.config import vision_config
from softbio_jax.runs.directory import read_config
from training_parity import batches, case
from training_parity.case import Case
from training_parity.ladder import Rung
from training_parity.switches import Switches

_METHOD = flags.DEFINE_enum("method", "lora", list(case.METHODS), "With --training: the method.")
_RUN = flags.DEFINE_string(
    "run", None, "With --training: a run's directory, whose model, method and optimizer are compared."
)
_STEPS = flags.DEFINE_integer("steps", 20, "With --training: optimizer steps.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 8, "With --training: examples per step.", lower_bound=2)
_CUT = flags.DEFINE_bool("cut", False, "With --training: 5 blocks of the variant, images of 3 x 3 patches.")
_UNCERTAINTY = flags.DEFINE_bool("uncertainty", True, "With --training: whether log-variances are learned.")
_BATCHES = flags.DEFINE_string("batches", None, "With --training: a file that keeps the augmented batches.")
_AS_TORCH = flags.DEFINE_multi_string(
    "as_torch",
    [],
    "With --training: a switch by which the twin does as PyTorch, see docs/training_parity.md.",
)
_SAVE = flags.DEFINE_string("save", None, "With --training: a JSON file that the comparison is added to.")
FLAGS = ("method", "run", "steps", "batch", "cut", "uncertainty", "batches", "as_torch", "save")


def main(*, variant: str, checkpoint: str, image_size: int, dtype: str, seed: int) -> int:
    """Compares a training run with PyTorch's and prints the ladder; returns 1 where the sides part.

    Args:
      variant: the encoder.
      checkpoint: its weights, or empty.
      image_size: pixels; 0: the variant's own.
      dtype: "float64", or "float32".
      seed: of drawn weights and batches.
    """
    comparison, report = (_with_torch(name) for name in ("comparison", "report"))
    chosen = _case(variant, checkpoint, image_size)
    start = case.start(chosen, seed=seed)
    stream = _stream(chosen, seed)
    size, batch = chosen.run.image_size, chosen.config.train.batch_size
    shape = f"{chosen.encoder.layers} blocks, {size} pixels, batch {batch}, {_STEPS.value} steps"
    print(f"{chosen.name}: {shape}, {dtype}, against timm, peft and torch", flush=True)
    began = time.monotonic()
    if dtype == "float64":
        found = comparison.in_float64(chosen, start, stream, switches=_switches(), progress=_progress)
        print(report.wide_text(found))
        parted = found.first is not None
    else:
        found = comparison.in_float32(chosen, start, stream, switches=_switches(), progress=_progress)
        print(report.narrow_text(found))
        parted = not found.holds()
    seconds = time.monotonic() - began
    print(f"{seconds:.0f} s")
    if _SAVE.value:
        values = report.as_json(found, steps=_STEPS.value, seconds=seconds)
        report.save(pathlib.Path(_SAVE.value), chosen.name, values)
    return int(parted)


def _with_torch(name: str) -> Any:
    """Imports a module that needs torch, timm and peft, which the forward ladder does not."""
    try:
        return importlib.import_module(f"training_parity.{name}")
    except ImportError as error:
        raise UserError(
            "a package is missing",
            where="--training",
            expected="torch, timm and peft",
            found=str(error),
            fix="make test-parity sets it up, or pip install 'softbio-jax[parity]'",
        ) from error


def _case(variant: str, checkpoint: str, image_size: int) -> Case:
    if _RUN.value is None:
        return case.of_method(
            _METHOD.value,
            variant=vision_config(variant).name,
            cut=_CUT.value,
            uncertainty=_UNCERTAINTY.value,
            steps=_STEPS.value,
            batch=_BATCH.value,
            image_size=image_size,
            checkpoint=checkpoint,
        )
    command.refuse_ignored("--run", {name: ("no --run",) for name in ("method", "uncertainty", "variant")})
    config = read_config(_RUN.value)
    # Drawn weights unless a checkpoint is named: the run's own file may be elsewhere.
    model = dataclasses.replace(config.model, pretrained=checkpoint)
    if image_size:
        model = dataclasses.replace(model, image_size=image_size)
    train = dataclasses.replace(config.train, batch_size=_BATCH.value, eval_batch_size=_BATCH.value)
    config = dataclasses.replace(config, model=model, train=train)
    return case.of_config(
        config, name=f"{config.model.variant} {config.method['name']} of {_RUN.value}", cut=_CUT.value
    )


def _stream(chosen: Case, seed: int) -> list[batches.Batch]:
    path = pathlib.Path(_BATCHES.value) if _BATCHES.value else None
    if path is not None and path.exists():
        return batches.load(path, chosen, _STEPS.value)
    stream = batches.drawn(chosen, _STEPS.value, seed=seed)
    if path is not None:
        batches.save(path, stream)
    return stream


def _switches() -> Switches:
    known = {
        field.name for field in dataclasses.fields(Switches) if field.type is bool or field.type == "bool"
    }
    for name in _AS_TORCH.value:
        if name not in known:
            raise UserError(
                "no such switch",
                where="--as_torch",
                expected=", ".join(sorted(known)),
                found=name,
                fix=nearest(name, sorted(known), otherwise="use one of them"),
            )
    return Switches(**dict.fromkeys(_AS_TORCH.value, False))


def _progress(step: int, worst: Rung) -> None:
    if (step + 1) % 10 == 0:
        print(f"  {worst}", flush=True)
