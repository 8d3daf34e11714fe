"""DINOv3 live: against timm, transformers and, where DINOV3 names a checkout, the original code."""

import dataclasses
import functools
import os
import sys

import numpy as np
import peft as peft_lib
import pytest
import torch
import transformers

from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.interop import formats, official, peft
from softbio_jax.interop.goldens import named_state, named_uniform
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models import positions
from softbio_jax.models.config import TIMM_NAMES, VISION
from tests.parity.test_dinov2 import features, peft_features, pixels, wrong
from tests.parity.test_live_ladder import torch_reference

TINY = [VISION["tiny-dinov3"], VISION["tiny-dinov3-plus"]]
NAMES = [config.name for config in TINY]
PUBLISHED = [config for config in VISION.values() if config.family == "dinov3" and config.name[:4] != "tiny"]


def state_of(config):
    state = named_state(official.vision_shapes(config))
    for key, array in state.items():
        if key.endswith("in_proj_bias"):
            array[config.width : 2 * config.width] = 0
    return state


@pytest.mark.parametrize(
    ("variant", "layers", "size"),
    [
        ("dinov3-s16", 12, (256, 256)),
        ("dinov3-s16", 2, (224, 224)),
        ("dinov3-s16plus", 12, (96, 144)),
        ("dinov3-b16", 1, (112, 144)),
        ("dinov3-l16", 1, (224, 160)),
        ("dinov3-h16plus", 1, (96, 112)),
        ("tiny-dinov3", 2, (40, 24)),
        ("tiny-dinov3-plus", 2, (32, 32)),
    ],
)
def test_every_stage_of_timm(variant, layers, size):
    config = dataclasses.replace(VISION[variant], layers=layers)
    assert wrong(config, size, torch_reference.timm_rungs) == []


@pytest.mark.parametrize("name", [name for name in TIMM_NAMES if "dinov3" in name])
def test_the_counts_are_timms(name):
    import timm

    with torch.device("meta"):
        theirs = sum(p.numel() for p in timm.create_model(name, num_classes=0).parameters())
    config = VISION[TIMM_NAMES[name]]
    ours = sum(np.prod(shape) for shape in official.vision_shapes(config).values())
    # timm has no bias of the keys, and only with qkvb in the name those of queries and values.
    biases = 1 if "qkvb" in name else 3
    assert ours - theirs == biases * config.layers * config.width


def settings_of(config):
    return transformers.DINOv3ViTConfig(
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_width,
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_register_tokens=config.register_tokens,
        use_gated_mlp=config.activation == "swiglu",
        hidden_act="silu" if config.activation == "swiglu" else "gelu",
    )


@pytest.mark.parametrize("config", PUBLISHED, ids=lambda config: config.name)
def test_the_counts_are_transformers(config):
    with torch.device("meta"):
        model = transformers.DINOv3ViTModel(settings_of(config))
    theirs = sum(p.numel() for p in model.parameters())
    ours = sum(np.prod(shape) for shape in official.vision_shapes(config).values())
    # It has a mask token, and no bias of the keys.
    assert ours - theirs == (config.layers - 1) * config.width


def transformers_model(config, folder, state):
    """transformers' model with the file that we write, loaded strictly."""
    settings_of(config).save_pretrained(folder)
    format_ = formats.of(config, "transformers")
    save_arrays(folder / "model.safetensors", format_.from_official(state), metadata={"format": "pt"})
    model, loaded = transformers.DINOv3ViTModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def transformers_rungs(config, state, images, *, dtype, folder):
    model = transformers_model(config, folder, state).to(getattr(torch, dtype))
    model.rope_embeddings.inv_freq = model.rope_embeddings.inv_freq.float()
    with torch.inference_mode():
        tokens = model(pixels(config, images, dtype)).last_hidden_state.numpy()
    return {"tokens": tokens}


@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
@pytest.mark.parametrize("config", TINY, ids=NAMES)
def test_transformers_reads_our_file_and_agrees(tmp_path, config, size):
    assert wrong(config, size, functools.partial(transformers_rungs, folder=tmp_path)) == []


