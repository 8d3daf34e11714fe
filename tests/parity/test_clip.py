"""CLIP live: the vision encoder against timm, both encoders and the logits against transformers."""

import dataclasses
import functools
import io

import jax
import numpy as np
import peft as peft_lib
import pytest
import torch
import transformers
from PIL import Image
from torchvision import transforms

from softbio_jax.data import decode
from softbio_jax.evaluation.zero_shot import tokenizer
from softbio_jax.interop import formats, goldens, ladder, peft, stacking
from softbio_jax.interop.goldens import named_state, named_uniform
from softbio_jax.interop.official import OFFICIAL
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import TEXT, VISION
from softbio_jax.models.text import CLIP
from softbio_jax.params import unflatten
from tests.data.trees import encode
from tests.parity.test_dinov2 import pixels, wrong
from tests.parity.test_live_ladder import torch_reference

TINY, TINY_TEXT = VISION["tiny-clip"], TEXT["tiny-clip"]


@pytest.mark.parametrize(
    ("variant", "layers", "size"),
    [
        ("clip-b32", 12, (224, 224)),
        ("clip-b16", 1, (112, 144)),
        ("clip-b16-gelu", 1, (112, 144)),
        ("clip-l14", 1, (112, 84)),
        ("clip-l14-336", 1, (336, 336)),
        ("tiny-clip", 3, (40, 24)),
    ],
)
def test_every_stage_of_timm(variant, layers, size):
    config = dataclasses.replace(VISION[variant], layers=layers)
    assert wrong(config, size, torch_reference.timm_rungs) == []


@pytest.mark.parametrize("variant", [name for name in VISION if VISION[name].family == "clip"])
def test_transformers_has_exactly_our_keys(variant):
    vision, text = VISION[variant], TEXT[variant]
    with torch.device("meta"):
        model = transformers.CLIPModel(settings(vision, text))
    theirs = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = formats.hollow(formats.official_shapes(variant, text=True))
    ours = formats.shapes_of(formats.of(vision, "transformers").from_official(state))
    assert ours == theirs


def settings(vision, text):
    common = {"hidden_act": vision.activation, "initializer_factor": 1.0}
    return transformers.CLIPConfig(
        vision_config={
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            **common,
        },
        text_config={
            "hidden_size": text.width,
            "intermediate_size": text.mlp_width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.context,
            "vocab_size": text.vocab,
            "bos_token_id": tokenizer.START,
            "eos_token_id": tokenizer.END,
            **common,
        },
        projection_dim=vision.out_dim,
    )


def model_of(folder, state, vision=TINY, text=TINY_TEXT):
    settings(vision, text).save_pretrained(folder)
    arrays = formats.of(vision, "transformers").from_official(state)
    save_arrays(folder / "model.safetensors", arrays, metadata={"format": "pt"})
    model, loaded = transformers.CLIPModel.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def transformers_rungs(folder, state, images, ids, *, dtype):
    model = model_of(folder, state).to(getattr(torch, dtype))
    with torch.inference_mode():
        found = model(
            input_ids=torch.from_numpy(ids.astype(np.int64)), pixel_values=pixels(TINY, images, dtype)
        )
    return {
        "embedding_normalised": found.image_embeds.numpy(),
        "text_normalised": found.text_embeds.numpy(),
        "logits": found.logits_per_image.numpy(),
    }


def both_rungs(vision, text, state, images, ids):
    """Our stages of both encoders; without a projection the pooled feature is the embedding."""
    ours = ladder.vision_rungs(vision, state, images)
    embedding = ours.get("embedding", ours["pooled"])
    normalised = embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)
    return {"embedding_normalised": normalised} | ours | ladder.text_rungs(text, state, ids, embedding)


