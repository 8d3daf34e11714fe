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


def _convert(sandbox, variant="tiny-test", src="tower.safetensors", *flags):
    return lambda: sandbox.script(
        "convert.py",
        f"--variant={variant}",
        f"--src={sandbox.tmp / src}",
        f"--dst={sandbox.tmp}/new.safetensors",
        "--dst_format=softbio",
        *flags,
    )


def _other_variant(sandbox, wrong):
    """B's weights for S, whose names are the same."""
    save_arrays(sandbox.tmp / "tower.safetensors", _state("tiny-demo"), metadata={})
    return _convert(sandbox, "tiny-test" if wrong else "tiny-demo")


def _truncated(sandbox, wrong):
    path = sandbox.tmp / "tower.safetensors"
    save_arrays(path, _state("tiny-test"), metadata={})
    if wrong:
        path.write_bytes(path.read_bytes()[:-1000])
    return _convert(sandbox)


class _Code:
    def __reduce__(self):
        return print, ("this must not be run",)


def _pickle(sandbox, wrong):
    torch = pytest.importorskip("torch", reason=".pt files are read by torch")
    state = {key: torch.from_numpy(array) for key, array in _state("tiny-test").items()}
    torch.save(state | ({"extra": _Code()} if wrong else {}), sandbox.tmp / "tower.pt")
    return _convert(sandbox, "tiny-test", "tower.pt")


def _normalization(sandbox, wrong):
    save_arrays(sandbox.tmp / "tower.safetensors", _state("tiny-test"), metadata={})
    clip = [0.48145466, 0.4578275, 0.40821073]
    mean = clip if wrong else [0.5, 0.5, 0.5]
    config = {"pretrained_cfg": {"mean": mean, "std": [0.5, 0.5, 0.5]}}
    (sandbox.tmp / "config.json").write_text(json.dumps(config))
    return _convert(sandbox)


def _something_else(sandbox, wrong):
    state = _state("tiny-test")
    if wrong:
        state = {f"layer{i}.weight": array for i, array in enumerate(state.values())}
    save_arrays(sandbox.tmp / "tower.safetensors", state, metadata={})
    return _convert(sandbox)


def _no_text_encoder(sandbox, wrong):
    save_arrays(sandbox.tmp / "a.safetensors", _state("tiny-test", text=not wrong), metadata={})
    from softbio_jax.evaluation.zero_shot.classifier import zero_shot_classifier
    from softbio_jax.evaluation.zero_shot.prompts import load_prompts

    if not wrong:
        return lambda: sandbox.call(
            lambda: zero_shot_classifier(
                sandbox.tmp / "a.safetensors", variant="tiny-test", prompts=load_prompts("thesis")
            )
        )
    return lambda: sandbox.script(
        "evaluate.py",
        "--zero_shot",
        f"--workdir={sandbox.tmp}/zs",
        "--variant=tiny-test",
        f"--checkpoint={sandbox.tmp}/a.safetensors",
        f"--data={sandbox.data}",
        "--test=synthetic_utkface/test",
    )


def _adapter(sandbox, name="lora"):
    model = towers.model(towers.METHODS[name])
    params = towers.stirred(towers.variables(model)["params"])
    peft.write(sandbox.tmp / "adapter", peft.collect(params, model.adapters))


def _read_adapter(sandbox, variant="tiny-test"):
    folder = sandbox.tmp / "adapter"
    return lambda: sandbox.call(lambda: peft.read(folder, vision_config(variant)))


def _adapter_of_another_variant(sandbox, wrong):
    _adapter(sandbox)
    return _read_adapter(sandbox, "tiny-demo" if wrong else "tiny-test")


def _edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _adapter_rank(sandbox, wrong):
    _adapter(sandbox)
    _edit(sandbox.tmp / "adapter" / peft.CONFIG, r=8 if wrong else 4)
    return _read_adapter(sandbox)


def _other_peft(sandbox, wrong):
    _adapter(sandbox)
    _edit(sandbox.tmp / "adapter" / peft.CONFIG, peft_type="IA3" if wrong else "LORA")
    return _read_adapter(sandbox)


def _bundle(sandbox):
    from softbio_jax.inference import bundle
    from tests.inference.test_bundle import bundle_of

    bundle.save(bundle_of("lp")[0], sandbox.tmp / "model")
    return sandbox.tmp / "model"


