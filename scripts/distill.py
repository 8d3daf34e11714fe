"""Trains a small model to give the answers of a large one, on images with and without labels.

python scripts/distill.py --teacher=runs/large --student=PE-Core-T16-384 --data=fairface/train,crowd/train \\
    --test=fairface/val --workdir=runs/small --config.model.image_size=96
python scripts/distill.py --teacher=runs/large --student=dinov2-s14 --config.model.blocks=6 \\
    --config.model.pretrained=vit_small_patch14_dinov2.safetensors --data=... --workdir=runs/small
python scripts/distill.py --config=configs/finetune.py:method=lora,steps=2000 --config.distill.weight=0.9 ...
python scripts/distill.py --teacher=runs/large ... --workdir=runs/small --export=robot --format=litert

The tasks are the teacher's. The result is a run like any other: it is resumed by the same command,
evaluated, exported and used as one. With --export, the student is also written for a runtime without JAX,
in float32 and int8, its ranges measured on the images of --data. scripts/train.py
--config.distill.teacher=... does the same for any configuration and on several hosts;
--config.distill.targets=cached runs the teacher once per image.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

from softbio_jax import command, files
from softbio_jax.train import huge_pages

if TYPE_CHECKING:
    from softbio_jax.runs.config import RunConfig

_TEACHER = flags.DEFINE_string(
    "teacher", None, "The trained model: a run directory, a saved model or a hub id."
)
_STUDENT = flags.DEFINE_string("student", None, "Variant of the small encoder, see docs/backbones.md.")
_DATA = flags.DEFINE_list(
    "data", None, "NAME/SPLIT of the training sets in --config.data.root, labelled or not."
)
_TEST = flags.DEFINE_list("test", [], "NAME/SPLIT of the test sets.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory of the student.")
_EXPORT = flags.DEFINE_string("export", None, "New folder for the student, to run without JAX.")
_FORMAT = flags.DEFINE_enum("format", "litert", ["litert", "onnx"], "export: what to write.")
_DEFAULT = "configs/finetune.py:method=full"
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    f"A file of configs/ for everything else; by default {_DEFAULT}.",
    lock_config=False,
    accept_new_attributes=True,
)
flags.mark_flags_as_required(["teacher", "student", "data", "workdir"])


def main(argv: Sequence[str]) -> int:
    del argv
    from softbio_jax.interop.reading.locate import check_source
    from softbio_jax.runs import build
    from softbio_jax.runs.config import config_from
    from softbio_jax.runs.data import open_all
    from softbio_jax.train import loop
    from softbio_jax.train.distillation import teacher as teachers
    from softbio_jax.train.preemption import EXIT_SAVED, Preempted, Preemption

    _check_export()
    values = _CONFIG.value.to_dict()
    values["model"]["variant"] = _STUDENT.value
    values["data"] |= {"train": tuple(_DATA.value), "test": tuple(_TEST.value)}
    values["distill"] = values.get("distill", {}) | {"teacher": _TEACHER.value}
    with Preemption() as preemption:
        found = teachers.opened(_TEACHER.value)
        values["tasks"] = tuple(task.name for task in found.tasks)
        config, teacher = teachers.load(config_from(values), found)
        if config.model.pretrained:
            check_source(config.model.pretrained, of="model.pretrained")
        run = build.build(config, teacher=teacher)
        try:
            loop.train_and_evaluate(run, open_all(config.data), _WORKDIR.value, preemption=preemption)
        except Preempted as stop:
            print(stop, file=sys.stderr)
            return EXIT_SAVED
    if _EXPORT.value is not None:
        _export(config, _EXPORT.value)
    return 0


def _check_export() -> None:
    """Refuses, before anything is trained, an export that could not be written."""
    command.refuse_ignored("no --export" if _EXPORT.value is None else "--export", {"format": ["--export"]})
    if _EXPORT.value is not None:
        files.check_new(_EXPORT.value, where=f"--export={_EXPORT.value}")
        _writer().check_installed()


def _writer() -> ModuleType:
    return importlib.import_module(f"softbio_jax.inference.export.{_FORMAT.value}")


def _export(config: RunConfig, folder: str) -> None:
    from softbio_jax.inference.export import calibration
    from softbio_jax.inference.predictor import open_bundle

    bundle = open_bundle(_WORKDIR.value)
    parts = [name.rpartition("/") for name in config.data.train]
    sources = [f"{os.path.join(config.data.root, name)}:{split}" for name, _, split in parts]
    images = calibration.read(sources, size=bundle.image_size)
    _writer().write(folder, bundle, int8=True, calibration=images)
    print(f"wrote {folder}: float32 and int8, and run.py, which needs no JAX")


if __name__ == "__main__":
    huge_pages.restart()
    # Not the flag's own default, whose overrides would be read before their mistakes can be one line.
    if not any(argument.lstrip("-").split("=")[0] == "config" for argument in sys.argv[1:]):
        sys.argv.insert(1, f"--config={_DEFAULT}")
    command.run(main)
