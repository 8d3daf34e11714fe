"""The files of the other families: there and back, in the libraries' own names, and mistaken for another."""

import json

import ml_dtypes
import numpy as np
import pytest

from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.errors import UserError
from softbio_jax.interop import formats, official
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.reading import beside, identity
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.models.config import VISION, vision_config
from softbio_jax.params import flatten

PLAIN, REGISTERS, CLIP = VISION["tiny-dinov2"], VISION["tiny-dinov2-reg4"], VISION["tiny-clip"]
SIGLIP2 = VISION["tiny-siglip2"]
V3, PLUS = VISION["tiny-dinov3"], VISION["tiny-dinov3-plus"]
DINOV2 = ("official", "timm", "transformers", "softbio")


def state_of(config, dtype=np.float32):
    state = named_state(official.vision_shapes(config))
    for key, array in state.items():
        if key.endswith("in_proj_bias") and not config.key_bias:
            array[config.width : 2 * config.width] = 0
    return {key: np.asarray(array, dtype) for key, array in state.items()}


def write(path, state, config, name):
    format_ = formats.of(config, name)
    save_arrays(path, format_.closed(format_.from_official(state)), metadata={})
    return path


def same_bits(left, right):
    return left.keys() == right.keys() and all(left[key].tobytes() == right[key].tobytes() for key in left)


def unmasked(state):
    return official.without_mask(state)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        *((CLIP, name) for name in ("official", "timm", "transformers", "softbio")),
        *((SIGLIP2, name) for name in ("official", "timm", "open_clip", "transformers", "softbio")),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_both_encoders_there_and_back_are_bit_identical(tmp_path, config, name):
    text = name != "timm"
    state = named_state(formats.official_shapes(config.name, text=text))
    path = write(tmp_path / "a.safetensors", state, config, name)
    assert same_bits(formats.read(path, config=config), state)
    assert formats.detect(load_arrays(path)[0], where="", config=config) == name


def test_siglip2s_files_have_the_libraries_names_and_shapes():
    state = named_state(formats.official_shapes("tiny-siglip2", text=True))
    theirs = formats.of(SIGLIP2, "transformers").from_official(state)
    assert theirs["logit_bias"].shape == theirs["logit_scale"].shape == (1,)
    assert np.array_equal(theirs["text_model.head.weight"], state["text_projection"].T)
    theirs = formats.of(SIGLIP2, "open_clip").from_official(state)
    assert theirs["logit_bias"].shape == ()
    assert np.array_equal(theirs["text.text_projection.weight"], state["text_projection"].T)
    assert {key.split(".")[0] for key in theirs} == {"visual", "text", "logit_scale", "logit_bias"}
    assert "visual.trunk.patch_embed.proj.bias" in theirs and "text.text_projection" not in theirs


def test_numbers_that_are_no_weights_are_left_out(tmp_path):
    state = named_state(formats.official_shapes("tiny-clip", text=True))
    arrays = formats.of(CLIP, "transformers").from_official(state)
    counters = {"text_model.embeddings.position_ids": np.arange(16)[None]}
    save_arrays(tmp_path / "a.safetensors", arrays | counters, metadata={})
    assert same_bits(formats.read(tmp_path / "a.safetensors", config=CLIP), state)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", DINOV2)
@pytest.mark.parametrize("config", [PLAIN, REGISTERS, V3, PLUS], ids=lambda config: config.name)
def test_there_and_back_is_bit_identical(tmp_path, config, name, dtype):
    state = state_of(config, dtype)
    if name == "timm" and config is REGISTERS:
        # Its files have the class token's position in the token.
        state["visual.positional_embedding"][0] = 0
    read = formats.read(write(tmp_path / "a.safetensors", state, config, name), config=config)
    assert same_bits(unmasked(read), state)


@pytest.mark.parametrize("config", [PLAIN, PLUS], ids=lambda config: config.name)
def test_a_mask_token_is_kept_where_the_format_has_one(tmp_path, config):
    state = state_of(config) | {official.MASK: np.full(config.width, 0.25, np.float32)}
    for name in ("official", "transformers", "softbio"):
        read = formats.read(write(tmp_path / f"{name}.safetensors", state, config, name), config=config)
        assert same_bits(read, state)
    plain = load_pretrained(tmp_path / "official.safetensors", config=config)
    assert not [path for path in flatten(plain) if "mask" in path]


