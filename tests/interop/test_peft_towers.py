"""Which encoder a PEFT adapter is for: by prefix, class, shapes, the user's word; and what is refused."""

import json

import numpy as np
import pytest
import safetensors.numpy

from softbio_jax.errors import UserError
from softbio_jax.interop import adapter_files, formats, peft
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.models.config import vision_config
from tests.interop.test_commands import run

CONFIG = vision_config("tiny-test")
BOTH = dict(named_state(formats.official_shapes("tiny-test", text=True)))
VISION = {key: array for key, array in BOTH.items() if key.startswith("visual.")}
PREFIX = "base_model.model."
BLOCKS = [f"transformer.resblocks.{i}" for i in range(2)]  # both encoders have these, of the same shapes
MLPS = [f"{block}.mlp.{name}" for block in BLOCKS for name in ("c_fc", "c_proj")]


def drawn(*modules, sizes=None):
    """module -> (A, B), of the shapes in the model of both encoders or of `sizes`."""
    rng = np.random.default_rng(0)
    pairs = {}
    for module in modules:
        out, inputs = sizes or BOTH[f"{module}.weight"].shape
        pairs[module] = tuple(rng.normal(size=s).astype(np.float32) for s in ((4, inputs), (out, 4)))
    return pairs


def saved(folder, pairs, base_class=None, **values):
    folder.mkdir()
    arrays = {
        f"{PREFIX}{m}.lora_{x}.weight": y for m, (a, b) in pairs.items() for x, y in (("A", a), ("B", b))
    }
    safetensors.numpy.save_file(arrays, folder / peft.WEIGHTS)
    mapping = base_class and {"base_model_class": base_class, "parent_library": "core.vision_encoder.pe"}
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "auto_mapping": mapping}
    (folder / peft.CONFIG).write_text(json.dumps(config | values))
    return folder


def encoders(folder, config=CONFIG, **kw):
    return {path.split("/")[0] for path in peft.read(folder, config, **kw).layers}


def assert_folded(found, pairs, base):
    changed = {f"{module}.weight": base[f"{module}.weight"] + 2 * b @ a for module, (a, b) in pairs.items()}
    assert found.keys() == base.keys()
    for key, array in (base | changed).items():
        np.testing.assert_allclose(found[key], array, atol=2e-5, err_msg=key)


class TestDecided:
    @pytest.mark.parametrize(("name", "tower"), [("CLIP", "text"), ("TextTransformer", "text")])
    def test_by_the_class_of_both_encoders(self, name, tower, tmp_path):
        assert encoders(saved(tmp_path / "a", drawn(*MLPS), name)) == {tower}

    def test_by_the_class_of_the_vision_encoder(self, tmp_path):
        assert encoders(saved(tmp_path / "a", drawn(*MLPS), "VisionTransformer")) == {"encoder"}

    @pytest.mark.parametrize("prefix", ["visual.", "trunk.", "vision_model.", "backbone.visual."])
    def test_by_a_prefix_of_the_vision_encoder(self, prefix, tmp_path):
        pairs = {prefix + module: pair for module, pair in drawn(*MLPS).items()}
        assert encoders(saved(tmp_path / "a", pairs, "CLIP")) == {"encoder"}

    @pytest.mark.parametrize("prefix", ["text.", "text_model.", "model.text."])
    def test_by_a_prefix_of_the_text_encoder(self, prefix, tmp_path):
        pairs = {prefix + module: pair for module, pair in drawn(*MLPS).items()}
        assert encoders(saved(tmp_path / "a", pairs)) == {"text"}

    def test_by_modules_with_a_prefix_beside_them(self, tmp_path):
        pairs = drawn(*MLPS, *(f"visual.{module}" for module in MLPS[:2]))
        assert encoders(saved(tmp_path / "a", pairs)) == {"encoder", "text"}

    def test_by_the_pooling_beside_them(self, tmp_path):
        pooling = {"attn_pool.mlp.c_fc": drawn("visual.attn_pool.mlp.c_fc")["visual.attn_pool.mlp.c_fc"]}
        assert encoders(saved(tmp_path / "a", drawn(*MLPS) | pooling)) == {"encoder", "pool"}

    def test_by_a_block_that_only_one_has(self, tmp_path):
        pair = drawn(MLPS[0])[MLPS[0]]
        pairs = {"transformer.resblocks.2.mlp.c_fc": pair}
        assert encoders(saved(tmp_path / "a", pairs)) == {"encoder"}

    def test_by_modules_that_only_one_has(self, tmp_path):
        pairs = drawn(f"{BLOCKS[0]}.attn.in_proj", sizes=(96, 32))
        assert encoders(saved(tmp_path / "a", pairs)) == {"encoder"}
        pairs = drawn(f"{BLOCKS[0]}.attn", sizes=(96, 32))
        assert encoders(saved(tmp_path / "b", pairs)) == {"text"}

    @pytest.mark.parametrize(("width", "tower"), [(768, "encoder"), (1024, "text")])
    def test_by_shapes(self, width, tower, tmp_path):
        pairs = drawn(f"{BLOCKS[0]}.mlp.c_fc", sizes=(4 * width, width))
        assert encoders(saved(tmp_path / "a", pairs), vision_config("PE-Core-B16-224")) == {tower}

    @pytest.mark.parametrize(("tower", "found"), [("vision", "encoder"), ("text", "text")])
    def test_by_the_users_word(self, tower, found, tmp_path):
        assert encoders(saved(tmp_path / "a", drawn(*MLPS)), tower=tower) == {found}

    def test_a_variant_without_text(self, tmp_path):
        pairs = drawn(*MLPS, sizes=(4096, 1024))
        pairs = {module: pair for module, pair in pairs.items() if "c_fc" in module}
        assert encoders(saved(tmp_path / "a", pairs), vision_config("PE-Spatial-L14-448")) == {"encoder"}


