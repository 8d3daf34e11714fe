"""open_clip live: keys, both encoders, logits, files, tokens and preprocessing of its own definitions."""

import dataclasses
import io
import json

import jax
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from softbio_jax.data import decode
from softbio_jax.errors import UserError
from softbio_jax.evaluation.zero_shot import tokenizer
from softbio_jax.evaluation.zero_shot.classifier import classifier_from_params
from softbio_jax.evaluation.zero_shot.prompts import load_prompts
from softbio_jax.interop import formats, goldens, ladder, stacking
from softbio_jax.interop.goldens import named_state, named_uniform
from softbio_jax.interop.official import OFFICIAL, text_shapes, vision_shapes
from softbio_jax.interop.reading import identity
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import TEXT, VISION
from softbio_jax.models.families import perception, siglip2
from softbio_jax.models.text import CLIP
from softbio_jax.params import unflatten
from tests.data.trees import encode
from tests.parity.test_clip import both_rungs
from tests.parity.test_dinov2 import pixels

# open_clip's definitions and our variants.
NAMES = {
    "ViT-B-32-quickgelu": "clip-b32",
    "ViT-B-16-quickgelu": "clip-b16",
    "ViT-L-14-quickgelu": "clip-l14",
    "ViT-L-14-336-quickgelu": "clip-l14-336",
    "ViT-B-32": "clip-b32-gelu",
    "ViT-B-16": "clip-b16-gelu",
    "ViT-L-14": "clip-l14-gelu",
}
NAMES |= {
    name.removeprefix("timm/"): ours
    for name, ours in (perception.OTHER_NAMES | siglip2.OTHER_NAMES).items()
    if name.startswith("timm/")
}


def layout(config):
    # CLIP's own modules have the official names; open_clip takes the encoders of the others from timm.
    return formats.of(config, "official" if config.family == "clip" else "open_clip")


def model_of(name, *, device="cpu", **changes):
    """open_clip's model, of fewer layers or words."""
    settings = open_clip.get_model_config(name)
    custom = settings.pop("custom_text", False)
    for part, values in changes.items():
        settings[part] |= values
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with torch.device(device):
        return kind(**settings).eval()


@pytest.mark.parametrize("name", NAMES)
def test_open_clip_has_exactly_our_keys(name):
    theirs = {key: tuple(value.shape) for key, value in model_of(name, device="meta").state_dict().items()}
    state = formats.hollow(formats.official_shapes(NAMES[name], text=True))
    assert formats.shapes_of(layout(VISION[NAMES[name]]).from_official(state)) == theirs


@pytest.mark.parametrize("name", NAMES)
def test_its_configuration_names_the_variant(tmp_path, name):
    values = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(values))
    assert identity.variant_of(str(tmp_path)) == NAMES[name]


@pytest.mark.parametrize(
    "name", ["ViT-B-16-SigLIP", "ViT-B-32-plus-256", "RN50", "MobileCLIP-S1", "EVA02-B-16"]
)
def test_configurations_of_other_models_name_none(tmp_path, name):
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": open_clip.get_model_config(name)})
    )
    with pytest.raises(UserError, match="variant is not known"):
        identity.variant_of(str(tmp_path))


def loaded(model, config, state):
    arrays = layout(config).from_official(state)
    model.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in arrays.items()})
    return model


def answers(model, config, images, ids, dtype):
    model = model.to(getattr(torch, dtype))
    with torch.inference_mode():
        image, text = model.encode_image(pixels(config, images, dtype)), torch.from_numpy(ids).long()
        logits, _ = model.get_logits(pixels(config, images, dtype), text)
        text = model.encode_text(text)
    return {
        "embedding_normalised": torch.nn.functional.normalize(image, dim=-1).numpy(),
        "text": text.numpy(),
        "text_normalised": torch.nn.functional.normalize(text, dim=-1).numpy(),
        "logits": logits.numpy(),
    }


# Fewer layers and words keep the time short; timm's encoders come with all of their layers.
SHORT = {"vision_cfg": {"layers": 2}, "text_cfg": {"layers": 2}}
CASES = [
    ("ViT-B-32-quickgelu", SHORT),
    ("ViT-B-32", SHORT),
    ("PE-Core-T-16-384", {"text_cfg": {"vocab_size": 1000}}),
    ("ViT-B-32-SigLIP2-256", {"text_cfg": {"vocab_size": 1000}}),
]


