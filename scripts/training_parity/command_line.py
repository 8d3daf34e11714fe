"""`scripts/parity.py --training`: what its flags choose."""

import dataclasses
import importlib
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from softbio_jax.errors import UserError, nearest
from softbio_jax.models.config import vision_config
from softbio_jax.runs.directory import read_config
from training_parity import batches, case
from training_parity.case import Case
from training_parity.ladder import Rung
from training_parity.switches import Switches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is compared, as the flags of `scripts/parity.py` say it."""

    variant: str
    checkpoint: str  # empty: drawn weights
    image_size: int  # pixels; 0: the variant's own
    dtype: str  # "float64", or "float32"
    seed: int  # of drawn weights and batches
    method: str
    run: str | None
    steps: int
    batch: int
    cut: bool
    uncertainty: bool
    batches: str | None
    as_torch: Sequence[str]
    save: str | None


def main(options: Options) -> int:
    """Compares a training run with PyTorch's and prints the ladder; returns 1 where the sides part.

    Raises:
      UserError: torch is missing, or the twin lacks a setting.
    """
    comparison, report = (_with_torch(name) for name in ("comparison", "report"))
    chosen = _case(options)
    start = case.start(chosen, seed=options.seed)
    stream = _stream(chosen, options)
    size, batch = chosen.run.image_size, chosen.config.train.batch_size
    shape = f"{chosen.encoder.layers} blocks, {size} pixels, batch {batch}, {options.steps} steps"
    print(f"{chosen.name}: {shape}, {options.dtype}, against timm, peft and torch", flush=True)
    switches, began = _switches(options.as_torch), time.monotonic()
    if options.dtype == "float64":
        found = comparison.in_float64(chosen, start, stream, switches=switches, progress=_progress)
        print(report.wide_text(found))
        parted = found.first is not None
    else:
        found = comparison.in_float32(chosen, start, stream, switches=switches, progress=_progress)
        print(report.narrow_text(found))
        parted = not found.holds()
    seconds = time.monotonic() - began
    print(f"{seconds:.0f} s")
    if options.save:
        values = report.as_json(found, steps=options.steps, seconds=seconds)
        report.save(pathlib.Path(options.save), chosen.name, values)
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


def _case(options: Options) -> Case:
    if options.run is None:
        return case.of_method(
            options.method,
            variant=vision_config(options.variant).name,
            cut=options.cut,
            uncertainty=options.uncertainty,
            steps=options.steps,
            batch=options.batch,
            image_size=options.image_size,
            checkpoint=options.checkpoint,
        )
    config = read_config(options.run)
    # Drawn weights unless a checkpoint is named: the run's own file may be elsewhere.
    model = dataclasses.replace(config.model, pretrained=options.checkpoint)
    if options.image_size:
        model = dataclasses.replace(model, image_size=options.image_size)
    train = dataclasses.replace(config.train, batch_size=options.batch, eval_batch_size=options.batch)
    config = dataclasses.replace(config, model=model, train=train)
    return case.of_config(
        config, name=f"{config.model.variant} {config.method['name']} of {options.run}", cut=options.cut
    )


def _stream(chosen: Case, options: Options) -> list[batches.Batch]:
    path = pathlib.Path(options.batches) if options.batches else None
    if path is not None and path.exists():
        return batches.load(path, chosen, options.steps)
    stream = batches.drawn(chosen, options.steps, seed=options.seed)
    if path is not None:
        batches.save(path, stream)
    return stream


def _switches(as_torch: Sequence[str]) -> Switches:
    known = {
        field.name for field in dataclasses.fields(Switches) if field.type is bool or field.type == "bool"
    }
    for name in as_torch:
        if name not in known:
            raise UserError(
                "no such switch",
                where="--as_torch",
                expected=", ".join(sorted(known)),
                found=name,
                fix=nearest(name, sorted(known), otherwise="use one of them"),
            )
    return Switches(**dict.fromkeys(as_torch, False))


def _progress(step: int, worst: Rung) -> None:
    if (step + 1) % 10 == 0:
        print(f"  {worst}", flush=True)