def test_timm_adds_the_class_tokens_position_where_there_are_registers(tmp_path):
    state = state_of(REGISTERS)
    arrays, _ = load_arrays(write(tmp_path / "a.safetensors", state, REGISTERS, "timm"))
    assert arrays["pos_embed"].shape == (1, 16, 32)
    assert np.array_equal(
        arrays["cls_token"][0, 0], state["visual.class_embedding"] + state["visual.positional_embedding"][0]
    )


def altered(path, config, name, change):
    """Writes a drawn encoder in a format, after `change` of its arrays."""
    format_ = formats.of(config, name)
    arrays = format_.closed(format_.from_official(state_of(config)))
    change(arrays)
    save_arrays(path, arrays, metadata={})
    return path


@pytest.mark.parametrize(
    ("name", "gate", "value"),
    [
        ("official", "blocks.1.mlp.w1", "blocks.1.mlp.w2"),
        ("timm", "blocks.1.mlp.fc1_g", "blocks.1.mlp.fc1_x"),
        ("transformers", "layer.1.mlp.gate_proj", "layer.1.mlp.up_proj"),
    ],
)
def test_the_gate_is_the_first_half(name, gate, value):
    arrays, state = formats.of(PLUS, name).from_official(state_of(PLUS)), state_of(PLUS)
    for leaf in ("weight", "bias"):
        halves = np.split(state[f"visual.transformer.resblocks.1.mlp.c_fc.{leaf}"], 2)
        assert same_bits(
            dict(enumerate(halves)), {i: arrays[f"{n}.{leaf}"] for i, n in enumerate((gate, value))}
        )


def test_a_hidden_bias_of_the_keys_is_0(tmp_path):
    def fill(arrays):
        bias = arrays["blocks.0.attn.qkv.bias"]
        assert not bias[128:256].any() and arrays["blocks.0.attn.qkv.bias_mask"].sum() == 256
        arrays["blocks.0.attn.qkv.bias"] = np.where(np.arange(384) // 128 == 1, np.float32(7), bias)

    path = altered(tmp_path / "a.safetensors", V3, "official", fill)
    assert same_bits(unmasked(formats.read(path, config=V3)), state_of(V3))


def test_a_mask_without_values_is_refused(tmp_path):
    def fill(arrays):
        arrays["blocks.0.attn.qkv.bias_mask"] = np.full(384, np.nan, np.float32)

    path = altered(tmp_path / "a.safetensors", V3, "official", fill)
    with pytest.raises(UserError, match=r"blocks\.0\.attn\.qkv\.bias_mask"):
        formats.read(path, config=V3)


@pytest.mark.parametrize(
    ("dtype", "base", "fits"), [(ml_dtypes.bfloat16, 100, True), (np.float32, 200, False)]
)
def test_the_periods_of_the_original_are_checked(tmp_path, dtype, base, fits):
    def fill(arrays):
        arrays["rope_embed.periods"] = (base ** (np.arange(16) / 16)).astype(dtype)

    path = altered(tmp_path / "a.safetensors", V3, "official", fill)
    if fits:
        assert same_bits(unmasked(formats.read(path, config=V3)), state_of(V3))
    else:
        with pytest.raises(UserError, match=r"other periods: rope_embed\.periods.*up to 74\.99.*up to 143"):
            formats.read(path, config=V3)


def test_a_file_of_timm_without_biases_has_zeros(tmp_path):
    def drop(arrays):
        for key in [key for key in arrays if key.endswith(("q_bias", "v_bias"))]:
            del arrays[key]

    read = formats.read(altered(tmp_path / "a.safetensors", PLUS, "timm", drop), config=PLUS)
    expected = state_of(PLUS)
    expected |= {key: np.zeros_like(a) for key, a in expected.items() if key.endswith("in_proj_bias")}
    assert same_bits(read, expected)


def test_the_blocks_of_transformers_5_in_memory_are_read(tmp_path):
    def rename(arrays):
        for key in [key for key in arrays if key.startswith("layer.")]:
            arrays[f"model.{key}"] = arrays.pop(key)

    path = altered(tmp_path / "a.safetensors", PLUS, "transformers", rename)
    assert same_bits(unmasked(formats.read(path, config=PLUS)), state_of(PLUS))


def test_blocks_in_chunks_of_training_are_read(tmp_path):
    format_ = formats.of(PLAIN, "official")
    state = state_of(PLAIN)
    arrays = {key.replace("blocks.", "blocks.0."): a for key, a in format_.from_official(state).items()}
    save_arrays(tmp_path / "a.safetensors", arrays, metadata={})
    assert same_bits(unmasked(formats.read(tmp_path / "a.safetensors", config=PLAIN)), state)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("vit_small_patch14_dinov2.lvd142m", "dinov2-s14"),
        ("vit_large_patch14_reg4_dinov2", "dinov2-l14-reg4"),
        ("timm/vit_giant_patch14_dinov2.lvd142m", "dinov2-g14"),
        ("facebook/dinov2-base", "dinov2-b14"),
        ("facebook/dinov2-with-registers-giant", "dinov2-g14-reg4"),
        ("dinov2_vitb14_reg", "dinov2-b14-reg4"),
        ("facebook/PE-Core-L14-336", "PE-Core-L14-336"),
        ("vit_base_patch16_siglip_224", "siglip2-b16-224"),
        ("timm/vit_giantopt_patch16_siglip_384.v2_webli", "siglip2-g16-384"),
        ("google/siglip2-so400m-patch14-384", "siglip2-so400m14-378"),
        ("google/siglip2-giant-opt-patch16-256", "siglip2-g16-256"),
        ("timm/ViT-B-16-SigLIP2", "siglip2-b16-224"),
        ("timm/ViT-SO400M-14-SigLIP2-378", "siglip2-so400m14-378"),
        ("vit_huge_plus_patch16_dinov3_qkvb.lvd1689m", "dinov3-h16plus"),
        ("timm/vit_small_patch16_dinov3", "dinov3-s16"),
        ("facebook/dinov3-vits16plus-pretrain-lvd1689m", "dinov3-s16plus"),
        ("dinov3_vitl16", "dinov3-l16"),
    ],
)
def test_the_names_of_the_libraries(name, variant):
    assert vision_config(name).name == variant


