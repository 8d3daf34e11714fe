"""The details of images, the maps between them, and the alignment of many pairs together."""

import cv2
import numpy as np
import pytest

from softbio_jax.data.audit import alignment, maps
from softbio_jax.data.audit import details as details_lib
from softbio_jax.data.audit.details import COARSE, FINE, Details
from tests.data.audit.planting import KINDS, copy, grey, scene


@pytest.fixture(scope="module")
def scenes():
    return grey([scene(seed) for seed in range(9)])


@pytest.fixture(scope="module")
def pairs():
    """Nine scenes, a copy of each kind, and the pairs of copies and of different scenes."""
    rng = np.random.default_rng(0)
    drawn = [scene(seed) for seed in range(9)]
    images = grey(drawn + [copy(one, kind, rng) for one, kind in zip(drawn, KINDS, strict=True)])
    first = np.tile(np.arange(9), 2)
    second = 9 + np.concatenate([np.arange(9), np.roll(np.arange(9), 1)])
    mirrored = np.tile(np.arange(9) == list(KINDS).index("mirrored"), 2)
    return images, first, second, mirrored


def _maps(*entries):
    return np.stack([np.reshape(one, (2, 3)) for one in entries]).astype(float)


@pytest.mark.parametrize("deviation", [COARSE, FINE])
@pytest.mark.parametrize("side", details_lib.SIDES)
def test_details_are_divided_by_the_local_contrast(scenes, side, deviation):
    images = np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_AREA) for one in scenes])
    for image, found in zip(images, details_lib.of(images, deviation), strict=True):
        root = np.sqrt(image.astype(np.float32))
        rest = root - cv2.GaussianBlur(root, (0, 0), deviation)
        expected = rest / np.sqrt(cv2.GaussianBlur(rest**2, (0, 0), deviation) + 0.02)
        np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize(("side", "deviation"), [(16, COARSE), (32, COARSE), (64, COARSE), (64, FINE)])
def test_details_are_those_of_the_images_asked_for(scenes, side, deviation):
    numbers = np.array([7, 2, 2, 0, 7])
    images = np.stack([cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA) for x in scenes[numbers]])
    found = Details(scenes)(numbers, side, deviation)
    # Half a step of what is stored, and grey values that round the other way.
    assert np.abs(found - details_lib.of(images, deviation)).max() < 0.1
    assert np.abs(found - details_lib.of(images, deviation)).mean() < 0.02


def test_images_are_sampled_each_by_its_own_map():
    images = np.random.default_rng(0).random((3, 16, 16), np.float32)
    right = [1, 0, 1 / 16, 0, 1, 0]
    down = [1, 0, 0, 0, 1, 3 / 16]
    found = maps.sample(images, _maps(right, down, np.eye(2, 3)))
    np.testing.assert_allclose(found[0][:, :-1], images[0][:, 1:], atol=0.01)
    np.testing.assert_allclose(found[1][:-3], images[1][3:], atol=0.01)
    np.testing.assert_allclose(found[1][-3:], images[1][-1:].repeat(3, axis=0), atol=0.01)  # not the next
    np.testing.assert_allclose(found[2], images[2], atol=0.01)


def test_what_both_images_show():
    half, double = [0.5, 0, 0, 0, 0.5, 0], [2, 0, 0, 0, 2, 0]
    shifted = [1, 0, 0.25, 0, 1, 0]
    given = _maps(np.eye(2, 3), half, double, shifted)
    assert maps.inside(given, 64).mean(axis=(1, 2)).tolist() == [1, 1, 0.25, 0.75]
    np.testing.assert_allclose(maps.overlap(given, 64), [1, 0.25, 0.25, 0.75], atol=1e-6)
    turned = cv2.getRotationMatrix2D((0, 0), -7, 1)
    np.testing.assert_allclose(maps.rotation(turned[None]), [7], atol=1e-6)


def test_a_step_is_undone():
    rng = np.random.default_rng(0)
    given = maps.identity(4) + rng.normal(0, 0.1, (4, 2, 3))
    steps = rng.normal(0, 0.05, (4, 2, 3))
    last = np.array([0, 0, 1])
    for found, start, step in zip(maps.after_inverse(given, steps, largest=1), given, steps, strict=True):
        square = np.vstack([np.eye(2, 3) + step, last])
        np.testing.assert_allclose(np.vstack([found, last]) @ square, np.vstack([start, last]), atol=1e-9)
    bounded = maps.after_inverse(given, steps, largest=0.01)
    assert np.abs(bounded - maps.identity(4)).max() == pytest.approx(0.01)


def test_an_image_that_lies_right_stays_and_what_only_one_shows_moves_nothing(scenes):
    fixed = details_lib.of(scenes[:1], COARSE)
    shifted = _maps([1, 0, 0.25, 0, 1, 0])
    system = alignment._System(fixed, shifted)
    np.testing.assert_allclose(system.step(fixed), 0, atol=1e-5)
    np.testing.assert_allclose(system.step(3 * fixed + 1), 0, atol=1e-4)  # nor does brightness
    other = fixed.copy()
    other[:, :, 48:] = details_lib.of(scenes[1:2], COARSE)[:, :, 48:]
    np.testing.assert_allclose(system.step(other), 0, atol=1e-5)


def test_pairs_do_not_depend_on_the_others_of_their_batch(pairs):
    images, *columns = pairs
    details = Details(images)
    together = alignment.align(details, *columns)
    for n in range(len(columns[0])):
        alone = alignment.align(details, *(column[n : n + 1] for column in columns))
        np.testing.assert_allclose([part[n] for part in together], np.ravel(alone), atol=1e-3)


def test_what_is_clear_at_32_pixels_is_much_the_same_at_64(pairs, monkeypatch):
    images, *columns = pairs
    details = Details(images)
    early = alignment.align(details, *columns)
    refined, refine = [], alignment._refine
    monkeypatch.setattr(alignment, "_refine", lambda f, *a: refined.append(f.shape[:2]) or refine(f, *a))
    assert np.array_equal(alignment.align(details, *columns).similarity, early.similarity)
    at_64 = sum(count for count, side in refined if side == 64)
    assert 0 < at_64 < 9  # the copies that are not clear
    monkeypatch.setattr(alignment, "_CLEAR", np.inf)
    late = alignment.align(details, *columns)
    copies = late.similarity[:9]
    assert copies.min() >= 0.8
    assert late.similarity[9:].max() < 0.6
    np.testing.assert_allclose(early.similarity, late.similarity, atol=0.03)
    np.testing.assert_allclose(early.overlap, late.overlap, atol=0.02)
    np.testing.assert_allclose(early.rotation, late.rotation, atol=0.3)