SIGLIP2 = vision_config("tiny-siglip2")  # whose encoders' blocks have layers of the same shapes
SIGLIP2_BLOCK = ["encoder.layers.0.self_attn.q_proj", "encoder.layers.1.mlp.fc1"]  # in transformers 5


def of_siglip2():
    return {**drawn(SIGLIP2_BLOCK[0], sizes=(32, 32)), **drawn(SIGLIP2_BLOCK[1], sizes=(80, 32))}


class TestOneEncoderOfTransformers:
    @pytest.mark.parametrize(
        ("name", "tower"), [("SiglipTextModel", "text"), ("SiglipVisionModel", "encoder")]
    )
    def test_by_the_class(self, name, tower, tmp_path):
        assert encoders(saved(tmp_path / "a", of_siglip2(), name), SIGLIP2) == {tower}

    def test_a_doubt_is_asked_about_and_the_word_decides(self, tmp_path):
        folder = saved(tmp_path / "a", of_siglip2())
        with pytest.raises(UserError, match=r"fix: add --tower=vision or --tower=text"):
            peft.read(folder, SIGLIP2)
        assert encoders(folder, SIGLIP2, tower="text") == {"text"}

    @pytest.mark.parametrize(
        ("module", "sizes", "tower"),
        [("head.mlp.fc1", (80, 32), "encoder"), ("encoder.layers.2.mlp.fc1", (80, 32), "encoder")],
    )
    def test_by_modules_that_only_one_has(self, module, sizes, tower, tmp_path):
        pairs = of_siglip2() | drawn(module, sizes=sizes)
        assert tower in encoders(saved(tmp_path / "a", pairs), SIGLIP2)

    @pytest.mark.parametrize(("width", "tower"), [(32, "encoder"), (24, "text")])
    def test_by_shapes_of_a_part_of_a_layer(self, width, tower, tmp_path):
        pairs = drawn(SIGLIP2_BLOCK[0], sizes=(width, width))
        assert encoders(saved(tmp_path / "a", pairs), vision_config("tiny-clip")) == {tower}

    def test_a_variant_without_text(self, tmp_path):
        pairs = drawn("encoder.layer.0.attention.q_proj", sizes=(32, 32))
        assert encoders(saved(tmp_path / "a", pairs), vision_config("tiny-dinov2")) == {"encoder"}