@pytest.mark.parametrize(
    ("values", "variant"),
    [
        (
            {"architecture": "vit_base_patch14_reg4_dinov2", "pretrained_cfg": {"tag": "lvd142m"}},
            "dinov2-b14-reg4",
        ),
        (
            {"architecture": "vit_base_patch16_clip_224", "pretrained_cfg": {"tag": "laion2b"}},
            "clip-b16-gelu",
        ),
        ({"architecture": "vit_pe_core_large_patch14_336"}, "PE-Core-L14-336"),
        (
            {
                "model_type": "dinov2_with_registers",
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "patch_size": 14,
            },
            "dinov2-l14-reg4",
        ),
        *(
            (
                {
                    "model_type": "dinov3_vit",
                    "hidden_size": 384,
                    "num_hidden_layers": 12,
                    "patch_size": 16,
                    "use_gated_mlp": gated,
                },
                f"dinov3-s16{'plus' if gated else ''}",
            )
            for gated in (False, True)
        ),
        ({"architecture": "vit_base_patch16_dinov3", "pretrained_cfg": {"tag": "lvd1689m"}}, "dinov3-b16"),
        ({"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}, "clip-b32-gelu"),
        (
            {
                "model_type": "clip",
                "vision_config": {
                    "hidden_size": 1024,
                    "num_hidden_layers": 24,
                    "patch_size": 14,
                    "image_size": 336,
                },
            },
            "clip-l14-336",
        ),
        (
            {"model_type": "siglip", "vision_config": {}, "text_config": {"vocab_size": 256_000}},
            "siglip2-b16-224",
        ),
        (
            {
                "model_type": "siglip",
                "vision_config": {
                    "hidden_size": 1152,
                    "num_hidden_layers": 27,
                    "patch_size": 14,
                    "image_size": 384,  # of which 378 are read
                },
                "text_config": {"vocab_size": 256_000},
            },
            "siglip2-so400m14-378",
        ),
        (
            {"architecture": "vit_so400m_patch16_siglip_512", "pretrained_cfg": {"tag": "v2_webli"}},
            "siglip2-so400m16-512",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_configuration_in_a_folder_names_the_variant(tmp_path, values, variant):
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert identity.variant_of(str(tmp_path)) == variant


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"architecture": "resnet50"}, "resnet50"),
        # SigLIP has the same encoders of images, and a vocabulary of 32,000.
        ({"model_type": "siglip", "vision_config": {}, "text_config": {"vocab_size": 32_000}}, "siglip"),
        ({"model_type": "siglip2", "vision_config": {}, "text_config": {"vocab_size": 256_000}}, "siglip2"),
        ({"model_type": "siglip", "vision_config": {"patch_size": "16"}, "text_config": []}, "siglip"),
    ],
    ids=["resnet", "siglip 1", "naflex", "damaged"],
)
def test_an_unknown_configuration_is_named(tmp_path, values, found):
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"variant is not known.*found {found};.*set model\.variant"):
        identity.variant_of(str(tmp_path))


