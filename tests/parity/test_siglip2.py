"""SigLIP 2 live: the vision encoder against timm, both encoders and the logits against transformers.

Where BIG_VISION names a checkout of google-research/big_vision, also against the original code.
"""

import dataclasses
import functools
import importlib
import os
import sys
import types

import jax
import numpy as np
import peft as peft_lib
import pytest
import torch
import transformers

from softbio_jax.errors import UserError
from softbio_jax.evaluation.zero_shot import gemma
from softbio_jax.interop import formats, ladder, peft, stacking
from softbio_jax.interop.goldens import named_state, named_uniform
from softbio_jax.interop.official import OFFICIAL, vision_shapes
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import TEXT, TIMM_NAMES, VISION
from softbio_jax.models.text import CLIP
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import flatten, unflatten
from tests.evaluation.fixtures import gemma_file
from tests.parity.test_clip import both_rungs
from tests.parity.test_dinov2 import pixels, wrong
from tests.parity.test_live_ladder import torch_reference

TINY, TINY_TEXT = VISION["tiny-siglip2"], TEXT["tiny-siglip2"]
VARIANTS = [name for name in VISION if VISION[name].family == "siglip2"]
# Texts of three lengths, the end (1) and padding (0) after them, as the tokenizer makes them.
IDS = np.zeros((3, TINY_TEXT.context), np.int32)
for row, length in zip(IDS, (3, 7, TINY_TEXT.context - 1), strict=True):
    row[: length + 1] = [*(11 * np.arange(2, length + 2) % TINY_TEXT.vocab), 1]


@pytest.mark.parametrize(
    ("variant", "layers", "size"),
    [
        ("siglip2-b16-224", 12, (224, 224)),
        ("siglip2-b32-256", 1, (128, 192)),
        ("siglip2-l16-256", 1, (128, 96)),
        ("siglip2-so400m14-224", 2, (84, 112)),
        ("siglip2-so400m14-378", 1, (378, 378)),
        ("siglip2-so400m16-256", 1, (128, 96)),
        ("siglip2-g16-256", 1, (128, 96)),
        ("tiny-siglip2", 3, (40, 24)),
    ],
)
def test_every_stage_of_timm(variant, layers, size):
    config = dataclasses.replace(VISION[variant], layers=layers)
    assert wrong(config, size, torch_reference.timm_rungs) == []


def test_timms_own_definition_has_another_gelu():
    """In B/16 and some others; the published weights were trained with the tanh formula."""
    config = VISION["siglip2-b16-224"]
    state, images = named_state(vision_shapes(config)), named_uniform("live", (1, 224, 224, 3))
    ours = ladder.vision_rungs(config, state, images)["pooled"]
    exact = dataclasses.replace(config, activation="gelu", pool_activation="gelu")
    theirs = torch_reference.timm_rungs(exact, state, images)["pooled"]
    print("largest difference", np.abs(ours - theirs).max())
    assert 1e-4 < np.abs(ours - theirs).max() < 2e-3
    np.testing.assert_allclose(ladder.vision_rungs(exact, state, images)["pooled"], theirs, atol=2e-5)


@pytest.mark.parametrize("name", [name for name in TIMM_NAMES if "siglip" in name])
def test_timm_has_exactly_our_keys(name):
    import timm

    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    theirs = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    config = VISION[TIMM_NAMES[name]]
    state = formats.hollow(formats.official_shapes(config.name, text=False))
    assert formats.shapes_of(formats.of(config, "timm").from_official(state)) == theirs


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_has_exactly_our_keys(variant):
    vision, text = VISION[variant], TEXT[variant]
    with torch.device("meta"):
        model = transformers.SiglipModel(settings(vision, text))
    theirs = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = formats.hollow(formats.official_shapes(variant, text=True))
    assert formats.shapes_of(formats.of(vision, "transformers").from_official(state)) == theirs


