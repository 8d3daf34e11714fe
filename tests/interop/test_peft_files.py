"""PEFT folders as others save them: files, names, fields and weights that are read, and folding."""

import io
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from softbio_jax.console import Console
from softbio_jax.errors import UserError
from softbio_jax.interop import adapter_files, formats, peft, stacking
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.official import OFFICIAL
from softbio_jax.interop.peft_parts import folder as folders
from softbio_jax.interop.peft_parts.targets import check_targets, targets_of, unwrapped
from softbio_jax.interop.reading import locate
from softbio_jax.interop.timm import OFFICIAL_TO_TIMM
from softbio_jax.models.config import TEXT, vision_config
from softbio_jax.params import unflatten

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = vision_config("tiny-test")
BASE = dict(named_state(formats.official_shapes("tiny-test", text=False)))
TIMM = OFFICIAL_TO_TIMM.forward(BASE)
PREFIX = "base_model.model."
PATCH = "vision_model.embeddings.patch_embedding"  # of CLIP in transformers
QKV, FC1 = "blocks.0.attn.qkv", "blocks.1.mlp.fc1"


DINOV2_BIAS = "encoder.layer.0.attention.{}.bias"
CLIP_BIASES = [f"vision_model.encoder.layers.0.self_attn.{x}_proj.bias" for x in "qkv"]
CLIP_OUT = "vision_model.encoder.layers.1.self_attn.out_proj"


@pytest.mark.parametrize(
    ("variant", "module", "trained"),  # trained: names in memory -> in transformers' files
    [
        (
            "tiny-dinov2",
            "encoder.layer.1.attention.o_proj",
            {
                DINOV2_BIAS.format(f"{name[0]}_proj"): DINOV2_BIAS.format(f"attention.{name}")
                for name in ("query", "key", "value")
            },
        ),
        ("tiny-clip", CLIP_OUT, {name: name for name in [*CLIP_BIASES, "text_model.final_layer_norm.bias"]}),
        ("tiny-siglip2", CLIP_OUT, {"vision_model.head.mlp.fc1.bias": "vision_model.head.mlp.fc1.bias"}),
        (
            "tiny-siglip2",
            "encoder.layers.2.self_attn.out_proj",
            {"post_layernorm.bias": "vision_model.post_layernorm.bias"},
        ),
    ],
)
def test_biases_that_were_trained_on_transformers_modules(variant, module, trained, tmp_path):
    config = vision_config(variant)
    base = named_state(formats.official_shapes(variant, text=variant in TEXT))
    to_files = formats.of(config, "transformers").from_official
    before, rng = to_files(base), np.random.default_rng(0)
    arrays = {f"{module}.lora_{x}.weight": rng.normal(size=s) for x, s in (("A", (4, 32)), ("B", (32, 4)))}
    arrays |= {name: before[file] + 1 for name, file in trained.items()}
    arrays = {key: array.astype(np.float32) for key, array in arrays.items()}
    folder = saved(tmp_path / "a", arrays, bias="all")
    after = to_files(adapter_files.into_tower(adapter_files.read(folder, config, "peft"), base))
    changed = {key for key in before if not np.array_equal(after[key], before[key])}
    assert len(changed) == len(trained) + 1 and changed > set(trained.values())
    for file in trained.values():
        np.testing.assert_array_equal(after[file], before[file] + 1)


@pytest.mark.parametrize(("module", "ours"), [("visual_projection", "proj"), (PATCH, "encoder/patch_embed")])
def test_modules_of_transformers_outside_the_blocks(module, ours, tmp_path):
    shapes = {"proj": ((4, 32), (24, 4)), "encoder/patch_embed": ((4, 3, 8, 8), (32, 4, 1, 1))}[ours]
    arrays = {f"{module}.lora_{x}.weight": np.ones(s, np.float32) for x, s in zip("AB", shapes, strict=True)}
    read = peft.read(saved(tmp_path / "a", arrays), vision_config("tiny-clip"))
    assert list(read.layers) == [ours]