B32 = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}
SIGLIP_B16 = {"timm_model_name": "vit_base_patch16_siglip_224", "image_size": 224}


@pytest.mark.parametrize(
    ("vision", "more", "variant"),
    [
        (B32, {}, "clip-b32-gelu"),
        (B32, {"quick_gelu": True}, "clip-b32"),
        (B32 | {"mlp_ratio": 3.0}, {}, None),
        (B32 | {"width": 640}, {}, None),
        (B32 | {"layers": [3, 4, 6, 3]}, {}, None),
        (SIGLIP_B16, {"text_cfg": {"vocab_size": 256_000}}, "siglip2-b16-224"),
        (SIGLIP_B16, {"text_cfg": {"vocab_size": 32_000}}, None),
        ({"timm_model_name": "resnet50"}, {}, None),
        ({"timm_model_name": 5}, {}, None),
        ([], {}, None),
    ],
)
def test_the_configuration_of_open_clip_names_the_variant(tmp_path, vision, more, variant):
    values = {"model_cfg": {"vision_cfg": vision, "text_cfg": {}} | more}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(values))
    if variant:
        assert identity.variant_of(str(tmp_path)) == variant
    else:
        with pytest.raises(UserError, match=r"variant is not known.*set model\.variant"):
            identity.variant_of(str(tmp_path))


@pytest.mark.parametrize(
    ("given", "name", "wanted", "told"),
    [
        ("tiny-dinov2", "timm", "tiny-test", "checkpoint of tiny-dinov2 given for tiny-test"),
        ("tiny-dinov2", "transformers", "tiny-test", "another family given for tiny-test.*like dinov2"),
        ("tiny-test", "official", "tiny-dinov2", "another family given for tiny-dinov2.*like perception"),
        ("tiny-test", "timm", "tiny-dinov2", "checkpoint of tiny-test given for tiny-dinov2"),
        ("tiny-test", "open_clip", "tiny-dinov2", "another family given for tiny-dinov2.*like perception"),
        ("tiny-clip", "official", "tiny-test", "checkpoint of tiny-clip given for tiny-test"),
        ("tiny-test", "timm", "tiny-clip", "checkpoint of tiny-test given for tiny-clip"),
        ("tiny-clip", "transformers", "tiny-dinov2", "another family given for tiny-dinov2.*like clip"),
        ("tiny-dinov2", "timm", "tiny-dinov2-reg4", "checkpoint of tiny-dinov2 given for tiny-dinov2-reg4"),
        ("tiny-dinov2-reg4", "official", "tiny-dinov2", "checkpoint of tiny-dinov2-reg4 given for"),
        ("tiny-siglip2", "timm", "tiny-dinov2", "checkpoint of tiny-siglip2 given for tiny-dinov2"),
        ("tiny-siglip2", "transformers", "tiny-clip", "checkpoint of tiny-siglip2 given for tiny-clip"),
        ("tiny-siglip2", "official", "tiny-test", "checkpoint of tiny-siglip2 given for tiny-test"),
        ("tiny-clip", "transformers", "tiny-siglip2", "checkpoint of tiny-clip given for tiny-siglip2"),
        ("tiny-dinov2", "transformers", "tiny-siglip2", "another family given for tiny-siglip2.*like dinov2"),
        (
            "tiny-dinov3",
            "official",
            "tiny-dinov3-plus",
            "checkpoint of tiny-dinov3 given for tiny-dinov3-plus",
        ),
        ("tiny-dinov3-plus", "timm", "tiny-dinov2-reg4", "checkpoint of tiny-dinov3-plus given for"),
        ("tiny-dinov3", "transformers", "tiny-dinov2", "another family given for tiny-dinov2.*like dinov3"),
        ("tiny-dinov2-reg4", "timm", "tiny-dinov3", "checkpoint of tiny-dinov2-reg4 given for tiny-dinov3"),
        ("tiny-dinov2", "official", "tiny-dinov3", "checkpoint of tiny-dinov2 given for tiny-dinov3"),
    ],
)
def test_a_checkpoint_of_another_variant_or_family_is_named(tmp_path, given, name, wanted, told):
    path = write(tmp_path / "a.safetensors", state_of(VISION[given]), VISION[given], name)
    with pytest.raises(UserError, match=told) as error:
        formats.read(path, config=VISION[wanted])
    assert "\n" not in str(error.value)


