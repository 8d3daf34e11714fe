import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.models.config import TEXT, VISION
from softbio_jax.models.text import CLIP, TextEncoder, normalise, similarity_logits
from softbio_jax.models.vision import VisionEncoder

VARIANT = "tiny-test"
MODEL = CLIP(VISION[VARIANT], text_config=TEXT[VARIANT])
IMAGES = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3), minval=-1)
IDS = jnp.array([[49406, 5, 6, 49407, 0], [49406, 7, 49407, 0, 0], [49406, 8, 9, 9, 49407]])


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODEL.init)(jax.random.key(0), IMAGES, IDS)["params"]


def test_the_vision_side_is_at_the_root_with_the_towers_own_names(params):
    tower = jax.eval_shape(VisionEncoder(VISION[VARIANT]).init, jax.random.key(0), IMAGES)["params"]
    assert set(params) == {*tower, "text", "logit_scale"}
    rest = {name: params[name] for name in tower}
    assert jax.tree.map(jnp.shape, rest) == jax.tree.map(jnp.shape, tower)


@pytest.mark.long
def test_the_towers_alone_give_the_same_embeddings(params):
    image = MODEL.apply({"params": params}, IMAGES, method="encode_image")
    text = MODEL.apply({"params": params}, IDS, method="encode_text")
    tower, text_tower = VisionEncoder(VISION[VARIANT]), TextEncoder(TEXT[VARIANT])
    np.testing.assert_array_equal(image, tower.apply({"params": params}, IMAGES))
    np.testing.assert_array_equal(text, text_tower.apply({"params": params["text"]}, IDS))


def test_logits(params):
    image = np.asarray(MODEL.apply({"params": params}, IMAGES, method="encode_image"), np.float64)
    text = np.asarray(MODEL.apply({"params": params}, IDS, method="encode_text"), np.float64)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    logits = MODEL.apply({"params": params}, IMAGES, IDS)
    assert logits.shape == (2, 3)
    np.testing.assert_allclose(logits, image @ text.T / 0.07, atol=1e-4)


def test_the_initial_scale_is_the_references(params):
    np.testing.assert_allclose(jnp.exp(params["logit_scale"]), 1 / 0.07, rtol=1e-6)


def test_bfloat16_features_are_compared_in_float32():
    features = jax.random.normal(jax.random.key(2), (4, 64), jnp.bfloat16)
    logits = similarity_logits(features, features, np.log(100.0))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(jnp.diag(logits), 100.0, rtol=1e-5)


def test_normalise_as_torch_does_near_zero():
    np.testing.assert_array_equal(normalise(jnp.zeros((1, 3))), np.zeros((1, 3)))
    np.testing.assert_allclose(normalise(jnp.array([[0.0, 1e-13]])), [[0.0, 0.1]], rtol=1e-5)