class TestRefused:
    @pytest.mark.parametrize("base_class", [None, "MyModel", "PeftModel"])
    def test_a_doubt_is_asked_about(self, base_class, tmp_path):
        folder = saved(tmp_path / "a", drawn(*MLPS), base_class)
        with pytest.raises(UserError, match=r"fix: add --tower=vision or --tower=text") as told:
            peft.read(folder, CONFIG)
        assert "\n" not in str(told.value)

    @pytest.mark.parametrize(
        ("base_class", "tower", "named"),
        [
            ("CLIP", "vision", "base class CLIP: text, --tower=vision"),
            ("VisionTransformer", "text", "base class VisionTransformer: vision, --tower=text"),
        ],
    )
    def test_a_word_against_the_file(self, base_class, tower, named, tmp_path):
        folder = saved(tmp_path / "a", drawn(*MLPS), base_class)
        with pytest.raises(UserError, match=named):
            peft.read(folder, CONFIG, tower=tower)

    def test_shapes_against_the_class(self, tmp_path):
        pairs = drawn(f"{BLOCKS[0]}.mlp.c_fc", sizes=(3072, 768))
        with pytest.raises(UserError, match=r"base class CLIP: text, shapes: vision"):
            peft.read(saved(tmp_path / "a", pairs, "CLIP"), vision_config("PE-Core-B16-224"))

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("visual.transformer.resblocks.0.mlp.c_fc", "blocks.0.mlp.fc1"),
            ("visual.blocks.0.mlp.fc1", "trunk.blocks.0.mlp.fc1"),
            ("blocks.1.mlp.fc1", "backbone.blocks.1.mlp.fc1"),
            ("attn_pool.mlp.fc1", "visual.attn_pool.mlp.c_fc"),
            ("text.transformer.resblocks.0.mlp.c_fc", "text_model.transformer.resblocks.0.mlp.c_fc"),
        ],
    )
    def test_two_names_of_one_layer(self, one, other, tmp_path):
        folder = saved(tmp_path / "a", drawn(one, other, sizes=(128, 32)))
        with pytest.raises(UserError, match="two modules for one layer") as told:
            peft.read(folder, CONFIG)
        first, second = sorted((one, other))  # the file's order
        assert f"{PREFIX}{first} and {PREFIX}{second};" in str(told.value)

    @pytest.mark.parametrize(
        ("one", "other", "sizes"),
        [
            ("blocks.0.attn.qkv", "blocks.0.attn.q_proj", (96, 32)),
            ("blocks.0.attn.q", "blocks.0.attn.q_proj", (32, 32)),
            ("attn_pool.q", "attn_pool.attn", (96, 32)),
        ],
    )
    def test_a_layer_and_a_part_of_it(self, one, other, sizes, tmp_path):
        folder = saved(tmp_path / "a", drawn(one, other, sizes=sizes))
        with pytest.raises(UserError, match="two modules for one layer") as told:
            peft.read(folder, CONFIG)
        first, second = sorted((one, other))  # the file's order
        assert f"{PREFIX}{first} and {PREFIX}{second};" in str(told.value)

    def test_a_magnitude_with_and_without_weight(self, tmp_path):
        folder = saved(tmp_path / "a", drawn("blocks.0.mlp.fc1", sizes=(128, 32)), use_dora=True)
        arrays = safetensors.numpy.load_file(folder / peft.WEIGHTS)
        key = f"{PREFIX}blocks.0.mlp.fc1.lora_magnitude_vector"
        arrays |= {key: np.ones(128, np.float32), f"{key}.weight": np.ones(128, np.float32)}
        safetensors.numpy.save_file(arrays, folder / peft.WEIGHTS)
        with pytest.raises(UserError, match="two tensors for one place"):
            peft.read(folder, CONFIG)

    @pytest.mark.parametrize("version", ["0.14.0", "0.18.2", "0.22.0", "0.21.3.dev0"])
    def test_torchs_attention_from_a_peft_that_was_not_measured(self, version, tmp_path):
        pairs = drawn("attn_pool.attn", sizes=(96, 32))
        pairs |= drawn("attn_pool.attn.base_layer.out_proj", sizes=(32, 32))
        folder = saved(tmp_path / "a", pairs, peft_version=version)
        with pytest.raises(UserError, match=r"not measured: .*fix: merge it with the PEFT that trained it"):
            peft.read(folder, CONFIG)

    def test_the_text_attentions_projection_that_peft_would_bypass(self, tmp_path):
        folder = saved(tmp_path / "a", drawn(f"{BLOCKS[0]}.attn.out_proj", sizes=(32, 32)), "CLIP")
        with pytest.raises(UserError, match="adapter of a layer that the encoder does not have"):
            peft.read(folder, CONFIG)