def drawn(*modules, rank=4):
    rng = np.random.default_rng(0)
    arrays = {}
    for module in modules:
        out, *inputs = TIMM[f"{module}.weight"].shape
        arrays[f"{module}.lora_A.weight"] = rng.normal(size=(rank, *inputs)).astype(np.float32)
        b = (out, rank) if len(inputs) == 1 else (out, rank, 1, 1)
        arrays[f"{module}.lora_B.weight"] = rng.normal(size=b).astype(np.float32)
    return arrays


def saved(folder, arrays, *, prefix=PREFIX, **values):
    folder.mkdir(parents=True)
    arrays = {prefix + key: np.ascontiguousarray(array) for key, array in arrays.items()}
    safetensors.numpy.save_file(arrays, folder / peft.WEIGHTS)
    (folder / peft.CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8} | values))
    return folder


def folded(folder, base=BASE, **kw):
    adaptation = adapter_files.read(folder, CONFIG, "peft")
    return OFFICIAL_TO_TIMM.forward(adapter_files.into_tower(adaptation, base, **kw))


def assert_changed(found, changed, atol=2e-5):
    """Everything but these weights is the base's."""
    for key, array in (TIMM | changed).items():
        np.testing.assert_allclose(found[key], array, atol=atol, err_msg=key)


LIBRARIES = {  # names of a block's layers: timm's, the original's and transformers'
    "tiny-dinov3": [
        {"qkv": "blocks.0.attn.qkv", "out": "blocks.0.attn.proj", "first": "blocks.0.mlp.fc1"},
        {"q": "layer.0.attention.q_proj", "out": "layer.0.attention.o_proj", "first": "layer.0.mlp.up_proj"},
        {"k": "model.layer.0.attention.k_proj", "last": "model.layer.0.mlp.down_proj"},
    ],
    "tiny-dinov3-plus": [
        {"gate": "blocks.0.mlp.fc1_g", "up": "blocks.0.mlp.fc1_x", "last": "blocks.0.mlp.fc2"},
        {"gate": "blocks.0.mlp.w1", "up": "blocks.0.mlp.w2", "last": "blocks.0.mlp.w3"},
        {"gate": "model.layer.0.mlp.gate_proj", "up": "layer.0.mlp.up_proj"},
        {"up": "blocks.0.mlp.w2"},
    ],
}
OF_PART = {  # layer, outputs of 128 x 64 and what they are there
    "qkv": ("attn/qkv", 384, slice(None)),
    "q": ("attn/qkv", 128, slice(0, 128)),
    "k": ("attn/qkv", 128, slice(128, 256)),
    "out": ("attn/out", 128, slice(None)),
    "first": ("mlp/c_fc", 64, slice(None)),
    "gate": ("mlp/c_fc", 64, slice(0, 64)),
    "up": ("mlp/c_fc", 64, slice(64, 128)),
    "last": ("mlp/c_proj", 128, slice(None)),
}


@pytest.mark.parametrize(
    ("variant", "modules"),
    [(variant, modules) for variant, several in LIBRARIES.items() for modules in several],
)
def test_the_modules_of_dinov3_in_the_libraries(variant, modules, tmp_path):
    config, rng, arrays = vision_config(variant), np.random.default_rng(0), {}
    for part, module in modules.items():
        inputs = 64 if part == "last" else 128
        arrays[f"{module}.lora_A.weight"] = rng.normal(size=(4, inputs)).astype(np.float32)
        arrays[f"{module}.lora_B.weight"] = rng.normal(size=(OF_PART[part][1], 4)).astype(np.float32)
    layers = peft.read(saved(tmp_path / "a", arrays), config).layers
    for part, module in modules.items():
        name, _, columns = OF_PART[part]
        layer = layers[f"encoder/blocks/0/{name}"]
        expected = arrays[f"{module}.lora_B.weight"] @ arrays[f"{module}.lora_A.weight"]
        np.testing.assert_allclose((layer.a @ layer.b).T[columns], expected, atol=1e-5)
    assert len(layers) == len({OF_PART[part][0] for part in modules})


