"""Other resolutions and intermediate features against timm, live."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from softbio_jax.interop import stacking
from softbio_jax.interop.official import OFFICIAL
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import unflatten

PATH = pathlib.Path(__file__).parent / "resolution_reference.py"
SPEC = importlib.util.spec_from_file_location("resolution_reference", PATH)
REFERENCE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(REFERENCE)


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("size", REFERENCE.SIZES)
def test_blocks_and_embedding(class_token, size):
    tower = REFERENCE.config(class_token)
    blocks, embedding = REFERENCE.timm_tokens_and_embedding(tower, size)
    params = unflatten(stacking.stack(OFFICIAL.forward(REFERENCE.weights(tower))))
    model, images = VisionEncoder(tower), REFERENCE.images(size)
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(lambda p: model.apply({"params": p}, images))(params)
        layers = jax.jit(lambda p: model.apply({"params": p}, images, (0, -1), method="intermediates"))(
            params
        )
    for found, want in zip(layers[:, :, int(class_token) :], (blocks[0], blocks[-1]), strict=True):
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max())
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (ours, embedding))
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-6)