def test_both_encoders_and_the_logits_of_transformers(tmp_path):
    state = named_state(formats.official_shapes("tiny-clip", text=True))
    images, ids = named_uniform("live", (2, 32, 32, 3)), goldens.text_ids(TINY_TEXT.context)
    run = functools.partial(transformers_rungs, tmp_path, state, images, ids)
    theirs, exact = (run(dtype=dtype) for dtype in ("float32", "float64"))
    ours = both_rungs(TINY, TINY_TEXT, state, images, ids)
    compared = list(
        ladder.compare({n: ours[n] for n in theirs}, theirs, noise=ladder.rounding(theirs, exact))
    )
    assert [rung for rung in compared if not rung.holds] == []
    params = unflatten(stacking.stack(OFFICIAL.forward(state)))
    with jax.default_matmul_precision("highest"):
        logits = CLIP(TINY, text_config=TINY_TEXT).apply({"params": params}, images, ids)
    np.testing.assert_allclose(logits, theirs["logits"], atol=1e-3)


@pytest.mark.parametrize("size", [(70, 50), (51, 300), (32, 32), (33, 95)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_preprocessing_is_openais(size, mode):
    data = encode(3, size=size, mode=mode, kind="PNG")
    steps = [transforms.Resize(32, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(32)]
    reference = transforms.Compose([*steps, lambda image: image.convert("RGB")])
    assert VISION["clip-b32"].resize == "center"
    found = decode.decode(data, size=32, resize="center")
    np.testing.assert_array_equal(found, np.asarray(reference(Image.open(io.BytesIO(data)))))


def test_a_file_of_transformers_is_read_bit_for_bit(tmp_path):
    state = named_state(formats.official_shapes("tiny-clip", text=True))
    model_of(tmp_path, state).save_pretrained(tmp_path / "again")
    read = formats.read(tmp_path / "again" / "model.safetensors", config=TINY)
    assert read.keys() == state.keys()
    assert all(np.array_equal(read[key], state[key]) for key in state)


def test_adapters_of_both_encoders_on_transformers_modules(tmp_path):
    state = named_state(formats.official_shapes("tiny-clip", text=True))
    lora = peft_lib.LoraConfig(
        r=2, lora_alpha=3, target_modules=["q_proj", "v_proj", "k_proj", "out_proj", "fc1", "fc2"]
    )
    adapted = peft_lib.get_peft_model(model_of(tmp_path, state), lora)
    rng = np.random.default_rng(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.from_numpy(0.2 * rng.standard_normal(parameter.shape).astype(np.float32))
    adapted.save_pretrained(tmp_path / "theirs")
    adapter = peft.read(tmp_path / "theirs", TINY)
    assert {path.split("/")[0] for path in adapter.layers} == {"encoder", "text"}
    images, ids = named_uniform("live", (2, 32, 32, 3)), goldens.text_ids(TINY_TEXT.context)
    with torch.inference_mode():
        found = adapted.eval()(
            input_ids=torch.from_numpy(ids.astype(np.int64)), pixel_values=pixels(TINY, images, "float32")
        )
    params = peft.attach(unflatten(stacking.stack(OFFICIAL.forward(state))), adapter)
    rules = adapter.rules(TINY)
    model = CLIP(TINY, text_config=TINY_TEXT, adapters=rules)
    image = model.apply({"params": params}, images, method="encode_image")
    text = model.apply({"params": params}, ids, method="encode_text")
    for ours, theirs in ((image, found.image_embeds), (text, found.text_embeds)):
        ours = np.asarray(ours) / np.linalg.norm(ours, axis=-1, keepdims=True)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
    peft.write(tmp_path / "ours", adapter, naming="transformers", config=TINY)
    again = peft_lib.PeftModel.from_pretrained(model_of(tmp_path, state), tmp_path / "ours").eval()
    with torch.inference_mode():
        written = again(
            input_ids=torch.from_numpy(ids.astype(np.int64)), pixel_values=pixels(TINY, images, "float32")
        )
    np.testing.assert_allclose(written.logits_per_image, found.logits_per_image, atol=1e-3)