def test_a_bias_of_keys_that_have_none_is_refused(tmp_path):
    arrays = {f"{QKV}.lora_A.weight": np.ones((4, 128)), f"{QKV}.lora_B.weight": np.ones((384, 4))}
    arrays[f"{QKV}.lora_B.bias"] = np.repeat([1.0, 0.0, 1.0], 128)
    arrays = {key: array.astype(np.float32) for key, array in arrays.items()}
    config = vision_config("tiny-dinov3")
    assert peft.read(saved(tmp_path / "a", arrays, lora_bias=True), config).layers
    arrays[f"{QKV}.lora_B.bias"][128] = 1
    with pytest.raises(UserError, match=r"a bias of the keys, which the encoder does not have.*attn/qkv"):
        peft.read(saved(tmp_path / "b", arrays, lora_bias=True), config)


def test_trained_biases_of_queries_and_values_are_read(tmp_path):
    config = vision_config("tiny-dinov3")
    arrays = {f"{QKV}.lora_A.weight": np.ones((4, 128)), f"{QKV}.lora_B.weight": np.ones((384, 4))}
    arrays |= {f"blocks.0.attn.{part}_bias": np.full(128, i + 1.0) for i, part in enumerate("qv")}
    arrays = {key: array.astype(np.float32) for key, array in arrays.items()}
    trained = peft.read(saved(tmp_path / "a", arrays, bias="all"), config).trained
    assert list(trained) == ["encoder/blocks/0/attn/qkv/bias"]
    np.testing.assert_array_equal(trained["encoder/blocks/0/attn/qkv/bias"], np.repeat([1, 0, 2], 128))


def refused(folder, match):
    with pytest.raises(UserError, match=match) as told:
        peft.read(folder, CONFIG)
    assert "\n" not in str(told.value) and "; fix: " in str(told.value)


