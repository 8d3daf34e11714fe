"""Each stage of the search for copies by itself."""

import numpy as np
import pytest

from softbio_jax.data.audit import alignment, descriptors, details, search, thumbnails
from tests.data.audit.planting import copy, grey, scene


@pytest.fixture(scope="module")
def images():
    return grey([scene(seed) for seed in range(80)])


def _align(first, second, mirrored=False):
    images = np.stack([*first, *second]).astype(np.uint8)
    numbers = np.arange(len(first))
    flags = np.full(len(first), mirrored)
    return alignment.align(details.Details(images), numbers, len(first) + numbers, flags)


def test_the_edges_of_a_mirrored_image_are_the_mirrored_edges(images):
    straight = descriptors.edges(images[:4, :, ::-1])
    np.testing.assert_allclose(descriptors.mirrored(descriptors.edges(images[:4])), straight, atol=1e-5)


def test_brightness_hardly_changes_the_edges(images):
    dark = (images[:4] * 0.6).astype(np.uint8)
    change = np.abs(descriptors.edges(dark) - descriptors.edges(images[:4])).mean()
    assert change < 0.1 * np.abs(descriptors.edges(images[4:8]) - descriptors.edges(images[:4])).mean()


def test_copies_score_above_the_lowest_score_and_others_below(images):
    projection = descriptors.fit(images)
    rng = np.random.default_rng(0)
    copies = grey([copy(scene(seed), "two_kinds", rng) for seed in range(20)])
    left, right = projection(descriptors.edges(images))[0], projection(descriptors.edges(copies))[1]
    scores = left @ right.T
    own = scores[np.arange(20), np.arange(20)].copy()
    scores[np.arange(20), np.arange(20)] = -np.inf
    assert (own > scores.max(axis=0)).mean() >= 0.8
    assert np.mean(scores > projection.lowest) < 0.05


def test_small_blocks_find_the_same_candidates(images, monkeypatch):
    rng = np.random.default_rng(0)
    copies = grey([copy(scene(0), "recompressed", rng) for _ in range(40)])
    together = np.concatenate([images[:40], copies])
    once = search.candidates(together)
    monkeypatch.setattr(search, "_ROWS", 7)
    monkeypatch.setattr(search, "_COLUMNS", 13)
    monkeypatch.setattr(search, "_CROWDED", 0)
    again = search.candidates(together)
    pairs = [set(zip(*map(np.ndarray.tolist, found), strict=True)) for found in (once, again)]
    # Products of other shapes round differently, which decides among the equal copies.
    assert len(pairs[0] ^ pairs[1]) <= 0.02 * len(pairs[0])
    assert (once.first < once.second).all()
    assert np.bincount(once.first).max() == search.MOST


def test_few_images_are_all_compared():
    found = search.candidates(np.zeros((5, 64, 64), np.uint8))
    assert len(found.first) == 2 * 10


def test_the_alignment_finds_a_shift_and_rejects_another_scene(images):
    shifted = grey([scene(0)[8:, 8:]])[0]
    found = _align([images[0]] * 3, [images[0], shifted, images[1]])
    assert found.similarity[0] > 0.99
    assert found.similarity[1] > 0.9
    assert found.similarity[2] < 0.5
    assert found.overlap[:2] == pytest.approx([1, (120 / 128) ** 2], abs=0.03)


def test_equal_blurs_with_other_details_are_not_alike():
    # The same large shapes, other small ones: what two faces in one pose have in common.
    import cv2

    rng = np.random.default_rng(0)
    blurred = cv2.GaussianBlur(grey([scene(0)])[0], (0, 0), 4).astype(float)
    first, second = (np.clip(blurred + rng.normal(0, 12, (64, 64)), 0, 255) for _ in range(2))
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.85
    assert _align([first], [second]).similarity[0] < 0.7


def test_borders_of_one_colour_are_cut(images):
    framed = images[:3].copy()
    framed[0, :5] = framed[0, -3:] = 255
    framed[1, :, :6] = 0
    numbers, inner = thumbnails.without_borders(framed, np.array([0, 1, 2]))
    assert numbers.tolist() == [0, 1]
    assert inner.shape == (2, 64, 64)
    assert (np.ptp(inner[:, [0, -1]], axis=2) > 12).all()
    assert not len(thumbnails.without_borders(np.full((1, 64, 64), 9, np.uint8), np.array([0]))[0])


def test_the_size_is_that_of_the_file():
    from softbio_jax.data.prepare import storage

    small, size = thumbnails.thumbnail(storage.encode(scene(0, size=500)[:300], "jpeg", quality=90))
    assert (small.shape, tuple(size)) == ((64, 64), (300, 500))
