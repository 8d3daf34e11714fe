"""Pretrained towers from any format into the model's own tree."""

import jax
import numpy as np
import pytest

from softbio_jax.checkpoints.pretrained import load_pretrained, save_pretrained
from softbio_jax.errors import UserError
from softbio_jax.interop import formats
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.models.config import VISION
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import flatten

CONFIG = VISION["tiny-test"]
IMAGE = np.linspace(-1, 1, 32 * 32 * 3, dtype=np.float32).reshape(1, 32, 32, 3)


@pytest.fixture(params=formats.FORMATS)
def checkpoint(request, tmp_path):
    format_ = formats.FORMATS[request.param]
    state = named_state(formats.official_shapes("tiny-test", text=request.param != "timm"))
    path = tmp_path / f"{request.param}.safetensors"
    save_arrays(path, format_.closed(format_.from_official(state)), metadata={})
    return path


def test_the_tree_fits_the_model_and_gives_one_answer_for_every_tail(checkpoint):
    outputs = []
    for tail in (0, 1, 3):
        params = load_pretrained(checkpoint, config=CONFIG, tail=tail)
        tower = VisionEncoder(CONFIG, tail=tail)
        expected = jax.eval_shape(tower.init, jax.random.key(0), IMAGE)["params"]
        shapes = {path: leaf.shape for path, leaf in flatten(expected).items()}
        assert {path: leaf.shape for path, leaf in flatten(params).items()} == shapes
        outputs.append(np.asarray(tower.apply({"params": params}, IMAGE)))
    assert np.abs(outputs[0]).max() > 0.1
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-6)
    np.testing.assert_allclose(outputs[2], outputs[0], atol=1e-6)


def test_half_precision_becomes_float32(tmp_path):
    state = named_state(formats.official_shapes("tiny-test", text=False))
    halves = {key: array.astype(np.float16) for key, array in state.items()}
    save_arrays(tmp_path / "a.safetensors", halves, metadata={})
    params = flatten(load_pretrained(tmp_path / "a.safetensors", config=CONFIG))
    assert {leaf.dtype for leaf in params.values()} == {np.dtype(np.float32)}
    assert np.array_equal(params["proj"], halves["visual.proj"].astype(np.float32))


def test_what_is_saved_with_one_tail_loads_with_another(checkpoint, tmp_path):
    params = load_pretrained(checkpoint, config=CONFIG, tail=2)
    save_pretrained(tmp_path / "ours.safetensors", params, variant=CONFIG.name, source="a test")
    _, metadata = load_arrays(tmp_path / "ours.safetensors")
    assert metadata == {"format": "softbio", "variant": "tiny-test", "source": "a test"}
    again = flatten(load_pretrained(tmp_path / "ours.safetensors", config=CONFIG, tail=1))
    expected = flatten(load_pretrained(checkpoint, config=CONFIG, tail=1))
    assert list(again) == list(expected)
    assert all(np.array_equal(again[path], leaf) for path, leaf in expected.items())


def test_another_variant_is_refused_by_name(checkpoint):
    with pytest.raises(UserError, match="checkpoint of tiny-test given for tiny-demo"):
        load_pretrained(checkpoint, config=VISION["tiny-demo"])