@pytest.mark.parametrize("config", TINY, ids=NAMES)
def test_a_file_of_transformers_is_read_bit_for_bit(tmp_path, config):
    state = state_of(config) | {official.MASK: named_uniform("m", (config.width,))}
    model = transformers_model(config, tmp_path, state)
    model.save_pretrained(tmp_path / "again")
    read = formats.read(tmp_path / "again" / "model.safetensors", config=config)
    assert read.keys() == state.keys()
    assert all(np.array_equal(read[key], state[key]) for key in state)


@pytest.fixture
def original(monkeypatch):
    checkout = os.environ.get("DINOV3")
    if not checkout:
        pytest.skip("no original code: set DINOV3 to a checkout of facebookresearch/dinov3")
    monkeypatch.setattr(sys, "path", [checkout, *sys.path])


def original_model(config):
    """The original's, whose modules are imported from the checkout."""
    from dinov3.models.vision_transformer import DinoVisionTransformer

    gated = config.activation == "swiglu"
    return DinoVisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        pos_embed_rope_base=100,
        pos_embed_rope_normalize_coords="separate",
        pos_embed_rope_rescale_coords=2,
        pos_embed_rope_dtype="fp32",
        embed_dim=config.width,
        depth=config.layers,
        num_heads=config.heads,
        ffn_ratio=config.mlp_width / config.width * (1.5 if gated else 1),
        qkv_bias=True,
        layerscale_init=1e-5,
        norm_layer="layernormbf16",
        ffn_layer="swiglu" if gated else "mlp",
        n_storage_tokens=config.register_tokens,
        mask_k_bias=True,
    )


