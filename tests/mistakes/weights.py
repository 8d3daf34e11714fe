"""Mistakes with checkpoints, adapters, heads and tables of predictions."""

import functools
import json

import pytest
import safetensors.numpy

from softbio_jax.evaluation import predictions_csv
from softbio_jax.interop import formats, peft
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import vision_config
from tests.adapters import towers
from tests.evaluation.fixtures import random_predictions
from tests.mistakes.running import Mistake


@functools.cache
def _state(variant, *, text=False):
    return named_state(formats.official_shapes(variant, text=text))


def _convert(world, variant="tiny-test", src="tower.safetensors", *flags):
    return lambda: world.script(
        "convert.py",
        f"--variant={variant}",
        f"--src={world.tmp / src}",
        f"--dst={world.tmp}/new.safetensors",
        "--dst_format=softbio",
        *flags,
    )


def _other_variant(world, wrong):
    """B's weights for S, whose names are the same."""
    save_arrays(world.tmp / "tower.safetensors", _state("tiny-demo"), metadata={})
    return _convert(world, "tiny-test" if wrong else "tiny-demo")


def _truncated(world, wrong):
    path = world.tmp / "tower.safetensors"
    save_arrays(path, _state("tiny-test"), metadata={})
    if wrong:
        path.write_bytes(path.read_bytes()[:-1000])
    return _convert(world)


class _Code:
    def __reduce__(self):
        return print, ("this must not be run",)


def _pickle(world, wrong):
    torch = pytest.importorskip("torch", reason=".pt files are read by torch")
    state = {key: torch.from_numpy(array) for key, array in _state("tiny-test").items()}
    torch.save(state | ({"extra": _Code()} if wrong else {}), world.tmp / "tower.pt")
    return _convert(world, "tiny-test", "tower.pt")


def _normalization(world, wrong):
    save_arrays(world.tmp / "tower.safetensors", _state("tiny-test"), metadata={})
    clip = [0.48145466, 0.4578275, 0.40821073]
    mean = clip if wrong else [0.5, 0.5, 0.5]
    config = {"pretrained_cfg": {"mean": mean, "std": [0.5, 0.5, 0.5]}}
    (world.tmp / "config.json").write_text(json.dumps(config))
    return _convert(world)


def _something_else(world, wrong):
    state = _state("tiny-test")
    if wrong:
        state = {f"model.{key}": array for key, array in state.items()}
    save_arrays(world.tmp / "tower.safetensors", state, metadata={})
    return _convert(world)


def _no_text_tower(world, wrong):
    save_arrays(world.tmp / "a.safetensors", _state("tiny-test", text=not wrong), metadata={})
    from softbio_jax.evaluation.zero_shot.classifier import zero_shot_classifier
    from softbio_jax.evaluation.zero_shot.prompts import load_prompts

    if not wrong:
        return lambda: world.call(
            lambda: zero_shot_classifier(
                world.tmp / "a.safetensors", variant="tiny-test", prompts=load_prompts("thesis")
            )
        )
    return lambda: world.script(
        "evaluate.py",
        "--zero_shot",
        f"--workdir={world.tmp}/zs",
        "--variant=tiny-test",
        f"--checkpoint={world.tmp}/a.safetensors",
        f"--data={world.data}",
        "--test=synthetic_utkface/test",
    )


def _adapter(world, name="lora"):
    model = towers.model(towers.METHODS[name])
    params = towers.stirred(towers.variables(model)["params"])
    peft.write(world.tmp / "adapter", peft.collect(params, model.adapters))


def _read_adapter(world, variant="tiny-test"):
    folder = world.tmp / "adapter"
    return lambda: world.call(lambda: peft.read(folder, vision_config(variant)))


def _adapter_of_another_variant(world, wrong):
    _adapter(world)
    return _read_adapter(world, "tiny-demo" if wrong else "tiny-test")


def _edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _adapter_rank(world, wrong):
    _adapter(world)
    _edit(world.tmp / "adapter" / peft.CONFIG, r=8 if wrong else 4)
    return _read_adapter(world)


def _other_peft(world, wrong):
    _adapter(world)
    _edit(world.tmp / "adapter" / peft.CONFIG, peft_type="IA3" if wrong else "LORA")
    return _read_adapter(world)


def _bundle(world):
    from softbio_jax.inference import bundle
    from tests.inference.test_bundle import bundle_of

    bundle.save(bundle_of("lp")[0], world.tmp / "model")
    return world.tmp / "model"


