"""Writes a trained run in a form that other programs read.

  python scripts/export.py --model=runs/mine --format=stablehlo --out=exports/stablehlo
  python scripts/export.py --model=runs/mine --format=onnx --int8 --out=exports/onnx
  python scripts/export.py --model=runs/mine --format=litert --int8 --out=exports/litert
  python scripts/export.py --model=runs/mine --format=litert --int8 --calibrate=data/mine --out=robot
  python scripts/export.py --model=runs/mine --format=safetensors --keys=timm --out=t.safetensors
  python scripts/export.py --model=runs/mine --format=peft --out=exports/adapter

  python scripts/export.py --model=runs/mine --compare=exports/onnx,exports/litert \\
      --data=data/fairface,data/utkface --out=exports/table.md

  python scripts/export.py --check=exports/onnx --tensor=mine.npy --logits=mine.json

stablehlo, onnx and litert are complete models, uint8 images in and logits out, in a new folder with a
config.json that names the classes. With --calibrate, activations are int8 as well, by ranges measured on
the user's images; a model whose probabilities change too much is refused. safetensors is the encoder with
its adapters merged, and the heads in a second file; peft and thesis are the adapters, which only a run
still has. --compare runs complete models on the test images of prepared data and writes a table of size,
latency and accuracy, or their values if the file's name ends in .json. --check compares what another program
makes of the reference.jpg of an export, and names the step that differs. docs/export.md describes how each
is read.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from softbio_jax import command, files
from softbio_jax.console import Console
from softbio_jax.errors import UserError

_MODELS, _ADAPTERS = ("stablehlo", "onnx", "litert"), ("peft", "thesis")
_MODEL = flags.DEFINE_string("model", None, "A run of scripts/train.py, or a saved model.")
_FORMAT = flags.DEFINE_enum("format", None, [*_MODELS, "safetensors", *_ADAPTERS], "What to write.")
_COMPARE = flags.DEFINE_list("compare", None, "Exported folders to compare, instead of --format.")
_DATA = flags.DEFINE_list(
    "data", None, "compare: folders of prepared data, DIR for its test split or DIR:SPLIT."
)
_IMAGES = flags.DEFINE_integer(
    "images", None, "compare: maximum number of images per data set.", lower_bound=1
)
flags.DEFINE_alias("pictures", "images")  # the former name
_OUT = flags.DEFINE_string("out", None, "Folder or file to write; must not exist.")
_CHECK = flags.DEFINE_string(
    "check", None, "An exported folder or encoder to compare --tensor or --logits with, instead of --format."
)
_TENSOR = flags.DEFINE_string(
    "tensor", None, "check: .npy file of the input that another program makes of reference.jpg."
)
_LOGITS = flags.DEFINE_string("logits", None, 'check: .json file {"task": [logits]} of another program.')
_INT8 = flags.DEFINE_bool("int8", False, "onnx, litert: also write a file with int8 weights.")
_CALIBRATE = flags.DEFINE_list(
    "calibrate",
    None,
    "int8: measure the ranges of int8 activations on these face crops: prepared data as DIR (its split "
    "train) or DIR:SPLIT, or folders of images.",
)
_CALIBRATION_IMAGES = flags.DEFINE_integer(
    "calibration_images", 256, "calibrate: maximum number of images.", lower_bound=4, upper_bound=100_000
)
_TOLERANCE = flags.DEFINE_float(
    "tolerance",
    0.05,
    "calibrate: largest mean distance of a task's probabilities from float32 (total variation). The lower it "
    "is, the more layers measure their ranges in every call; with 1, as few as possible.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_BATCH = flags.DEFINE_integer(
    "batch", 1, "litert: images per call; the other formats take any number.", lower_bound=1, upper_bound=1024
)
_KEYS = flags.DEFINE_enum(
    "keys",
    None,
    ["official", "timm", "transformers"],
    "safetensors, peft: names of the weights; official by default, of peft timm's.",
)
_TASK = flags.DEFINE_string("task", None, "safetensors: whose encoder, where MTLoRA has several.")
_READERS = {
    "int8": ["--format=onnx", "--format=litert"],
    "calibrate": ["--format=onnx", "--format=litert"],
    "calibration_images": ["--format=onnx", "--format=litert"],
    "tolerance": ["--format=onnx", "--format=litert"],
    "batch": ["--format=litert"],
    "keys": ["--format=safetensors", "--format=peft"],
    "task": ["--format=safetensors"],
    "data": ["--compare"],
    "images": ["--compare"],
}


def main(argv: Sequence[str]) -> None:
    del argv
    if _CHECK.value is not None:
        _check()
        return
    for name in ("tensor", "logits"):
        if flags.FLAGS[name].present:
            raise UserError("a flag of --check", where=f"--{name}", fix="add --check=FOLDER, or drop it")
    for name in ("model", "out"):
        if flags.FLAGS[name].value is None:
            raise UserError("a flag is missing", where=f"--{name}", fix=f"add --{name}, or --check=FOLDER")
    out = files.local(_OUT.value, what="an export")
    for path in _files_of(out) if _FORMAT.value == "safetensors" else (out,):
        files.check_new(path)
    if (_FORMAT.value is None) == (_COMPARE.value is None):
        raise UserError(
            "nothing to do, or two things",
            where="flags",
            expected="one of --format, --compare and --check",
            found="neither" if _FORMAT.value is None else "both",
            fix="name one of them",
        )
    mode = "--compare" if _COMPARE.value is not None else f"--format={_FORMAT.value}"
    command.refuse_ignored(mode, _READERS)
    command.refuse_ignored("--int8" if _INT8.value else "no --int8", {"calibrate": ["--int8"]})
    calibrated = "--calibrate" if _CALIBRATE.value else "no --calibrate"
    command.refuse_ignored(calibrated, {"calibration_images": ["--calibrate"], "tolerance": ["--calibrate"]})
    if _COMPARE.value is not None:
        _compare(_COMPARE.value, out)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    write = dict.fromkeys(_MODELS, _complete) | dict.fromkeys(_ADAPTERS, _adapters)
    model = write.get(_FORMAT.value, _encoder)(out)
    written = sorted(out.iterdir()) if out.is_dir() else _files_of(out)
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in written)
    print(f"wrote {out}: {model}, as {_FORMAT.value} ({sizes})")


def _heads_of(encoder: pathlib.Path) -> pathlib.Path:
    return encoder.with_name(f"{encoder.stem}.heads{encoder.suffix}")


def _files_of(encoder: pathlib.Path) -> list[pathlib.Path]:
    beside = ("config.json", "reference.jpg", "reference.json")
    return [encoder, _heads_of(encoder), *(encoder.with_name(f"{encoder.stem}.{name}") for name in beside)]


def _check() -> None:
    from softbio_jax.inference import reference

    for name in ("model", "out", "format", "compare", "data"):
        if flags.FLAGS[name].present:
            raise UserError("--check writes nothing", where=f"--{name}", fix="drop it")
    if _TENSOR.value is None and _LOGITS.value is None:
        fix = "add --tensor=FILE.npy or --logits=FILE.json, made from the reference.jpg of the export"
        raise UserError("nothing to check", where=_CHECK.value, fix=fix)
    if _TENSOR.value is not None:
        print(reference.check_tensor(_CHECK.value, _TENSOR.value), flush=True)
    if _LOGITS.value is not None:
        print(reference.check_logits(_CHECK.value, _LOGITS.value))


def _compare(folders: Sequence[str], out: pathlib.Path) -> None:
    from softbio_jax.data.sources import open_prepared
    from softbio_jax.inference.export import comparison
    from softbio_jax.inference.predictor import open_bundle

    if not _DATA.value:
        raise UserError(
            "no images to compare on",
            where="--data",
            expected="folders of prepared data",
            found="none",
            fix="add --data=DIR[,DIR]",
        )
    named = [text.partition(":") for text in _DATA.value]
    console, bundle = Console(out=sys.stderr), open_bundle(_MODEL.value)
    rows = comparison.compare(
        bundle,
        [pathlib.Path(folder) for folder in folders],
        [open_prepared(pathlib.Path(folder), split or "test") for folder, _, split in named],
        limit=_IMAGES.value,
        console=console,
    )
    console.close()
    text = comparison.table(rows)
    files.write_text(out, comparison.as_json(bundle, rows) if out.suffix == ".json" else text)
    print(text, end="")


def _complete(out: pathlib.Path) -> str:
    from softbio_jax.inference.export import calibration, litert, onnx, stablehlo
    from softbio_jax.inference.predictor import open_bundle

    bundle, images = open_bundle(_MODEL.value), None
    if _CALIBRATE.value:
        images = calibration.read(
            _CALIBRATE.value,
            size=bundle.image_size,
            count=_CALIBRATION_IMAGES.value,
            tolerance=_TOLERANCE.value,
        )
    match _FORMAT.value:
        case "stablehlo":
            stablehlo.write(out, bundle)
        case "onnx":
            onnx.write(out, bundle, int8=_INT8.value, calibration=images)
        case "litert":
            litert.write(out, bundle, int8=_INT8.value, calibration=images, batch=_BATCH.value)
    return f"{bundle.variant}, {bundle.method}"


def _encoder(out: pathlib.Path) -> str:
    from softbio_jax.inference.export import torch_reference
    from softbio_jax.inference.predictor import open_bundle
    from softbio_jax.interop import formats, peft, torch_heads
    from softbio_jax.interop.safe_load import save_arrays

    bundle = open_bundle(_MODEL.value)
    names = [task.name for task in bundle.tasks]
    if _TASK.value is not None and _TASK.value not in names:
        raise UserError(
            "unknown task",
            where="--task",
            expected=", ".join(names),
            found=repr(_TASK.value),
            fix="name one of them",
        )
    if _TASK.value is not None and bundle.model.adapters.per_task is None:
        raise UserError(
            "one encoder serves all tasks",
            where="--task",
            expected="a model with adapters per task (MTLoRA)",
            found=bundle.method,
            fix="omit --task",
        )
    params, stats = bundle.variables["params"], bundle.variables["batch_stats"]
    task = None if _TASK.value is None else names.index(_TASK.value)
    arrays = peft.merged(params, bundle.model.adapters, task=task)
    keys = _KEYS.value or "official"
    arrays = formats.written(bundle.model.config, keys, formats.official.add_prefix(arrays))
    save_arrays(out, arrays, metadata={"format": "pt", "variant": bundle.variant})
    try:
        torch_heads.save(_heads_of(out), params, stats, bundle.tasks, feature=bundle.model.feature)
        torch_reference.write(out, bundle, layout=keys, tasks=names if task is None else [names[task]])
    except BaseException:
        for path in _files_of(out):  # an encoder without its heads would look like a complete export
            path.unlink(missing_ok=True)
        raise
    return f"{bundle.variant}, {bundle.method}"


def _adapters(out: pathlib.Path) -> str:
    from softbio_jax.inference import bundle
    from softbio_jax.interop import adapter_files, peft
    from softbio_jax.runs.restore import restore_run
    from softbio_jax.thesis import files as thesis_files

    run = pathlib.Path(_MODEL.value)
    if bundle.is_bundle(run):
        raise UserError(
            "a saved model has its adapters merged",
            where=str(run),
            expected="a run of scripts/train.py",
            found="a saved model",
            fix="give the run it came from, or use --format=safetensors",
        )
    session = restore_run(run)
    model, params = session.run.model, session.params()
    if not model.adapters.rules:
        raise UserError(
            "no adapters in this run",
            where=str(run),
            expected="a run of lora, lora_plus, dora or mtlora",
            found=session.run.method.name,
            fix="use --format=safetensors",
        )
    naming = _KEYS.value or "timm"
    if naming == "official" and model.config.family not in ("perception", "clip"):
        raise UserError(
            "no such names of adapters",
            where="--keys",
            expected="timm or transformers",
            found=f"official, of {model.config.name}",
            fix="add --keys=timm",
        )
    with files.atomic_folder(out) as folder:
        if _FORMAT.value == "peft":
            adapter = peft.collect(params, model.adapters)
            peft.write(folder, adapter, naming=naming, base_model=model.config.name, config=model.config)
        else:
            stats = session.state.batch_stats
            trained = adapter_files.of_model(params, stats, model.adapters)
            thesis_files.write(folder, trained, model.tasks)
    return f"{model.config.name}, {session.run.method.name}"


if __name__ == "__main__":
    command.run(main)