class TestWhereAnEncoderIsNeeded:
    """An adapter is refused, by what it is."""

    @pytest.mark.parametrize("named", ["a", f"a/{peft.WEIGHTS}"])
    def test_peft_files(self, tmp_path, named):
        saved(tmp_path / "a", drawn(QKV))
        source = tmp_path / named
        with pytest.raises(UserError, match=r"an adapter, not an encoder: .*--base=ENCODER to "):
            formats.read(locate.resolve(str(source)), config=CONFIG)

    def test_our_own_file(self, tmp_path):
        path = tmp_path / "own.safetensors"
        adaptation = adapter_files.read(saved(tmp_path / "a", drawn(QKV)), CONFIG, "peft")
        adapter_files.write(path, adaptation, CONFIG, "softbio")
        with pytest.raises(UserError, match=f"an adapter, not an encoder: {path}"):
            formats.read(path, config=CONFIG)

    @pytest.mark.parametrize(
        ("source", "base", "says"),
        [
            ("encoder.safetensors", "a", "fix: exchange them: --src=a --base=encoder.safetensors"),
            (
                "a",
                "a",
                "an adapter, not an encoder: --base: a: .*; fix: give the encoder that a was trained on",
            ),
            (
                "encoder.safetensors",
                "encoder.safetensors",
                "an encoder holds no adapters: .*fix: drop --base",
            ),
        ],
    )
    def test_as_the_base_of_a_conversion(self, tmp_path, source, base, says):
        saved(tmp_path / "a", drawn(QKV))
        safetensors.numpy.save_file(BASE, tmp_path / "encoder.safetensors")
        flags = [f"--src={source}", f"--base={base}", "--variant=tiny-test", "--dst=x", "--dst_format=timm"]
        done = subprocess.run(
            [sys.executable, "-m", "softbio_jax", "convert", *flags],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1 and re.fullmatch(f"error: .*{says}.*\n", done.stderr)
        assert not (tmp_path / "x").exists()


class TestFolded:
    def test_the_projection(self, tmp_path):
        arrays = drawn("head")
        update = 2 * arrays["head.lora_B.weight"] @ arrays["head.lora_A.weight"]
        found = folded(saved(tmp_path / "a", arrays))
        assert_changed(found, {"head.weight": TIMM["head.weight"] + update})

    def test_the_patch_embedding(self, tmp_path):
        name = "patch_embed.proj"
        arrays = drawn(name)
        update = 2 * np.einsum("oruv,rchw->ochw", *(arrays[f"{name}.lora_{x}.weight"] for x in "BA"))
        found = folded(saved(tmp_path / "a", arrays))
        assert_changed(found, {f"{name}.weight": TIMM[f"{name}.weight"] + update}, atol=1e-4)

    def test_a_bias_of_b(self, tmp_path):
        arrays = drawn(QKV)
        update = 2 * arrays[f"{QKV}.lora_B.weight"] @ arrays[f"{QKV}.lora_A.weight"]
        bias = np.linspace(-1, 1, 96, dtype=np.float32)
        found = folded(saved(tmp_path / "a", arrays | {f"{QKV}.lora_B.bias": bias}, lora_bias=True))
        wanted = {
            f"{QKV}.weight": TIMM[f"{QKV}.weight"] + update,
            f"{QKV}.bias": TIMM[f"{QKV}.bias"] + 2 * bias,
        }
        assert_changed(found, wanted)

    def test_weights_that_were_trained_whole(self, tmp_path):
        arrays = drawn(QKV)
        update = 2 * arrays[f"{QKV}.lora_B.weight"] @ arrays[f"{QKV}.lora_A.weight"]
        names = ("norm.weight", "blocks.2.norm1.bias", f"{QKV}.bias", "attn_pool.q.bias", "head.weight")
        trained = {name: TIMM[name] + 1 for name in names}
        more = dict(trained)
        more[f"{QKV}.base_layer.bias"] = more.pop(f"{QKV}.bias")  # as PEFT names it
        folder = saved(tmp_path / "a", arrays | more, bias="all", modules_to_save=["norm", "head"])
        assert_changed(folded(folder), trained | {f"{QKV}.weight": TIMM[f"{QKV}.weight"] + update})
        adaptation = adapter_files.read(folder, CONFIG, "peft")
        adapter_files.write(tmp_path / "b.safetensors", adaptation, CONFIG, "softbio")
        again = adapter_files.read(tmp_path / "b.safetensors", CONFIG, "softbio")
        found = OFFICIAL_TO_TIMM.forward(adapter_files.into_tower(again, BASE))
        assert_changed(found, trained | {f"{QKV}.weight": TIMM[f"{QKV}.weight"] + update})
        with pytest.raises(UserError, match=r"no place for heads and trained.*fix: fold them: --base"):
            adapter_files.write(tmp_path / "c", adaptation, CONFIG, "peft")

    def test_trained_weights_are_in_their_places_in_a_model(self, tmp_path):
        name = "blocks.2.norm1.bias"
        folder = saved(tmp_path / "a", drawn(QKV) | {name: TIMM[name] + 1}, bias="all")
        adaptation = adapter_files.read(folder, CONFIG, "peft")
        native = OFFICIAL.forward(BASE)
        stacked = stacking.stack(native, tail=adaptation.tail)
        params = adapter_files.attach(unflatten(stacked), adaptation)
        found = params["encoder"]["tail" if adaptation.tail else "trunk"]["ln_1"]["bias"]
        np.testing.assert_array_equal(found[-1], TIMM[name] + 1)
        np.testing.assert_array_equal(found[0], native["encoder/blocks/1/ln_1/bias"])

    @pytest.mark.parametrize("field", ["bias", "modules_to_save"])
    def test_trained_weights_that_the_encoder_does_not_have(self, field, tmp_path):
        value = {"bias": "all", "modules_to_save": ["classifier"]}[field]
        arrays = drawn(QKV) | {"classifier.bias": np.ones(7, np.float32)}
        refused(
            saved(tmp_path / "a", arrays, **{field: value}), "trained weights that the encoder does not have"
        )

    def test_modules_to_save_by_the_end_of_their_name_as_peft_compares(self, tmp_path):
        arrays = drawn(QKV) | {"blocks.1.norm1.bias": TIMM["blocks.1.norm1.bias"] + 1}
        found = folded(saved(tmp_path / "a", arrays, modules_to_save=["orm1"]))
        np.testing.assert_array_equal(found["blocks.1.norm1.bias"], arrays["blocks.1.norm1.bias"])

    def test_a_bias_that_the_projection_does_not_have(self, tmp_path):
        arrays = drawn(QKV) | {"head.bias": np.ones(24, np.float32)}
        refused(saved(tmp_path / "a", arrays, bias="all"), "expected a bias of 0")

    def test_the_same_weight_by_two_names(self, tmp_path):
        arrays = drawn(QKV) | {n: TIMM["norm.bias"] for n in ("norm.bias", "trunk.norm.bias")}
        refused(
            saved(tmp_path / "a", arrays, bias="all"), "two names of one weight: .*norm.bias and .*norm.bias"
        )
        arrays = drawn(QKV) | {n: TIMM["norm.bias"] for n in ("norm.bias", "visual.ln_post.bias")}
        refused(saved(tmp_path / "b", arrays, bias="all"), "two names of one weight")


class TestSixteenBits:
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_each_weight_is_rounded_once_and_the_largest_rounding_is_reported(self, dtype, tmp_path):
        kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16)
        base = {key: array.astype(kind) for key, array in BASE.items()}
        arrays = drawn(QKV, FC1)
        out = io.StringIO()
        found = folded(saved(tmp_path / "a", arrays), base, console=Console(out=out))
        absolute = relative = 0.0
        for module in (QKV, FC1):
            plain = TIMM[f"{module}.weight"].astype(kind).astype(np.float32)
            b, a = (arrays[f"{module}.lora_{x}.weight"] for x in "BA")
            exact = plain + np.float32(2) * (b @ a)
            stored = found[f"{module}.weight"]
            assert stored.dtype == kind
            difference = np.abs(stored.astype(np.float64) - exact)
            assert (difference <= np.abs(exact) * float(ml_dtypes.finfo(kind).eps) / 2 + 1e-6).all()
            absolute = max(absolute, difference.max())
            normal = np.abs(exact) >= float(ml_dtypes.finfo(kind).smallest_normal)
            relative = max(relative, (difference / np.abs(exact))[normal].max())
        line = out.getvalue()
        numbers = [float(word.strip(",")) for word in line.split("at most ")[1].split() if word[0].isdigit()]
        assert numbers == pytest.approx([absolute, relative], rel=0.1) and dtype in line
        assert {array.dtype for array in found.values()} == {kind}

    def test_float32_says_nothing(self, tmp_path):
        out = io.StringIO()
        folded(saved(tmp_path / "a", drawn(QKV)), console=Console(out=out))
        assert not out.getvalue()

    def test_weights_that_became_too_large(self, tmp_path):
        base = {key: array.astype(np.float16) for key, array in BASE.items()}
        with pytest.raises(UserError, match=r"infinities.*qkv"):
            folded(saved(tmp_path / "a", drawn(QKV), lora_alpha=1e6), base)