def _open(sandbox):
    from softbio_jax.inference import predictor

    return lambda: sandbox.call(lambda: predictor.open_bundle(sandbox.tmp / "model"))


def _head_classes(sandbox, wrong):
    """A head of seven age classes under a configuration that names nine."""
    path = _bundle(sandbox) / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    if wrong:
        for key in [k for k in arrays if "heads/age/dense_out" in k]:
            arrays[key] = arrays[key][..., :7].copy()
    safetensors.numpy.save_file(arrays, path)
    return _open(sandbox)


def _bundle_normalization(sandbox, wrong):
    path = _bundle(sandbox) / "config.json"
    if wrong:
        values = json.loads(path.read_text())
        values["preprocessing"]["mean"] = [0.485, 0.456, 0.406]
        path.write_text(json.dumps(values))
    return _open(sandbox)


def _no_model(sandbox, wrong):
    del wrong
    (sandbox.tmp / "runs").mkdir()
    return lambda: sandbox.script(
        "predict.py", f"--model={sandbox.tmp}/runs/mine", "--faces=crop", sandbox.tmp
    )


def _columns_in_another_order(sandbox, wrong):
    path = predictions_csv.save(random_predictions("theirs", n=5), sandbox.tmp / "theirs.csv")
    if wrong:
        text = path.read_text()
        swapped = text.replace("gender_male,gender_female", "gender_female,gender_male")
        path.write_text(swapped)
    return lambda: sandbox.call(lambda: predictions_csv.load(path))


def _logits_for_probabilities(sandbox, wrong):
    path = predictions_csv.save(random_predictions("theirs", n=5), sandbox.tmp / "theirs.csv")
    if wrong:
        header, first, *rest = path.read_text().splitlines()
        cells = first.split(",")
        cells[header.split(",").index("gender_male")] = "3.25"
        path.write_text("\n".join([header, ",".join(cells), *rest]) + "\n")
    return lambda: sandbox.call(lambda: predictions_csv.load(path))


MISTAKES = (
    Mistake(
        name="A checkpoint of another variant",
        make=_other_variant,
        cause="tiny-demo.*tiny-test",
        fix="tiny-demo",
    ),
    Mistake(
        name="A checkpoint of another model",
        make=_something_else,
        cause="not a checkpoint of a vision encoder: .*tower.safetensors",
        fix="checkpoint",
    ),
    Mistake(
        name="An incomplete download",
        make=_truncated,
        cause="tower.safetensors: expected a complete file",
        fix="again",
    ),
    Mistake(name="A pickle that contains code", make=_pickle, cause="tower.pt", fix="safetensors"),
    Mistake(
        name="Weights with another mean and standard deviation",
        make=_normalization,
        cause=r"another normalisation: .*config.json mean.*0.4814",
        fix="tiny-test",
    ),
    Mistake(
        name="A saved model whose mean was changed",
        make=_bundle_normalization,
        cause=r"mean.*0.485",
        fix="0.5",
    ),
    Mistake(
        name="Zero-shot without a text encoder",
        make=_no_text_encoder,
        cause="a.safetensors.*text",
        fix="official tiny-test",
    ),
    Mistake(
        name="An adapter of another variant",
        make=_adapter_of_another_variant,
        cause="adapter_model.safetensors: expected tiny-demo.*tiny-test",
        fix="variant",
    ),
    Mistake(
        name="An adapter whose configuration names another rank",
        make=_adapter_rank,
        cause="rank 8.*rank 4",
        fix="same adapter",
    ),
    Mistake(
        name="An adapter of another kind",
        make=_other_peft,
        cause="adapter_config.json: expected peft_type LORA, found 'IA3'",
        fix="merge_and_unload",
    ),
    Mistake(
        name="A head with other classes",
        make=_head_classes,
        cause="age: expected 9.*found 7",
        fix="same model",
    ),
    Mistake(
        name="A model that does not exist",
        make=_no_model,
        right=False,
        cause="runs/mine",
        fix="correct the path",
    ),
    Mistake(
        name="Predictions with the columns in another order",
        make=_columns_in_another_order,
        cause="theirs.csv row 1.*expected gender_male, gender_female",
        fix="order",
    ),
    Mistake(
        name="Logits instead of probabilities",
        make=_logits_for_probabilities,
        cause="probabilit",
        fix="softmax|divide",
    ),
)