class TestText:
    """Adapters of the text encoder, in a model of both."""

    def test_folds_into_both_encoders(self, tmp_path):
        pairs = drawn(*MLPS, *(f"visual.{module}" for module in MLPS[:1]))
        adaptation = adapter_files.read(saved(tmp_path / "a", pairs, "CLIP"), CONFIG, "peft")
        assert_folded(adapter_files.into_tower(adaptation, BOTH), pairs, BOTH)

    @pytest.mark.parametrize("version", ["0.21.2", "0.18.0", None])  # None: of PEFT before 0.18
    def test_the_attention_of_text_blocks(self, version, tmp_path):
        pairs = drawn(f"{BLOCKS[1]}.attn", sizes=(96, 32))
        pairs |= drawn(f"{BLOCKS[1]}.attn.base_layer.out_proj", sizes=(32, 32))
        folder = saved(tmp_path / "a", pairs, "CLIP", peft_version=version)
        found = adapter_files.into_tower(adapter_files.read(folder, CONFIG, "peft"), BOTH)
        (a, b), (a_out, b_out) = pairs.values()
        for key, update in (("in_proj_weight", 2 * b @ a), ("out_proj.weight", 4 * b_out @ a_out)):
            key = f"{BLOCKS[1]}.attn.{key}"
            np.testing.assert_allclose(found[key], BOTH[key] + update, atol=2e-5)

    def test_is_written_back_with_the_names_of_both(self, tmp_path):
        pairs = drawn(*MLPS, *(f"visual.{module}" for module in MLPS[:1]))
        adaptation = adapter_files.read(saved(tmp_path / "a", pairs, "CLIP"), CONFIG, "peft")
        adapter_files.write(tmp_path / "b", adaptation, CONFIG, "peft")
        arrays = safetensors.numpy.load_file(tmp_path / "b" / peft.WEIGHTS)
        assert arrays.keys() == {f"{PREFIX}{m}.lora_{x}.weight" for m in pairs for x in "AB"}
        again = adapter_files.read(tmp_path / "b", CONFIG, "peft")
        assert_folded(adapter_files.into_tower(again, BOTH), pairs, BOTH)

    def test_has_no_place_without_text(self, tmp_path):
        adaptation = adapter_files.read(saved(tmp_path / "a", drawn(*MLPS), "CLIP"), CONFIG, "peft")
        with pytest.raises(UserError, match=r"text encoder, which the base does not have"):
            adapter_files.into_tower(adaptation, VISION)
        with pytest.raises(UserError, match="text encoder have no place in this format"):
            adapter_files.write(tmp_path / "b.safetensors", adaptation, CONFIG, "softbio")
        with pytest.raises(UserError, match="an adapter of the text encoder alone"):
            adapter_files.without_heads(adaptation)

    def test_vision_only_leaves_the_vision_encoders_part(self, tmp_path):
        pairs = drawn(*MLPS, *(f"visual.{module}" for module in MLPS[:1]))
        adaptation = adapter_files.read(saved(tmp_path / "a", pairs, "CLIP"), CONFIG, "peft")
        found = adapter_files.into_tower(adapter_files.without_heads(adaptation), VISION)
        assert_folded(found, {m: pair for m, pair in pairs.items() if m.startswith("visual.")}, VISION)


def test_what_we_write_with_official_names_says_its_encoder(tmp_path):
    adapter = peft.read(saved(tmp_path / "a", drawn(*MLPS)), CONFIG, tower="vision")
    peft.write(tmp_path / "b", adapter, naming="official")
    assert peft.read(tmp_path / "b", CONFIG).layers.keys() == adapter.layers.keys()


def test_a_word_about_another_format(tmp_path):
    with pytest.raises(UserError, match="the encoder is asked for peft alone: --tower"):
        adapter_files.read(tmp_path / "a.safetensors", CONFIG, "softbio", tower="text")


def test_the_command_asks_and_folds(tmp_path):
    pairs = drawn(*MLPS)
    folder, base = saved(tmp_path / "a", pairs), tmp_path / "base.safetensors"
    save_arrays(base, BOTH, metadata={})
    common = {
        "variant": "tiny-test",
        "src": folder,
        "src_format": "peft",
        "base": base,
        "dst_format": "official",
    }
    done = run("convert", **common, dst=tmp_path / "x.safetensors")
    assert done.returncode == 1
    assert done.stderr.startswith("error: adapter of the vision encoder, or of the text encoder")
    for tower, wanted in (("text", pairs), ("vision", {f"visual.{m}": pair for m, pair in pairs.items()})):
        path = tmp_path / f"{tower}.safetensors"
        done = run("convert", **common, dst=path, tower=tower)
        assert done.returncode == 0, done.stderr
        found, _ = load_arrays(path)
        assert_folded(found, wanted, BOTH)
    done = run("convert", **common, dst=tmp_path / "y.safetensors", tower="vision", vision_only=True)
    assert done.returncode == 0, done.stderr
    found, _ = load_arrays(tmp_path / "y.safetensors")
    assert_folded({f"visual.{key}": array for key, array in found.items()}, wanted, VISION)
