"""Models of the other families in use: saved, exported, written for torch, trained on drawn faces."""

import dataclasses
import json

import numpy as np
import pytest

from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.errors import UserError
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference import run_bundle
from softbio_jax.inference.export import litert, stablehlo, torch_reference
from softbio_jax.inference.reference import check, mistakes
from softbio_jax.interop import formats, official, peft
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import VISION, VisionConfig
from softbio_jax.params import flatten
from softbio_jax.ranges import from_mapping
from softbio_jax.runs import build
from softbio_jax.train import loop
from tests.adapters import towers
from tests.compiling import quick_jit
from tests.inference.test_bundle import pixels
from tests.runs import tiny

FAMILIES = ("tiny-dinov2-reg4", "tiny-clip", "tiny-siglip2", "tiny-dinov3-plus")


def bundle_of(variant, name):
    method = towers.METHODS[name]
    model = towers.model(method, variant)
    variables = towers.variables(model)
    folded, merged = run_bundle.folded(towers.stirred(variables["params"]), model)
    return bundle_lib.Bundle(
        name=variant,
        method=method.name,
        image_size=model.config.image_size,
        model=merged,
        temperatures={},
        variables={"params": folded, "batch_stats": variables["batch_stats"]},
    )


def logits(bundle, images):
    return quick_jit(bundle.forward)(bundle.variables, images)


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("tiny-dinov2-reg4", "lora"),
        pytest.param("tiny-dinov2-reg4", "mtlora", marks=pytest.mark.long),
        pytest.param("tiny-clip", "lora", marks=pytest.mark.long),
        pytest.param("tiny-siglip2", "mtlora", marks=pytest.mark.long),
        pytest.param("tiny-dinov3-plus", "mtlora", marks=pytest.mark.long),
    ],
)
def test_a_saved_model_and_its_exports_have_the_same_logits(variant, name, tmp_path):
    onnx = pytest.importorskip("softbio_jax.inference.export.onnx", reason="the extra onnx")
    bundle = bundle_of(variant, name)
    images = pixels(bundle, 2)
    wanted = logits(bundle, images)
    again = bundle_lib.from_directory(bundle_lib.save(bundle, tmp_path / "model"))
    assert again.model.config == bundle.model.config
    stablehlo.write(tmp_path / "stablehlo", bundle)
    onnx.write(tmp_path / "onnx", bundle)
    found = {
        "saved": logits(again, images),
        "stablehlo": stablehlo.load(tmp_path / "stablehlo")(images),
        "onnx": onnx.load(tmp_path / "onnx" / "model.onnx", threads=1)(images),
    }
    for kind, own in found.items():
        for task in wanted:
            np.testing.assert_allclose(own[task], wanted[task], atol=1e-4, err_msg=f"{kind} {task}")


@pytest.mark.app
@pytest.mark.parametrize("variant", FAMILIES)
def test_a_litert_file_has_the_same_logits(variant, tmp_path):
    bundle = bundle_of(variant, "lora")
    litert.write(tmp_path / "out", bundle)
    images = pixels(bundle, 1)
    found = litert.load(tmp_path / "out" / litert.FILE)(images)
    for task, wanted in logits(bundle, images).items():
        np.testing.assert_allclose(found[task], wanted, atol=1e-4, err_msg=task)


@pytest.mark.parametrize("keys", ["timm", "transformers", "official"])
@pytest.mark.parametrize(
    "variant", [FAMILIES[0], *(pytest.param(name, marks=pytest.mark.long) for name in FAMILIES[1:])]
)
def test_an_exported_encoder_is_read_back(variant, keys, tmp_path):
    bundle = bundle_of(variant, "lora")
    config, params = bundle.model.config, bundle.variables["params"]
    merged = official.add_prefix(peft.merged(params, bundle.model.adapters))
    save_arrays(tmp_path / "e.safetensors", formats.written(config, keys, merged), metadata={})
    found = flatten(load_pretrained(tmp_path / "e.safetensors", config=config))
    for path, leaf in found.items():
        if keys == "timm" and path in ("encoder/class_embedding", "encoder/positional_embedding"):
            continue  # the position of the class token is in the token there
        np.testing.assert_array_equal(leaf, flatten(params)[path], err_msg=path)


@pytest.mark.long
def test_the_encoder_for_torch_states_its_own_normalisation(tmp_path):
    bundle = bundle_of("tiny-dinov2-reg4", "lora")
    torch_reference.write(tmp_path / "e.safetensors", bundle, layout="timm", tasks=["age"])
    values = json.loads((tmp_path / "e.config.json").read_text())["preprocessing"]
    assert values["mean"] == [0.485, 0.456, 0.406]
    assert values["input"]["range"] == pytest.approx([-0.485 / 0.229, (1 - 0.406) / 0.225])
    numbers = json.loads((tmp_path / "e.reference.json").read_text())
    size = bundle.image_size
    levels = mistakes.single((tmp_path / "e.reference.jpg").read_bytes(), size)[""]
    images = (levels[None] / 127.5 - 1).astype(np.float32)
    wanted = logits(bundle, images)["age"][0]
    np.testing.assert_allclose(numbers["files"]["e.safetensors"]["logits"]["age"], wanted, atol=1e-4)
    right = mistakes.IMAGENET.values(levels).transpose(2, 0, 1)
    np.save(tmp_path / "right.npy", right)
    assert "the expected tensor" in check.check_tensor(tmp_path / "e.safetensors", tmp_path / "right.npy")
    np.save(tmp_path / "wrong.npy", mistakes.SIGNED.values(levels).transpose(2, 0, 1))
    with pytest.raises(UserError, match="values -1 to 1"):
        check.check_tensor(tmp_path / "e.safetensors", tmp_path / "wrong.npy")


