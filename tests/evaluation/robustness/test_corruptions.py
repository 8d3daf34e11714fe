"""Corruptions against PIL, scipy and known values."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from softbio_jax.data.drawing import synthetic
from softbio_jax.evaluation.robustness import corruptions

SIDE = 56


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return np.stack(
        [synthetic.draw("synthetic_fairface", "test", i, size=SIDE, seed=1).image for i in range(3)]
    )


def corrupted(faces, name, strength, *, example=None):
    index = jnp.arange(len(faces)) if example is None else jnp.array(example)
    out = corruptions.corrupt(jnp.array(faces), index, jnp.int32(strength), jax.random.key(0), name=name)
    assert out.dtype == jnp.uint8 and out.shape == faces.shape
    return np.asarray(out)


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_every_strength_changes_more_than_the_last(faces, name):
    apart = [
        np.abs(corrupted(faces, name, s).astype(int) - faces).mean()
        for s in range(1, corruptions.STRENGTHS + 1)
    ]
    assert apart[0] > 0 and apart == sorted(apart)


@pytest.mark.parametrize("side", [56, 50])
@pytest.mark.parametrize("strength", [1, 3, 5])
def test_jpeg_is_that_of_libjpeg(side, strength):
    face = synthetic.draw("synthetic_fairface", "test", 5, size=side, seed=1).image
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "JPEG", quality=(25, 18, 15, 10, 7)[strength - 1])
    expected = np.asarray(Image.open(buffer).convert("RGB")).astype(int)
    found = corrupted(face[None], "JPEG", strength)[0]
    # Chroma is upsampled by another filter, and roundings at a quantiser's edge differ.
    assert np.abs(found - expected).mean() < 1
    assert np.abs(expected - face).mean() > 5


def test_blur_is_gaussian(faces):
    sigma = 6.0 * SIDE / 224  # strength 4
    expected = ndimage.gaussian_filter(faces[0].astype(float), (sigma, sigma, 0), truncate=8)
    inner = slice(12, -12)
    found = corrupted(faces, "blur", 4)[0]
    np.testing.assert_allclose(found[inner, inner], expected[inner, inner], atol=1)


def test_low_resolution_is_that_of_pil(faces):
    small = Image.fromarray(faces[0]).resize((SIDE // 4, SIDE // 4), Image.Resampling.BOX)
    expected = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(corrupted(faces, "low resolution", 3)[0] - expected).max() <= 2


def test_one_stop_halves_the_light():
    # sRGB of 0.5 linear is 0.7354; of 1 / 32, 0.1939.
    white = np.full((1, 8, 8, 3), 255, np.uint8)
    assert (corrupted(white, "low light", 1) == 188).all()
    assert (corrupted(white, "low light", 5) == 49).all()


def test_noise_has_its_deviation():
    grey = np.full((1, 64, 64, 3), 128, np.uint8)
    assert corrupted(grey, "noise", 1).std() == pytest.approx(255 * 0.08, rel=0.03)


def test_masks_cover_the_lower_face_and_sunglasses_both_eyes(faces):
    for strength in range(1, 6):
        masked = (corrupted(faces, "mask", strength) != faces).any(-1)
        assert masked[:, -1, SIDE // 2].all() and not masked[:, : SIDE * 2 // 5].any()
        glasses = (corrupted(faces, "sunglasses", strength) != faces).any(-1)
        lenses = glasses[:, int(0.46 * SIDE)]
        assert lenses[:, int(0.32 * SIDE)].all() and lenses[:, int(0.68 * SIDE)].all()


def test_rotations_go_to_either_side():
    line = np.zeros((20, 41, 41, 3), np.uint8)
    line[:, 20, 20:] = 255  # from the centre to the right
    ends = corrupted(line, "rotation", 5)[:, :, 32:, 0].astype(float)
    heights = (ends * np.arange(41)[:, None]).sum((1, 2)) / ends.sum((1, 2))
    assert {round(h - 20) > 0 for h in heights} == {True, False}
    assert np.abs(heights - 20) == pytest.approx(np.full(20, np.abs(heights[0] - 20)), abs=0.5)


@pytest.mark.parametrize("name", ["noise", "rotation"])
def test_an_example_is_the_same_in_any_batch(faces, name):
    together = corrupted(faces, name, 3)
    turned = corrupted(faces[::-1], name, 3, example=[2, 1, 0])
    np.testing.assert_array_equal(turned[::-1], together)
    again = corrupted(faces[:1], name, 3, example=[7])
    assert (again[0] != together[0]).any()