def _open(world):
    from softbio_jax.inference import predictor

    return lambda: world.call(lambda: predictor.open_bundle(world.tmp / "model"))


def _head_classes(world, wrong):
    """A head of seven age classes under a configuration that names nine."""
    path = _bundle(world) / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    if wrong:
        for key in [k for k in arrays if "heads/age/dense_out" in k]:
            arrays[key] = arrays[key][..., :7].copy()
    safetensors.numpy.save_file(arrays, path)
    return _open(world)


def _bundle_normalization(world, wrong):
    path = _bundle(world) / "config.json"
    if wrong:
        values = json.loads(path.read_text())
        values["preprocessing"]["mean"] = [0.485, 0.456, 0.406]
        path.write_text(json.dumps(values))
    return _open(world)


def _no_model(world, wrong):
    del wrong
    (world.tmp / "runs").mkdir()
    return lambda: world.script("predict.py", f"--model={world.tmp}/runs/mine", "--faces=crop", world.tmp)


def _columns_in_another_order(world, wrong):
    path = predictions_csv.save(random_predictions("theirs", n=5), world.tmp / "theirs.csv")
    if wrong:
        text = path.read_text()
        swapped = text.replace("gender_male,gender_female", "gender_female,gender_male")
        path.write_text(swapped)
    return lambda: world.call(lambda: predictions_csv.load(path))


def _logits_for_probabilities(world, wrong):
    path = predictions_csv.save(random_predictions("theirs", n=5), world.tmp / "theirs.csv")
    if wrong:
        header, first, *rest = path.read_text().splitlines()
        cells = first.split(",")
        cells[header.split(",").index("gender_male")] = "3.25"
        path.write_text("\n".join([header, ",".join(cells), *rest]) + "\n")
    return lambda: world.call(lambda: predictions_csv.load(path))


MISTAKES = (
    Mistake(
        name="A checkpoint of another variant",
        make=_other_variant,
        cause="checkpoint of tiny-demo given for tiny-test",
        fix="the variant to tiny-demo",
    ),
    Mistake(
        name="A checkpoint of another model",
        make=_something_else,
        cause="not a Perception Encoder checkpoint",
        fix="give a checkpoint of the vision",
    ),
    Mistake(
        name="A file that was not downloaded to its end",
        make=_truncated,
        cause="unreadable safetensors file",
        fix="fetch or write the file again",
    ),
    Mistake(
        name="A pickle with code in it",
        make=_pickle,
        cause="refused: the pickle holds more than tensors",
        fix="ask for a safetensors file",
    ),
    Mistake(
        name="Weights of another mean and standard deviation",
        make=_normalization,
        cause=r"another normalisation.*config.json mean.*0.4814",
        fix="Perception Encoder",
    ),
    Mistake(
        name="A saved model whose mean was changed",
        make=_bundle_normalization,
        cause=r"another preprocessing.*mean.*0.485",
        fix="0.5",
    ),
    Mistake(
        name="Zero-shot without a text tower",
        make=_no_text_tower,
        cause="no text tower in the checkpoint",
        fix="give the official",
    ),
    Mistake(
        name="An adapter of another variant",
        make=_adapter_of_another_variant,
        cause="adapter of another variant.*expected tiny-demo",
        fix="it was trained on",
    ),
    Mistake(
        name="An adapter whose configuration names another rank",
        make=_adapter_rank,
        cause="adapter rank does not fit its configuration.*rank 8.*rank 4",
        fix="of the same adapter",
    ),
    Mistake(
        name="An adapter of another kind",
        make=_other_peft,
        cause="not a LoRA adapter.*IA3",
        fix="give a LoRA or DoRA adapter",
    ),
    Mistake(
        name="A head with other classes",
        make=_head_classes,
        cause="head with other classes.*age: expected 9.*found 7",
        fix="of the same model",
    ),
    Mistake(
        name="A model that is not there",
        make=_no_model,
        right=False,
        cause="no such model.*runs/mine",
        fix="correct the path",
    ),
    Mistake(
        name="Predictions with the columns in another order",
        make=_columns_in_another_order,
        cause="gender classes in another order",
        fix="in the expected order",
    ),
    Mistake(
        name="Logits in the place of probabilities",
        make=_logits_for_probabilities,
        cause="probabilit",
        fix="softmax|divide",
    ),
)