def test_the_configuration_of_a_perception_encoder_is_that_of_before():
    later = {"family", "mean", "std", "patch_bias", "register_tokens", "rotary", "activation", "norm_eps"}
    pool = {"pool_mlp_width", "pool_activation", "pool_norm_eps"}
    assert not (later | pool) & VISION["PE-Core-L14-336"].to_json().keys()
    assert later <= VISION["dinov2-g14-reg4"].to_json().keys()
    assert pool <= VISION["siglip2-so400m14-224"].to_json().keys()


@pytest.mark.parametrize(("variant", "rotary"), [("tiny-dinov2", False), ("tiny-dinov3", "dinov3")])
def test_a_saved_configuration_names_the_rotary_table(variant, rotary):
    values = json.loads(json.dumps(VISION[variant].to_json()))
    assert values["rotary"] == rotary, "False is what files of before have"
    assert from_mapping(VisionConfig, values) == VISION[variant]
    with pytest.raises(UserError, match=r"rotary: expected one of 'pe', 'dinov3', False, found 'dinov2'"):
        from_mapping(VisionConfig, values | {"rotary": "dinov2"})


def config_of(data_root, variant, method, **model):
    config = tiny.changed(tiny.config_on(data_root), train__steps=4, model__variant=variant)
    config["model"] |= model
    config["optimizer"]["rates"] |= {"blocks": 1e-3, "magnitude": 1e-3}
    return config | {"method": method}


LORA = {"rank": 2, "alpha": 2.0}
METHODS = {
    "lp": {"name": "lp"},
    "ft": {"name": "ft", "blocks": 1},
    "full": {"name": "full"},
    "lora": {"name": "lora", "lora": LORA},
    "lora_plus": {"name": "lora_plus", "lora": LORA},
    "dora": {"name": "dora", "lora": LORA},
    "mtlora": {"name": "mtlora", "lora": LORA},
}


@pytest.mark.parametrize("variant", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_builds(variant, name):
    run = build.build(config_of("data", variant, METHODS[name]))
    assert run.model.config.family == VISION[variant].family
    trained, total = run.trained_and_total()
    assert 0 < trained <= total
    assert run.shapes["heads/age/dense_out/kernel"].shape[0] == run.model.config.feature_width


@pytest.mark.parametrize("name", ["lp", "lora", "mtlora"])
def test_a_new_pooling_that_a_method_does_not_train_is_refused(name):
    config = config_of("data", FAMILIES[0], METHODS[name], pooling="attn", pretrained="e.safetensors")
    with pytest.raises(UserError, match="a new pooling that the method does not train"):
        build.build(config)


def test_attention_probing_needs_an_attention_pooling(tmp_path):
    ap = {"name": "ap"}
    assert build.build(config_of("data", "tiny-siglip2", ap)).model.config.pooling == "attn"
    for variant in (*FAMILIES[:2], "PE-Spatial-T16-512"):
        with pytest.raises(UserError, match=r"no attention pooling.*model\.pooling=attn"):
            build.build(config_of("data", variant, ap))
    config = VISION[FAMILIES[0]]
    state = named_state(official.vision_shapes(config))
    arrays = formats.of(config, "transformers").from_official(state)
    save_arrays(tmp_path / "e.safetensors", arrays, metadata={})
    given = str(tmp_path / "e.safetensors")
    run = build.build(config_of("data", FAMILIES[0], ap, pooling="attn", pretrained=given))
    started, frozen = build.start(run)
    assert "pool" in started.trainable and "pool" not in frozen
    wanted = state["visual.conv1.bias"]
    np.testing.assert_array_equal(flatten(frozen)["encoder/patch_embed/bias"], wanted)


def test_another_pooling_drops_the_projection(tmp_path):
    config = VISION["tiny-test"]
    save_arrays(tmp_path / "e.safetensors", named_state(official.vision_shapes(config)), metadata={})
    given = str(tmp_path / "e.safetensors")
    run = build.build(config_of("data", "tiny-test", METHODS["lp"], pooling="tok+avg", pretrained=given))
    _, frozen = build.start(run)
    assert set(frozen) == {"encoder"}
    assert run.model.config.feature_width == 64
    with pytest.raises(UserError, match="no pooling for the heads"):
        build.build(config_of("data", "tiny-test", METHODS["lp"], pooling="none"))


@pytest.mark.long
@pytest.mark.parametrize("variant", FAMILIES)
def test_a_run_trains_and_is_used(variant, data_root, tmp_path):
    config = VISION[variant]
    state = named_state(official.vision_shapes(config))
    save_arrays(
        tmp_path / "e.safetensors", formats.of(config, "transformers").from_official(state), metadata={}
    )
    values = config_of(data_root, variant, METHODS["dora"], pretrained=str(tmp_path / "e.safetensors"))
    values["augment"] = {"erase": 1.0}
    loop.train_and_evaluate(*tiny.run_of(values), tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert metrics
    bundle = run_bundle.from_run(tmp_path / "run")
    assert dataclasses.replace(bundle.model.config, name=variant) == config
    found = logits(bundle, pixels(bundle, 2))
    assert all(np.isfinite(values).all() for values in found.values())