class TestFolder:
    def test_an_adapter_with_a_name_is_in_a_subfolder(self, tmp_path):
        saved(tmp_path / "a" / "faces", drawn(QKV))
        assert len(peft.read(tmp_path / "a", CONFIG).layers) == 1

    def test_the_default_beside_another(self, tmp_path):
        saved(tmp_path / "a" / "faces", drawn(QKV, FC1))
        for path in saved(tmp_path / "b", drawn(FC1)).iterdir():
            path.rename(tmp_path / "a" / path.name)
        assert peft.read(tmp_path / "a", CONFIG).layers.keys() == {"encoder/blocks/1/mlp/c_fc"}

    def test_several_and_none(self, tmp_path):
        saved(tmp_path / "a" / "one", drawn(QKV))
        saved(tmp_path / "a" / "two", drawn(QKV))
        refused(tmp_path / "a", "several adapters in the folder: .*found one, two")
        refused(tmp_path / "none", "no PEFT adapter: .*found nothing")
        (saved(tmp_path / "b", drawn(QKV)) / peft.WEIGHTS).unlink()
        refused(tmp_path / "b", "an adapter without its weights")

    @pytest.mark.parametrize(
        "prefix", ["", "module.", "_orig_mod.", "base_model.model._orig_mod.", "timm_model."]
    )
    def test_prefixes_and_patterns_with_them(self, prefix, tmp_path):
        arrays = drawn(QKV, FC1)
        own = {"alpha_pattern": {f"{prefix.removeprefix(PREFIX)}{QKV}": 32}}
        found = peft.read(saved(tmp_path / "a", arrays, prefix=prefix, **own), CONFIG)
        assert [layer.config.alpha for layer in found.layers.values()] == [32, 8]

    def test_the_adapters_name_in_the_keys(self, tmp_path):
        arrays = {key.replace(".weight", ".default.weight"): array for key, array in drawn(QKV).items()}
        assert len(peft.read(saved(tmp_path / "a", arrays), CONFIG).layers) == 1
        more = {key.replace("default", "other"): array for key, array in arrays.items()}
        more = {
            key.replace(QKV, FC1): drawn(FC1)[key.replace(QKV, FC1).replace(".other", "")] for key in more
        }
        refused(saved(tmp_path / "b", arrays | more), "several adapters in one file: .*found default, other")
        refused(saved(tmp_path / "c", arrays | drawn(QKV)), "two tensors for one place")

    def test_hub_ids(self, tmp_path, monkeypatch):
        here = saved(tmp_path / "cache", drawn(QKV))
        asked = []

        def snapshot_download(repository, allow_patterns):
            asked.append(repository)
            if repository.startswith("gone/"):
                raise OSError("offline, and not in the cache")
            return str(here)

        monkeypatch.setitem(
            sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download)
        )
        assert folders.resolve("someone/faces") == here and asked == ["someone/faces"]
        assert folders.resolve(here) == here and len(asked) == 1
        with pytest.raises(UserError, match=r"neither a folder nor on the hub: gone/faces: .*found OSError"):
            folders.resolve("gone/faces")

    @pytest.mark.parametrize(
        ("files", "known"),
        [
            (("README.md", "adapter_config.json", "adapter_model.safetensors"), True),
            (("faces/adapter_config.json", "faces/adapter_model.bin", ".gitattributes"), True),
            (("config.json", "model.safetensors"), False),
            (("model.safetensors", "faces/adapter_config.json"), False),
            (("a/b/adapter_config.json",), False),
        ],
    )
    @pytest.mark.parametrize("online", [True, False])
    def test_an_adapter_on_the_hub_is_known_by_its_files(self, tmp_path, monkeypatch, files, known, online):
        for name in files:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

        def list_repo_files(repository):
            if not online:
                raise OSError("offline")
            return list(files)

        def snapshot_download(repository, local_files_only):
            assert local_files_only
            if repository.startswith("gone/"):
                raise OSError("not in the cache")
            return str(tmp_path)

        hub = types.SimpleNamespace(list_repo_files=list_repo_files, snapshot_download=snapshot_download)
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
        assert folders.is_adapter_on_hub("someone/faces") is known
        assert folders.is_adapter(tmp_path) is known
        for other in ("a/b/faces", "someone/faces.pt", "facebook/PE-Core-L14-336", str(tmp_path)):
            assert not folders.is_adapter_on_hub(other)
        assert online or not folders.is_adapter_on_hub("gone/faces")

    def test_an_encoder_on_the_hub_is_no_adapter(self, tmp_path, monkeypatch):
        hub = types.SimpleNamespace(snapshot_download=lambda repository, allow_patterns: str(tmp_path))
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
        with pytest.raises(UserError, match=r"no PEFT adapter: someone/encoder: .*or as --base"):
            folders.resolve("someone/encoder")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("[" * 100_000, "nested too deeply"),
            ('{"peft_type": "LORA", "r": 4, "r": 8}', "'r' is there twice"),
            ('{"x": "' + " " * (17 << 20) + '"}', "more than 16 MiB"),
            ("[]", "a list, not an object"),
            ("{", "Expecting"),
        ],
        ids=["deep", "twice", "large", "list", "half"],
    )
    def test_a_configuration_is_bounded(self, tmp_path, content, reason):
        folder = saved(tmp_path / "a", drawn(QKV))
        (folder / peft.CONFIG).write_text(content)
        refused(folder, f"unreadable adapter configuration: .*{peft.CONFIG}: found .*{reason}")

    @pytest.mark.parametrize("fields", [{"lora_alpha": -8}, {"alpha_pattern": {"qkv": -8}}])
    def test_a_negative_alpha_is_a_negative_update(self, tmp_path, fields):
        (plus,) = peft.read(saved(tmp_path / "a", drawn(QKV), lora_alpha=8), CONFIG).layers.values()
        (minus,) = peft.read(saved(tmp_path / "b", drawn(QKV), **fields), CONFIG).layers.values()
        assert minus.config == plus.config and plus.config.alpha == 8
        np.testing.assert_array_equal(minus.a, plus.a)
        np.testing.assert_array_equal(minus.b, -plus.b)


