"""DINOv2 live: against timm, transformers and, where DINOV2 names a checkout, the original code.

Weights are drawn by name, except where SOFTBIO_WEIGHTS names a folder with the published ones.
"""

import dataclasses
import functools
import json
import os
import pathlib
import sys

import numpy as np
import peft as peft_lib
import pytest
import torch
import transformers

from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.interop import formats, ladder, official, peft
from softbio_jax.interop.goldens import named_state, named_uniform
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import TIMM_NAMES, VISION
from softbio_jax.models.vision import VisionEncoder
from tests.parity.test_live_ladder import torch_reference

TINY = [VISION["tiny-dinov2"], VISION["tiny-dinov2-reg4"]]
NAMES = [config.name for config in TINY]


@pytest.fixture
def published():
    folder = pathlib.Path(os.environ.get("SOFTBIO_WEIGHTS", ""))
    path = folder / "vit_small_patch14_dinov2.safetensors"
    if not path.is_file():
        pytest.skip("no published weights: set SOFTBIO_WEIGHTS to the folder of vit_small_patch14_dinov2")
    return path


def wrong(config, size, run, *, state=None):
    """The stages in which ours differ by more than a multiple of the reference's own rounding."""
    state = named_state(official.vision_shapes(config)) if state is None else state
    images = named_uniform("live", (1, *size, 3))
    theirs, exact = (run(config, state, images, dtype=dtype) for dtype in ("float32", "float64"))
    ours = ladder.vision_rungs(config, state, images)
    ours = {name: ours[name] for name in theirs}
    compared = list(ladder.compare(ours, theirs, noise=ladder.rounding(theirs, exact)))
    print(config.name, *(f"{rung.name} {rung.difference:.1e} of {rung.noise:.1e};" for rung in compared))
    return [rung for rung in compared if not rung.holds]


@pytest.mark.parametrize(
    ("variant", "layers", "size"),
    [
        ("dinov2-s14", 12, (112, 112)),
        ("dinov2-s14-reg4", 12, (84, 126)),
        ("dinov2-s14", 1, (518, 518)),
        ("dinov2-b14", 1, (56, 70)),
        ("dinov2-l14-reg4", 1, (56, 70)),
        ("dinov2-g14", 1, (84, 70)),
        ("tiny-dinov2-reg4", 3, (40, 24)),
    ],
)
def test_every_stage_of_timm(variant, layers, size):
    config = dataclasses.replace(VISION[variant], layers=layers)
    assert wrong(config, size, torch_reference.timm_rungs) == []


@pytest.mark.parametrize("name", [name for name in TIMM_NAMES if "dinov2" in name])
def test_the_counts_are_timms(name):
    import timm

    with torch.device("meta"):
        theirs = sum(p.numel() for p in timm.create_model(name, num_classes=0).parameters())
    config = VISION[TIMM_NAMES[name]]
    ours = sum(np.prod(shape) for shape in official.vision_shapes(config).values())
    # With registers timm has no row for the position of the class token.
    assert ours - theirs == (config.width if config.register_tokens else 0)


def transformers_model(config, folder, state):
    """transformers' model with the file that we write, loaded strictly."""
    kind = "Dinov2WithRegisters" if config.register_tokens else "Dinov2"
    settings = getattr(transformers, f"{kind}Config")(
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        # SwiGLU has two thirds of the layer.
        mlp_ratio=3 if config.activation == "swiglu" else 4,
        image_size=config.image_size,
        patch_size=config.patch_size,
        use_swiglu_ffn=config.activation == "swiglu",
    )
    settings.save_pretrained(folder)
    format_ = formats.of(config, "transformers")
    save_arrays(folder / "model.safetensors", format_.from_official(state), metadata={"format": "pt"})
    model, loaded = getattr(transformers, f"{kind}Model").from_pretrained(folder, output_loading_info=True)
    assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def pixels(config, images, dtype):
    values = torch_reference.normalised(config, images, dtype).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(values))


def transformers_rungs(config, state, images, *, dtype, folder):
    model = transformers_model(config, folder, state).to(getattr(torch, dtype))
    with torch.inference_mode():
        return {"tokens": model(pixels(config, images, dtype)).last_hidden_state.numpy()}


@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
@pytest.mark.parametrize("config", TINY, ids=NAMES)
def test_transformers_reads_our_file_and_agrees(tmp_path, config, size):
    # It resamples positions without antialias where there are no registers.
    config = dataclasses.replace(config, resample="timm" if config.register_tokens else "transformers")
    assert wrong(config, size, functools.partial(transformers_rungs, folder=tmp_path)) == []


@pytest.mark.parametrize("config", TINY, ids=NAMES)
def test_a_file_of_transformers_is_read_bit_for_bit(tmp_path, config):
    state = named_state(official.vision_shapes(config)) | {official.MASK: named_uniform("m", (config.width,))}
    model = transformers_model(config, tmp_path, state)
    model.save_pretrained(tmp_path / "again")
    read = formats.read(tmp_path / "again" / "model.safetensors", config=config)
    assert read.keys() == state.keys()
    assert all(np.array_equal(read[key], state[key]) for key in state)