def test_a_family_of_other_sizes_is_named(tmp_path):
    arrays = formats.of(PLAIN, "timm").from_official(state_of(PLAIN))
    arrays = {key: np.repeat(array, 2, axis=-1) for key, array in arrays.items()}
    save_arrays(tmp_path / "a.safetensors", arrays, metadata={})
    with pytest.raises(UserError, match=r"another family given for tiny-test.*the names of dinov2"):
        formats.read(tmp_path / "a.safetensors", config=VISION["tiny-test"])


@pytest.mark.parametrize("name", DINOV2)
def test_a_patch_size_that_does_not_fit(tmp_path, name):
    state = state_of(PLAIN)
    state["visual.conv1.weight"] = np.zeros((32, 3, 4, 4), np.float32)
    path = write(tmp_path / "a.safetensors", state, PLAIN, name)
    with pytest.raises(UserError, match=r"patch size that does not fit.*8 x 8 pixels.*found 4 x 4"):
        formats.read(path, config=PLAIN)


@pytest.mark.parametrize(
    "extra", ["text.transformer.resblocks.0.ln_1.weight", "token_embedding.weight", "text_model.final.bias"]
)
@pytest.mark.parametrize("config", [PLAIN, VISION["PE-Spatial-T16-512"]], ids=lambda config: config.name)
def test_a_text_encoder_where_none_is_expected(tmp_path, config, extra):
    arrays = formats.of(config, "official").from_official(state_of(config))
    save_arrays(tmp_path / "a.safetensors", arrays | {extra: np.zeros(3, np.float32)}, metadata={})
    with pytest.raises(UserError, match=f"a text encoder where none is expected.*{extra}"):
        formats.read(tmp_path / "a.safetensors", config=config)


@pytest.mark.parametrize(
    ("config", "mean", "fits"),
    [
        (PLAIN, [0.485, 0.456, 0.406], True),
        (PLAIN, [0.5, 0.5, 0.5], False),
        (PLAIN, [0.485, 0.456], False),
        (VISION["tiny-test"], [0.485, 0.456, 0.406], False),
    ],
)
@pytest.mark.parametrize(
    ("file", "key"), [("config.json", "mean"), ("preprocessor_config.json", "image_mean")]
)
def test_the_normalisation_beside_the_weights_is_the_families(tmp_path, config, mean, fits, file, key):
    path = write(tmp_path / "model.safetensors", state_of(config), config, "timm")
    values = {"pretrained_cfg": {key: mean}} if file == "config.json" else {key: mean}
    (tmp_path / file).write_text(json.dumps(values))
    if fits:
        formats.read(path, config=config)
    else:
        with pytest.raises(UserError, match="another normalisation"):
            formats.read(path, config=config)