TWO = {"target_modules": ["qkv", "fc1"]}
BAD_FIELDS = (
    {"target_modules": 3},
    {"exclude_modules": "("},
    {"layers_to_transform": ["1"]},
    {"modules_to_save": [1]},
)
CHANGED_BASE = ("pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga")
NAN, INF = float("nan"), float("inf")
BAD_NUMBERS = [("r", x) for x in (0, -4, 4.5, None, "4", True)]
BAD_NUMBERS += [("lora_alpha", x) for x in (NAN, INF, None, "8")]
METHODS = {"IA3": "merge_and_unload", "PREFIX_TUNING": "cannot merge this kind", "NEW": "merge_and_unload"}


class TestTargets:
    @pytest.mark.parametrize(
        ("fields", "chosen"),
        [
            ({}, "qkv fc1 head"),
            ({"target_modules": "all-linear"}, "qkv fc1 head"),
            ({"target_modules": ["qkv"]}, "qkv"),
            ({"target_modules": ["kv"]}, ""),
            ({"target_modules": [QKV, "head"]}, "qkv head"),
            ({"target_modules": r"blocks\.\d+\.mlp\.fc1"}, "fc1"),
            ({"target_modules": r"fc1"}, ""),
            ({"target_modules": ["qkv", "fc1"], "exclude_modules": ["fc1"]}, "qkv"),
            ({"exclude_modules": r"blocks\.0\..*"}, "fc1 head"),
            ({"modules_to_save": ["head"]}, "qkv fc1"),
            ({"target_modules": ["qkv", "fc1"], "layers_to_transform": 1, "layers_pattern": "blocks"}, "fc1"),
            (
                {
                    "target_modules": ["qkv", "fc1"],
                    "layers_to_transform": [0],
                    "layers_pattern": ["h", "blocks"],
                },
                "qkv",
            ),
            ({"target_modules": ["qkv", "fc1"], "layers_to_transform": [0], "layers_pattern": "layers"}, ""),
        ],
    )
    def test_what_peft_would_load(self, fields, chosen):
        targets = targets_of(fields, "adapter_config.json")
        modules = {"qkv": QKV, "fc1": FC1, "head": "head"}
        assert [name for name, module in modules.items() if targets.adapts(module)] == chosen.split()

    def test_without_a_pattern_blocks_are_below_a_parent_and_a_list(self):
        targets = targets_of({"target_modules": ["qkv"], "layers_to_transform": [0]}, "")
        assert targets.adapts(f"backbone.{QKV}") and not targets.adapts(QKV)

    def test_others_are_refused(self, tmp_path):
        refused(
            saved(tmp_path / "a", drawn(QKV, FC1), target_modules=["qkv"]), f"does not choose.*found {FC1};"
        )
        check_targets(targets_of({"target_modules": ["qkv"]}, ""), [QKV], where="")

    @pytest.mark.parametrize(
        "fields",
        [
            {"target_modules": 3},
            {"exclude_modules": "("},
            {"layers_to_transform": ["1"]},
            {"modules_to_save": [1]},
        ],
    )
    def test_fields_that_cannot_be_read(self, fields, tmp_path):
        refused(saved(tmp_path / "a", drawn(QKV), **fields), f"cannot be read: .*field {next(iter(fields))}")

    def test_wrappers_in_patterns(self):
        assert unwrapped(r"module\._orig_mod\.blocks\.0") == r"blocks\.0"
        assert unwrapped("my_module.blocks") == "my_module.blocks"


