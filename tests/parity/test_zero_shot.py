"""Zero-shot end to end against the official code, live and on real images.

The official code is no package: PERCEPTION_MODELS names a checkout of it (with ftfy and regex
installed beside torch); without it the goldens in tests/evaluation stand in.
"""

import importlib.util
import os
import pathlib

import jax
import numpy as np
import pytest

from softbio_jax.data.decode import decode
from softbio_jax.evaluation.zero_shot.classifier import classifier_from_params
from softbio_jax.evaluation.zero_shot.prompts import load_prompts
from softbio_jax.interop import stacking
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.official import OFFICIAL, text_shapes, vision_shapes
from softbio_jax.models.config import TEXT, VISION
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import unflatten

IMAGES = 8


@pytest.fixture
def checkout():
    folder = os.environ.get("PERCEPTION_MODELS")
    if not folder:
        pytest.skip("no official code: set PERCEPTION_MODELS to a checkout of perception_models")
    return folder


def _reference():
    path = pathlib.Path(__file__).parent / "zero_shot_reference.py"
    spec = importlib.util.spec_from_file_location("zero_shot_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_logits_on_real_images(checkout, real_data):
    reference, prompts = _reference(), load_prompts("thesis")
    files = sorted((real_data / "fairface" / "val").glob("*.jpg"))[:IMAGES]
    pictures = [file.read_bytes() for file in files]
    assert len(pictures) == IMAGES
    want = reference.official_logits(checkout, pictures, prompts)

    config = VISION[reference.VARIANT]
    state = named_state(vision_shapes(config) | text_shapes(TEXT[config.name]))
    params = unflatten(stacking.stack(OFFICIAL.forward(state)))
    pixels = [decode(data, size=config.image_size, resize="squash") for data in pictures]
    images = np.stack(pixels).astype(np.float32) / 127.5 - 1
    with jax.default_matmul_precision("highest"):
        features = VisionEncoder(config).apply({"params": params}, images)
    classifier = classifier_from_params(params, variant=config.name, prompts=prompts)
    logits = classifier.logits(features)

    assert list(logits) == list(want) == ["age", "gender", "emotion"]
    for task, values in logits.items():
        spread = np.ptp(want[task], axis=1).min()
        assert spread > 0.1, "a match of logits that are all alike would mean nothing"
        np.testing.assert_allclose(values, want[task], rtol=0, atol=1e-4, err_msg=task)