def settings(vision, text):
    # Their own activation and epsilon, which are the published models'.
    return transformers.SiglipConfig(
        vision_config={
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
        },
        text_config={
            "hidden_size": text.width,
            "intermediate_size": text.mlp_width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.context,
            "vocab_size": text.vocab,
            "projection_size": text.out_dim,
        },
    )


def model_of(folder, state, vision=TINY, text=TINY_TEXT):
    settings(vision, text).save_pretrained(folder)
    arrays = formats.of(vision, "transformers").from_official(state)
    save_arrays(folder / "model.safetensors", arrays, metadata={"format": "pt"})
    model, loaded = transformers.SiglipModel.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def answers(model, vision, images, ids, dtype="float32"):
    with torch.inference_mode():
        return model(
            input_ids=torch.from_numpy(ids.astype(np.int64)), pixel_values=pixels(vision, images, dtype)
        )


def transformers_rungs(folder, state, images, ids, vision, text, *, dtype):
    model = model_of(folder, state, vision, text).to(getattr(torch, dtype))
    found = answers(model, vision, images, ids, dtype)
    return {
        "tokens": found.vision_model_output.last_hidden_state.numpy(),
        "pooled": found.vision_model_output.pooler_output.numpy(),
        "embedding_normalised": found.image_embeds.numpy(),
        "text": found.text_model_output.pooler_output.numpy(),
        "text_normalised": found.text_embeds.numpy(),
        "logits": found.logits_per_image.numpy(),
    }


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("tiny-siglip2", {}),
        ("siglip2-so400m14-224", {"layers": 1, "image_size": 84}),
        ("siglip2-b16-224", {"layers": 12}),
    ],
)
def test_both_encoders_and_the_logits_of_transformers(tmp_path, variant, changes):
    vision = dataclasses.replace(VISION[variant], **changes)
    vocab = {"vocab": TINY_TEXT.vocab} | ({"layers": changes["layers"]} if changes else {})
    text = dataclasses.replace(TEXT[variant], **vocab)
    ids = np.zeros((3, text.context), np.int32)
    ids[:, : IDS.shape[1]] = IDS
    state = named_state(vision_shapes(vision) | formats.official.text_shapes(text))
    images = named_uniform("live", (2, vision.image_size, vision.image_size, 3))
    run = functools.partial(transformers_rungs, tmp_path, state, images, ids, vision, text)
    theirs, exact = (run(dtype=dtype) for dtype in ("float32", "float64"))
    ours = both_rungs(vision, text, state, images, ids)
    for rungs in (ours, theirs, exact):
        rungs["logits"] = rungs["logits"] - state["logit_bias"].astype(rungs["logits"].dtype)
    noise = ladder.rounding(theirs, exact)
    compared = list(ladder.compare({name: ours[name] for name in theirs}, theirs, noise=noise))
    print(variant, *(f"{rung.name} {rung.difference:.1e} of {rung.noise:.1e};" for rung in compared))
    assert [rung for rung in compared if not rung.holds] == []
    assert np.ptp(theirs["logits"]) > 0.5, "a match of logits that are all alike would mean nothing"
    params = unflatten(stacking.stack(OFFICIAL.forward(state)))
    with jax.default_matmul_precision("highest"):
        logits = CLIP(vision, text_config=text).apply({"params": params}, images, ids)
    np.testing.assert_allclose(logits - state["logit_bias"], theirs["logits"], atol=1e-3)


def test_texts_have_the_ids_of_transformers_tokenizer(tmp_path):
    vocabulary = gemma_file(tmp_path)
    theirs = transformers.Siglip2Tokenizer(vocab=vocabulary, merges=[("a", "t"), ("\u2581", "at")])
    theirs.backend_tokenizer.save(str(tmp_path / "theirs.json"))
    texts = ["At  at a", "\u00e9 b at", "", "at" * 20]
    ids = [theirs(text, add_special_tokens=False)["input_ids"] for text in texts]
    wanted = [[*row[:15], theirs.eos_token_id, *[theirs.pad_token_id] * (15 - len(row))] for row in ids]
    for file in ("theirs.json", "tokenizer.json"):
        found = gemma.tokenize(texts, context=16, vocab=320, file=tmp_path / file)
        assert found.tolist() == wanted