def original_rungs(config, state, images, *, dtype):
    """The original's, whose modules are imported from the checkout."""
    from dinov2.layers import MemEffAttention, NestedTensorBlock
    from dinov2.models.vision_transformer import DinoVisionTransformer

    registers = config.register_tokens
    model = DinoVisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.layers,
        num_heads=config.heads,
        mlp_ratio=4,
        init_values=1.0,
        ffn_layer="swiglufused" if config.activation == "swiglu" else "mlp",
        block_chunks=0,
        num_register_tokens=registers,
        interpolate_antialias=registers > 0,
        interpolate_offset=0.0 if registers else 0.1,
        block_fn=functools.partial(NestedTensorBlock, attn_class=MemEffAttention),
    )
    arrays = formats.of(config, "official").from_official(state)
    model.load_state_dict({key: torch.from_numpy(np.array(a)) for key, a in arrays.items()}, strict=True)
    model.to(getattr(torch, dtype)).eval()
    with torch.inference_mode():
        found = model.forward_features(pixels(config, images, dtype))
    parts = ("x_norm_clstoken", "x_norm_regtokens", "x_norm_patchtokens")
    first, others, patches = (found[name].numpy() for name in parts)
    return {
        "tokens": np.concatenate([first[:, None], others, patches], axis=1),
        "pooled": np.concatenate([first, patches.mean(axis=1)], axis=-1),
    }


@pytest.mark.parametrize(
    ("variant", "layers", "size"),
    [
        ("dinov2-s14", 12, (112, 112)),
        ("dinov2-s14", 1, (518, 518)),
        ("dinov2-s14-reg4", 2, (84, 126)),
        ("dinov2-g14", 1, (112, 84)),
    ],
)
def test_the_original_code(monkeypatch, variant, layers, size):
    checkout = os.environ.get("DINOV2")
    if not checkout:
        pytest.skip("no original code: set DINOV2 to a checkout of facebookresearch/dinov2")
    monkeypatch.setattr(sys, "path", [checkout, *sys.path])
    config = dataclasses.replace(VISION[variant], layers=layers)
    config = dataclasses.replace(config, resample="timm" if config.register_tokens else "dinov2")
    assert wrong(config, size, original_rungs) == []


def test_the_published_weights(published):
    config = VISION["dinov2-s14"]
    state = {key: array.astype(np.float32) for key, array in formats.read(published, config=config).items()}
    assert sum(array.size for array in state.values()) == 22_056_192
    assert wrong(config, (112, 112), torch_reference.timm_rungs, state=state) == []


def features(config, params, rules=None):
    images = named_uniform("live", (2, config.image_size, config.image_size, 3))
    model = VisionEncoder(config) if rules is None else VisionEncoder(config, adapters=rules)
    return np.asarray(model.apply({"params": params}, images)), images


def peft_features(config, model, images):
    with torch.inference_mode():
        tokens = model(pixels(config, images, "float32")).last_hidden_state.numpy()
    return np.concatenate([tokens[:, 0], tokens[:, config.prefix :].mean(axis=1)], axis=-1)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("config", TINY, ids=NAMES)
def test_adapters_on_transformers_modules_both_ways(tmp_path, config, dora):
    state = named_state(official.vision_shapes(config))
    model = transformers_model(config, tmp_path, state)
    names = "q_proj|k_proj|v_proj|o_proj|fc1|fc2|gate_proj|up_proj|down_proj"
    settings = peft_lib.LoraConfig(r=3, lora_alpha=5, use_dora=dora, target_modules=rf".*\.({names})")
    adapted = peft_lib.get_peft_model(model, settings)
    rng = np.random.default_rng(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.from_numpy(0.2 * rng.standard_normal(parameter.shape).astype(np.float32))
    adapted.save_pretrained(tmp_path / "theirs")
    adapter = peft.read(tmp_path / "theirs", config)
    rules = adapter.rules(config)
    base = load_pretrained(tmp_path / "model.safetensors", config=config)
    ours, images = features(config, peft.attach(base, adapter), rules)
    theirs = peft_features(config, adapted.eval(), images)
    plain, _ = features(config, base)
    assert np.abs(theirs - plain).max() > 0.05, "the adapter changes the features"
    np.testing.assert_allclose(ours, theirs, atol=2e-5)

    peft.write(tmp_path / "ours", adapter, naming="transformers", config=config)
    again = transformers_model(config, tmp_path, state)
    loaded = peft_lib.PeftModel.from_pretrained(again, tmp_path / "ours").eval()
    np.testing.assert_allclose(peft_features(config, loaded, images), theirs, atol=2e-5)


def test_an_adapter_with_the_names_of_transformers_4_is_the_same(tmp_path):
    config = TINY[0]
    adapter = peft.Adapter(
        layers={
            "encoder/blocks/0/attn/qkv": peft.Layer(
                config=LoRAConfig(rank=2, alpha=4.0),
                a=named_uniform("a", (32, 2)),
                b=named_uniform("b", (2, 96)),
            )
        }
    )
    peft.write(tmp_path / "new", adapter, naming="transformers", config=config)
    arrays, _ = formats.load_arrays(tmp_path / "new" / "adapter_model.safetensors")
    renamed = {
        f"attention.{letter}_proj": f"attention.attention.{name}"
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value"))
    }

    def old(text):
        for new, before in renamed.items():
            text = text.replace(new, before).replace(new.replace(".", r"\."), before.replace(".", r"\."))
        return text

    (tmp_path / "old").mkdir()
    save_arrays(
        tmp_path / "old" / "adapter_model.safetensors",
        {old(key): array for key, array in arrays.items()},
        metadata={"format": "pt"},
    )
    values = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
    values["target_modules"] = old(values["target_modules"])
    (tmp_path / "old" / "adapter_config.json").write_text(json.dumps(values))
    found, expected = (peft.read(tmp_path / name, config).layers for name in ("old", "new"))
    assert found.keys() == expected.keys() == adapter.layers.keys()
    for name, layer in found.items():
        assert np.array_equal(layer.a @ layer.b, expected[name].a @ expected[name].b)