GELU = {"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}
OPEN_CLIP = {"model_cfg": {"vision_cfg": {"layers": 3}}}


@pytest.mark.parametrize(
    ("config", "file", "values", "says"),
    [
        (CLIP, "config.json", GELU, r"computes otherwise.* hidden_act: expected quick_gelu.* found gelu"),
        (CLIP, "config.json", {"model_type": "clip", "vision_config": {}}, ""),
        (CLIP, "config.json", {"model_type": "clip_vision_model", "hidden_act": "gelu"}, "hidden_act"),
        (CLIP, "config.json", {"model_type": "vit", "hidden_act": "relu"}, ""),
        (CLIP, "open_clip_config.json", OPEN_CLIP, r"quick_gelu: expected quick_gelu.* found gelu"),
        (CLIP, "open_clip_config.json", {"model_cfg": {**OPEN_CLIP["model_cfg"], "quick_gelu": True}}, ""),
        (CLIP, "open_clip_config.json", {"model_cfg": {"vision_cfg": {"timm_model_name": "vit"}}}, ""),
        (PLAIN, "config.json", {"model_type": "dinov2", "num_attention_heads": 4}, r"expected 2.* found 4"),
        (PLAIN, "config.json", {"model_type": "dinov2", "num_attention_heads": 2}, ""),
        (PLAIN, "config.json", {"model_type": "dinov2", "layer_norm_eps": 1e-6, "hidden_act": "gelu"}, ""),
        (PLAIN, "config.json", {"model_type": "dinov2", "layer_norm_eps": 1e-5}, "layer_norm_eps"),
        (V3, "config.json", {"model_type": "dinov3_vit", "rope_theta": 10000.0}, "rope_theta: expected 100"),
        (PLUS, "config.json", {"model_type": "dinov3_vit", "hidden_act": "silu", "rope_theta": 100.0}, ""),
        (
            SIGLIP2,
            "config.json",
            {"model_type": "siglip", "vision_config": {"hidden_act": "gelu_pytorch_tanh"}},
            "",
        ),
        (CLIP, "config.json", {"architecture": "vit_base_patch32_clip_224"}, ""),  # of OpenAI's or LAION's
        (
            CLIP,
            "config.json",
            {"architecture": "vit_base_patch32_clip_224", "pretrained_cfg": {"tag": "laion2b"}},
            r"checkpoint of clip-b32-gelu given for tiny-clip.*fix: set the variant to clip-b32-gelu",
        ),
    ],
)
def test_what_the_shapes_do_not_show_is_read_beside_the_weights(tmp_path, config, file, values, says):
    path = write(tmp_path / "model.safetensors", state_of(config), config, "softbio")
    (tmp_path / file).write_text(json.dumps(values))
    if says:
        with pytest.raises(UserError, match=says):
            formats.read(path, config=config)
    else:
        formats.read(path, config=config)


def test_the_other_activation_of_the_same_shapes_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GELU))
    with pytest.raises(UserError, match="fix: set the variant to clip-b32-gelu"):
        beside.check(tmp_path / "model.safetensors", VISION["clip-b32"], {})
    beside.check(tmp_path / "model.safetensors", VISION["clip-b32-gelu"], {})


def test_our_own_files_name_their_variant(tmp_path):
    tiling = {"variant": "PE-Lang-L14-448-Tiling"}  # which computes the same
    beside.check(tmp_path / "a.safetensors", VISION["PE-Lang-L14-448"], tiling)
    with pytest.raises(UserError, match=r"checkpoint of clip-b32-gelu given for clip-b32: .*metadata"):
        beside.check(tmp_path / "a.safetensors", VISION["clip-b32"], {"variant": "clip-b32-gelu"})
    first = VISION["clip-b32-gelu"].first(6, where="model.blocks")
    beside.check(tmp_path / "a.safetensors", first, {"variant": "clip-b32-gelu"})


@pytest.mark.parametrize("config", [CLIP, SIGLIP2], ids=lambda config: config.name)
def test_a_vision_encoder_that_transformers_saved_alone(tmp_path, config):
    state = state_of(config)
    arrays = formats.of(config, "transformers").from_official(state)
    alone = {key.removeprefix("vision_model."): array for key, array in arrays.items() if "model." in key}
    save_arrays(tmp_path / "a.safetensors", alone, metadata={})
    if config.out_dim is None:
        assert same_bits(formats.read(tmp_path / "a.safetensors", config=config), state)
    else:
        with pytest.raises(UserError, match=r"another head.*visual_projection.*--head_of"):
            formats.read(tmp_path / "a.safetensors", config=config)
    with pytest.raises(UserError, match=r"another family given for tiny-dinov2.*clip or siglip2"):
        formats.read(tmp_path / "a.safetensors", config=PLAIN)


@pytest.mark.parametrize(
    ("key", "change", "says"),
    [
        ("pos_embed", lambda a: np.zeros((1, 50, 32), a.dtype), r"another image size: .*found 7 x 7, of 56"),
        ("pos_embed", lambda a: np.zeros((1, 48, 32), a.dtype), "pos_embed is 1x48x32 not 1x17x32"),
        ("patch_embed.proj.weight", lambda a: a.transpose(2, 3, 1, 0), "is 8x8x3x32 not 32x3x8x8"),
        ("patch_embed.proj.weight", lambda a: np.zeros((32, 3, 16, 16), a.dtype), "patch size that does not"),
        ("patch_embed.proj.weight", lambda a: a.reshape(32, -1), "is 32x192 not 32x3x8x8"),
    ],
)
def test_an_array_of_another_size_or_layout(tmp_path, key, change, says):
    arrays = dict(formats.of(PLAIN, "timm").from_official(state_of(PLAIN)))
    arrays[key] = change(arrays[key])
    save_arrays(tmp_path / "a.safetensors", arrays, metadata={})
    with pytest.raises(UserError, match=says):
        formats.read(tmp_path / "a.safetensors", config=PLAIN)