class TestSettings:
    @pytest.mark.parametrize("name", ["alpha_pattern", "rank_pattern"])
    def test_two_patterns_of_one_module(self, name, tmp_path):
        folder = saved(tmp_path / "a", drawn(QKV), **{name: {"attn.*": 2, "qkv": 3}})
        refused(folder, rf"patterns of one module that differ.*{name} for {QKV}: .*2.* by 'attn\.\*' and 3")
        peft.read(saved(tmp_path / "b", drawn(QKV), **{name: {"attn.*": 4, "qkv": 4, "fc1": 3}}), CONFIG)

    @pytest.mark.parametrize(
        "start", ["pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga"]
    )
    def test_an_initialisation_that_changed_the_base(self, start, tmp_path):
        refused(
            saved(tmp_path / "a", drawn(QKV), init_lora_weights=start), "began by changing the base weights"
        )

    @pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "EVA", "orthogonal", "mica"])
    def test_an_initialisation_that_did_not(self, start, tmp_path):
        fields = {"init_lora_weights": start, "eva_config": {"rho": 2.0}}
        assert len(peft.read(saved(tmp_path / "a", drawn(QKV), **fields), CONFIG).layers) == 1

    @pytest.mark.parametrize(("field", "value"), BAD_NUMBERS)
    def test_numbers_out_of_range(self, field, value, tmp_path):
        refused(saved(tmp_path / "a", drawn(QKV), **{field: value}), f"field {field}: expected a")

    @pytest.mark.parametrize("kind", METHODS)
    def test_other_methods(self, kind, tmp_path):
        folder = saved(tmp_path / "a", drawn(QKV), peft_type=kind)
        refused(folder, f"not a LoRA adapter: .*found '{kind}'.*{METHODS[kind]}")

    def test_a_bias_of_b_and_the_configuration(self, tmp_path):
        bias = {f"{QKV}.lora_B.bias": np.ones(96, np.float32)}
        refused(saved(tmp_path / "a", drawn(QKV) | bias), "biases of B do not fit")
        refused(saved(tmp_path / "b", drawn(QKV), lora_bias=True), "biases of B do not fit")

    def test_a_bias_of_b_has_no_place_in_a_run(self, tmp_path):
        bias = {f"{QKV}.lora_B.bias": np.ones(96, np.float32)}
        adaptation = adapter_files.read(
            saved(tmp_path / "a", drawn(QKV) | bias, lora_bias=True), CONFIG, "peft"
        )
        for name, where in (("softbio", "b.safetensors"), ("peft", "c")):
            with pytest.raises(UserError, match=r"biases of B have no place.*--base"):
                adapter_files.write(tmp_path / where, adaptation, CONFIG, name)
            assert not (tmp_path / where).exists()

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.bool_])
    def test_tensors_of_integers(self, dtype, tmp_path):
        arrays = {key: array.astype(dtype) for key, array in drawn(QKV).items()}
        refused(saved(tmp_path / "a", arrays), "no floating-point number")

    def test_parts_of_different_sizes(self, tmp_path):
        rng = np.random.default_rng(0)
        sizes = {"q_proj": (32, 32), "v_proj": (32, 16)}
        arrays = {}
        for name, (out, inputs) in sizes.items():
            arrays[f"blocks.0.attn.{name}.lora_A.weight"] = rng.normal(size=(4, inputs)).astype(np.float32)
            arrays[f"blocks.0.attn.{name}.lora_B.weight"] = rng.normal(size=(out, 4)).astype(np.float32)
        refused(saved(tmp_path / "a", arrays), "q, k and v of different sizes")

    def test_nothing_to_read(self, tmp_path):
        refused(saved(tmp_path / "a", {"x": np.ones(1, np.float32)}), "not a tensor of a LoRA adapter")
        arrays = {"token_embedding.lora_embedding_A": np.ones((4, 9), np.float32)}
        refused(saved(tmp_path / "b", arrays), "adapter of an embedding: .*merge_and_unload")


@pytest.mark.parametrize(
    ("given", "beside", "known"),
    [
        ("one", (), True),
        ("one/adapter_config.json", (), True),
        ("one/adapter_model.safetensors", (), True),
        (".", (), True),  # a folder around one
        (".", ("model.safetensors",), False),  # an encoder with an adapter beside it
        ("one/adapter_model.bin", ("one/adapter_model.bin",), False),  # PEFT reads the other file
        ("none", (), False),
    ],
)
def test_an_adapter_is_known_by_its_files(tmp_path, given, beside, known):
    saved(tmp_path / "one", drawn(QKV))
    for name in beside:
        (tmp_path / name).touch()
    assert folders.is_adapter(tmp_path / given) is known