def test_a_file_of_transformers_is_read_bit_for_bit(tmp_path):
    state = named_state(formats.official_shapes("tiny-siglip2", text=True))
    model_of(tmp_path, state).save_pretrained(tmp_path / "again")
    read = formats.read(tmp_path / "again" / "model.safetensors", config=TINY)
    assert read.keys() == state.keys()
    assert all(np.array_equal(read[key], state[key]) for key in state)


NAMES = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


@pytest.mark.parametrize(
    ("targets", "written"),
    [
        (NAMES, True),
        # torch's attention in the pooling, of which PEFT adds the output's update twice.
        ([r"vision_model.head.attention", r"vision_model.head.mlp.fc1", "q_proj"], False),
    ],
    ids=["linear", "attention"],
)
def test_adapters_of_both_encoders_on_transformers_modules(tmp_path, targets, written):
    state = named_state(formats.official_shapes("tiny-siglip2", text=True))
    lora = peft_lib.LoraConfig(r=2, lora_alpha=3, target_modules=targets)
    adapted = peft_lib.get_peft_model(model_of(tmp_path, state), lora)
    rng = np.random.default_rng(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name and "attention.out_proj" not in name:  # which gets no gradient
            parameter.data = torch.from_numpy(0.2 * rng.standard_normal(parameter.shape).astype(np.float32))
    adapted.save_pretrained(tmp_path / "theirs")
    adapter = peft.read(tmp_path / "theirs", TINY)
    assert {path.split("/")[0] for path in adapter.layers} == {"encoder", "text", "pool"}
    images = named_uniform("live", (2, 32, 32, 3))
    found = answers(adapted.eval(), TINY, images, IDS)
    plain = answers(model_of(tmp_path, state), TINY, images, IDS)
    assert (found.logits_per_image - plain.logits_per_image).abs().max() > 0.5
    params = peft.attach(unflatten(stacking.stack(OFFICIAL.forward(state))), adapter)
    model = CLIP(TINY, text_config=TINY_TEXT, adapters=adapter.rules(TINY))
    image = model.apply({"params": params}, images, method="encode_image")
    text = model.apply({"params": params}, IDS, method="encode_text")
    for ours, theirs in ((image, found.image_embeds), (text, found.text_embeds)):
        ours = np.asarray(ours) / np.linalg.norm(ours, axis=-1, keepdims=True)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
    if not written:
        with pytest.raises(UserError, match=r"no module of transformers for this adapter.*pool/attn"):
            peft.write(tmp_path / "ours", adapter, naming="transformers", config=TINY)
        return
    peft.write(tmp_path / "ours", adapter, naming="transformers", config=TINY)
    again = peft_lib.PeftModel.from_pretrained(model_of(tmp_path, state), tmp_path / "ours").eval()
    logits = answers(again, TINY, images, IDS).logits_per_image
    np.testing.assert_allclose(logits, found.logits_per_image, atol=1e-3)


def test_an_adapter_that_torchs_attention_bypasses_is_refused(tmp_path):
    state = named_state(formats.official_shapes("tiny-siglip2", text=True))
    lora = peft_lib.LoraConfig(r=2, target_modules=NAMES)
    adapted = peft_lib.get_peft_model(model_of(tmp_path, state), lora)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    adapted.save_pretrained(tmp_path / "theirs")
    with pytest.raises(UserError, match=r"attention does not call.*vision_model\.head\.attention\.out_proj"):
        peft.read(tmp_path / "theirs", TINY)


def test_adapters_on_timms_modules(tmp_path):
    state = named_state(vision_shapes(TINY))
    model = torch_reference.timm_vit(TINY)
    arrays = formats.of(TINY, "timm").from_official(state)
    model.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in arrays.items()})
    lora = peft_lib.LoraConfig(r=2, lora_alpha=3, target_modules=["qkv", "proj", "fc1", "fc2", "q", "kv"])
    lora.exclude_modules = ["patch_embed.proj"]
    adapted = peft_lib.get_peft_model(model, lora).eval()
    rng = np.random.default_rng(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.from_numpy(0.2 * rng.standard_normal(parameter.shape).astype(np.float32))
    adapted.save_pretrained(tmp_path / "theirs")
    adapter = peft.read(tmp_path / "theirs", TINY)
    assert len(adapter.layers) == 3 * 4 + 5
    images = named_uniform("live", (2, 32, 32, 3))
    with torch.inference_mode():
        theirs = adapted(pixels(TINY, images, "float32")).numpy()
    params = peft.attach(unflatten(stacking.stack(OFFICIAL.forward(state))), adapter)
    ours = VisionEncoder(TINY, adapters=adapter.rules(TINY)).apply({"params": params}, images)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.fixture
def big_vision(monkeypatch):
    """The code that trained it, which is no package, without its utilities: they import TensorFlow."""
    folder = os.environ.get("BIG_VISION")
    if not folder:
        pytest.skip("no original code: set BIG_VISION to a checkout of big_vision")
    monkeypatch.syspath_prepend(folder)
    package = importlib.import_module("big_vision")
    unused = types.ModuleType("big_vision.utils")
    monkeypatch.setitem(sys.modules, "big_vision.utils", unused)
    monkeypatch.setattr(package, "utils", unused, raising=False)
    return importlib.import_module("big_vision.models.proj.image_text.two_towers")


@pytest.mark.parametrize("stacked", [True, False])
def test_files_and_both_encoders_of_the_original(tmp_path, big_vision, monkeypatch, stacked):
    vision = VISION["siglip2-b16-224"]
    text = dataclasses.replace(TEXT[vision.name], vocab=TINY_TEXT.vocab)
    monkeypatch.setitem(TEXT, vision.name, text)
    model = big_vision.Model(
        image={"variant": "B/16", "pool_type": "map", "scan": stacked},
        text_model="proj.image_text.text_transformer",
        text={"variant": "B", "vocab_size": text.vocab, "scan": stacked},
        out_dim=(None, 768),
        bias_init=-10,
    )
    images, ids = named_uniform("live", (2, 224, 224, 3)), np.zeros((3, text.context), np.int32)
    ids[:, : IDS.shape[1]] = IDS
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, ids))["params"]
    rng = np.random.default_rng(0)
    theirs = {path: drawn(path, leaf.shape, rng) for path, leaf in flatten(shapes).items()}
    np.savez(tmp_path / "siglip2.npz", **{f"params/{path}": array for path, array in theirs.items()})
    with jax.default_matmul_precision("highest"):
        image, words, _ = jax.jit(model.apply)({"params": unflatten(theirs)}, images, ids)
    state = formats.read(tmp_path / "siglip2.npz", config=vision)
    ours = both_rungs(vision, text, state, images, ids)
    found, texts = ours["embedding_normalised"], ours["text_normalised"]
    print("largest differences", np.abs(found - image).max(), np.abs(texts - words).max())
    np.testing.assert_allclose(found, image, atol=1e-6)
    np.testing.assert_allclose(texts, words, atol=1e-6)
    assert min(np.ptp(image, axis=0).max(), np.ptp(words, axis=0).max()) > 1e-2, "nothing to compare"


def drawn(path, shape, rng):
    """Weights of about the size of trained ones: kernels that keep the size of what they map."""
    values, leaf = rng.standard_normal(shape).astype(np.float32), path.rpartition("/")[2]
    if path in ("t", "b"):
        return np.full(shape, {"t": 2.0, "b": -10.0}[path], np.float32)
    if leaf == "kernel":
        return values / np.float32(np.sqrt(np.prod(shape[1 if "encoderblock/" in path else 0 : -1])))
    return (leaf == "scale") + np.float32(0.1) * values