def original_rungs(config, state, images, *, dtype, periods=None):
    """The original's stages; in float64 its periods are those of float32, as in the other libraries."""
    model = original_model(config)
    format_ = formats.of(config, "official")
    arrays = format_.closed(format_.from_official(state))
    if periods is not None:
        arrays["rope_embed.periods"] = periods(arrays["rope_embed.periods"])
    model.load_state_dict({key: torch.from_numpy(np.array(a)) for key, a in arrays.items()}, strict=True)
    model.to(getattr(torch, dtype)).eval()
    rows, columns = (n // config.patch_size for n in images.shape[1:3])
    with torch.inference_mode():
        model.rope_embed.dtype = getattr(torch, dtype)
        sin, cos = (table.float().numpy() for table in model.rope_embed(H=rows, W=columns))
        found = model.forward_features(pixels(config, images, dtype))
    parts = ("x_norm_clstoken", "x_storage_tokens", "x_norm_patchtokens")
    first, others, patches = (found[name].numpy() for name in parts)
    still = [np.full((config.prefix, config.head_dim), value, np.float32) for value in (0, 1)]
    return {
        "rotary": np.concatenate([np.concatenate([still[0], sin]), np.concatenate([still[1], cos])], axis=-1),
        "tokens": np.concatenate([first[:, None], others, patches], axis=1),
        "pooled": np.concatenate([first, patches.mean(axis=1)], axis=-1),
    }


@pytest.mark.parametrize(
    ("variant", "layers", "size"),
    [
        ("dinov3-s16", 12, (224, 224)),
        ("dinov3-s16plus", 2, (96, 144)),
        ("dinov3-h16plus", 1, (112, 80)),
        ("tiny-dinov3", 2, (40, 24)),
    ],
)
def test_the_original_code(original, variant, layers, size):
    config = dataclasses.replace(VISION[variant], layers=layers)
    assert wrong(config, size, original_rungs) == []


@pytest.mark.parametrize("config", PUBLISHED, ids=lambda config: config.name)
def test_the_files_and_counts_are_the_originals(original, config):
    with torch.device("meta"):
        model = original_model(config)
    state = formats.hollow(official.vision_shapes(config))
    theirs = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert formats.shapes_of(formats.of(config, "official").from_official(state)) == theirs
    counted = sum(p.numel() for p in model.parameters()) - config.width  # without the mask token
    assert sum(array.size for array in state.values()) == counted


def test_published_periods_are_rounded(original, monkeypatch):
    """What bfloat16 periods, as in the published files, change in the feature: more than rounding."""
    config = VISION["tiny-dinov3"]
    state, images = state_of(config), named_uniform("live", (1, 40, 24, 3))

    def rounded(periods):
        return torch.from_numpy(periods).to(torch.bfloat16).float().numpy()

    exact, published = (
        original_rungs(config, state, images, dtype="float32", periods=periods)["pooled"]
        for periods in (None, rounded)
    )
    assert 1e-5 < np.abs(exact - published).max() < 1e-2
    monkeypatch.setattr(positions.dinov3, "periods", lambda d, own=positions.dinov3.periods: rounded(own(d)))
    published_rungs = functools.partial(original_rungs, periods=rounded)
    assert wrong(config, (40, 24), published_rungs, state=state) == []


def timm_features(config, model, images):
    with torch.inference_mode():
        tokens = model.forward_features(pixels(config, images, "float32")).numpy()
    return np.concatenate([tokens[:, 0], tokens[:, config.prefix :].mean(axis=1)], axis=-1)


def timm_model(config, folder, state, *, biases=False):
    """timm's model without the biases of q and v, which are 0: with them PEFT's adapters are bypassed."""
    del folder
    model = torch_reference.timm_dinov3(config, biases=biases)
    arrays = formats.of(config, "timm").from_official(state)
    kept = {key: a for key, a in arrays.items() if biases or not key.endswith(("q_bias", "v_bias"))}
    torch_reference._load(torch, model, kept, "float32")
    return model


TARGETS = {
    "timm": "qkv|proj|fc1|fc1_g|fc1_x|fc2",
    "transformers": "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj",
}
MODELS = {"timm": (timm_model, timm_features), "transformers": (transformers_model, peft_features)}


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("naming", MODELS)
@pytest.mark.parametrize("config", TINY, ids=NAMES)
def test_adapters_on_the_modules_of_the_libraries_both_ways(tmp_path, config, naming, dora):
    make, run = MODELS[naming]
    state = state_of(config)
    if naming == "timm":
        state |= {key: np.zeros_like(array) for key, array in state.items() if "in_proj_bias" in key}
    settings = peft_lib.LoraConfig(
        r=3, lora_alpha=5, use_dora=dora, target_modules=rf".*[0-9]\..*\.({TARGETS[naming]})"
    )
    adapted = peft_lib.get_peft_model(make(config, tmp_path, state), settings)
    rng = np.random.default_rng(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.from_numpy(0.2 * rng.standard_normal(parameter.shape).astype(np.float32))
    adapted.save_pretrained(tmp_path / "theirs")
    adapter = peft.read(tmp_path / "theirs", config)
    assert len(adapter.layers) == 4 * config.layers
    save_arrays(tmp_path / "e.safetensors", formats.written(config, "transformers", state), metadata={})
    base = load_pretrained(tmp_path / "e.safetensors", config=config)
    ours, images = features(config, peft.attach(base, adapter), adapter.rules(config))
    theirs = run(config, adapted.base_model.model.eval(), images)
    plain, _ = features(config, base)
    assert np.abs(theirs - plain).max() > 0.05, "the adapter changes the features"
    np.testing.assert_allclose(ours, theirs, atol=2e-5)

    peft.write(tmp_path / "ours", adapter, naming=naming, config=config)
    again = make(config, tmp_path, state)
    loaded = peft_lib.PeftModel.from_pretrained(again, tmp_path / "ours").eval()
    np.testing.assert_allclose(run(config, loaded.base_model.model, images), theirs, atol=2e-5)


@pytest.mark.parametrize("biases", [False, True])
def test_timms_models_with_biases_bypass_adapters_of_qkv(tmp_path, biases):
    config = TINY[0]
    model = timm_model(config, tmp_path, state_of(config), biases=biases)
    images = named_uniform("live", (1, 32, 32, 3))
    plain = timm_features(config, model, images)
    adapted = peft_lib.get_peft_model(model, peft_lib.LoraConfig(r=2, target_modules=["qkv"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.ones_like(parameter)
    changed = np.abs(timm_features(config, adapted.base_model.model, images) - plain).max()
    assert changed == 0 if biases else changed > 0.01