@pytest.mark.parametrize(("name", "changes"), CASES, ids=[name for name, _ in CASES])
def test_both_encoders_and_the_logits(name, changes):
    vision, text = VISION[NAMES[name]], TEXT[NAMES[name]]
    vision = dataclasses.replace(vision, **changes.get("vision_cfg", {}))
    words = {
        "vocab" if key == "vocab_size" else key: value for key, value in changes.get("text_cfg", {}).items()
    }
    text = dataclasses.replace(text, **words)
    ids = goldens.text_ids(text.context) % text.vocab
    if vision.family == "siglip2":
        ids[:, -1] = 1  # their feature is the last position's
    state = named_state(vision_shapes(vision) | text_shapes(text))
    images = named_uniform("live", (2, vision.image_size, vision.image_size, 3))
    model = loaded(model_of(name, **changes), vision, state)
    theirs, exact = (answers(model, vision, images, ids, dtype) for dtype in ("float32", "float64"))
    ours = both_rungs(vision, text, state, images, ids)
    compared = list(
        ladder.compare({rung: ours[rung] for rung in theirs}, theirs, noise=ladder.rounding(theirs, exact))
    )
    print(name, *(f"{rung.name} {rung.difference:.1e} of {rung.noise:.1e};" for rung in compared))
    assert [rung for rung in compared if not rung.holds] == []
    assert np.ptp(theirs["logits"]) > 0.05, "a match of logits that are all alike would mean nothing"
    params = unflatten(stacking.stack(OFFICIAL.forward(state)))
    with jax.default_matmul_precision("highest"):
        logits = CLIP(vision, text_config=text).apply({"params": params}, images, ids)
    np.testing.assert_allclose(logits, theirs["logits"], atol=1e-3)


@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "PE-Core-T-16-384", "ViT-B-32-SigLIP2-256"])
def test_files_both_ways_bit_for_bit(tmp_path, name):
    config = VISION[NAMES[name]]
    model = model_of(name)
    theirs = {key: value.numpy() for key, value in model.state_dict().items()}
    save_arrays(tmp_path / "open_clip_model.safetensors", theirs, metadata={"format": "pt"})
    settings = {"model_cfg": open_clip.get_model_config(name)}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    state = formats.read(tmp_path / "open_clip_model.safetensors", config=config)
    written = layout(config).from_official(state)
    assert written.keys() == theirs.keys()
    assert all(np.array_equal(written[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("context", [32, 77])
def test_stored_ids_are_those_of_its_tokenizer(context):
    texts = list(tokenizer.stored_ids())
    theirs = open_clip.SimpleTokenizer(context_length=context)(texts)
    np.testing.assert_array_equal(tokenizer.tokenize(texts, context=context), theirs.numpy())


def test_zero_shot_classifiers_average_prompts_alike():
    name, prompts = "PE-Core-T-16-384", load_prompts("fer2013")
    config = VISION[NAMES[name]]
    state = named_state(vision_shapes(config) | text_shapes(TEXT[config.name]))
    model = loaded(model_of(name), config, state)
    params = unflatten(stacking.stack(OFFICIAL.forward(state)))
    ours = classifier_from_params(params, variant=config.name, prompts=prompts)
    classes = prompts.tasks["emotion"]
    # Their templates are functions of the class; ours are its texts.
    templates = [lambda texts, i=i: texts[i] for i in range(len(classes[0]))]
    theirs = open_clip.build_zero_shot_classifier(
        model, open_clip.SimpleTokenizer(context_length=model.context_length), classes, templates
    )
    np.testing.assert_allclose(ours.text_features["emotion"], theirs.numpy().T, atol=1e-6)


# SigLIP 2's images it resizes bicubically, where training and transformers do so bilinearly.
@pytest.mark.parametrize(("name", "tag"), [("ViT-B-32-quickgelu", "openai"), ("PE-Core-T-16-384", "meta")])
@pytest.mark.parametrize("size", [(70, 50), (51, 300), (600, 420)])
def test_preprocessing(name, tag, size):
    config, theirs = VISION[NAMES[name]], open_clip.get_pretrained_cfg(name, tag)
    assert (theirs["mean"], theirs["std"]) == (config.mean, config.std)
    steps = open_clip.image_transform(
        config.image_size,
        is_train=False,
        resize_mode=theirs["resize_mode"],
        interpolation=theirs["interpolation"],
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    data = encode(3, size=size, mode="RGB", kind="PNG")
    pixels = (255 * steps(Image.open(io.BytesIO(data))).numpy()).round().astype(np.uint8)
    ours = decode.decode(data, size=config.image_size, resize=config.resize)
    np.testing.assert_array_equal(ours.transpose(2, 0, 1), pixels)
