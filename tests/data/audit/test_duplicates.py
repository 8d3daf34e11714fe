import numpy as np
import pytest

from softbio_jax.data.audit import alignment, duplicates
from softbio_jax.data.drawing import synthetic
from tests.data.audit.planting import KINDS, copy, digests, grey, photograph, scene
from tests.data.trees import encode

SCENES = 80  # more than every pair is compared of


@pytest.fixture(scope="module")
def scenes():
    return [scene(seed) for seed in range(SCENES)]


def _find(thumbnails, usable=None):
    usable = np.ones(len(thumbnails), bool) if usable is None else usable
    return duplicates.find(thumbnails, digests(len(thumbnails)), usable)


def _linked(found):
    return {(pair.first, pair.second) for pair in found}


def test_copies_of_every_kind_are_found_and_nothing_else(scenes):
    rng = np.random.default_rng(0)
    kinds = list(KINDS) * 2
    images = grey(scenes + [copy(scenes[3 * n], kind, rng) for n, kind in enumerate(kinds)])
    found = _find(images)
    expected = {(3 * n, SCENES + n) for n in range(len(kinds))}
    missed = [kinds[second - SCENES] for _, second in expected - _linked(found)]
    assert (missed, _linked(found) - expected) == ([], set())
    kind_of = {kinds[pair.second - SCENES]: pair.kind for pair in found}
    assert kind_of["mirrored"] == "mirrored"
    assert kind_of["rotated"] == "rotated"
    assert kind_of["bordered"] == "bordered"
    assert kind_of["cropped_far"] == "cropped"
    assert {kind_of["recompressed"], kind_of["resized"], kind_of["brightened"]} == {"near"}


@pytest.mark.parametrize("cut", [(0, 12, 0, 12), (12, 0, 12, 0), (0, 0, 16, 0), (6, 6, 6, 6), (2, 1, 0, 2)])
@pytest.mark.parametrize("mirror", [False, True])
def test_crops_of_each_side_and_of_one_side(scenes, cut, mirror):
    top, bottom, left, right = cut
    inner = scenes[5][top : 128 - bottom, left : 128 - right]
    images = grey([*scenes[:10], inner[:, ::-1] if mirror else inner])
    found = _find(np.ascontiguousarray(images))
    assert [(pair.first, pair.second, pair.mirrored) for pair in found] == [(5, 10, mirror)]
    height, width = inner.shape[:2]
    assert found[0].overlap == pytest.approx(height * width / 128**2, abs=0.05)


def test_the_rotation_is_measured(scenes):
    import cv2

    turn = cv2.getRotationMatrix2D((64, 64), 4, 1)
    turned = cv2.warpAffine(scenes[1], turn, (128, 128), borderMode=cv2.BORDER_REFLECT)
    (pair,) = _find(grey([*scenes[:5], turned]))
    assert abs(pair.rotation) == pytest.approx(4, abs=0.5)


def test_exact_copies_come_first_and_only_one_of_them_is_compared(scenes):
    rng = np.random.default_rng(0)
    images = grey([*scenes[:6], scenes[2], scenes[2], copy(scenes[4], "cropped", rng)])
    given = digests(9)
    given[[6, 7]] = given[2]
    found = duplicates.find(images, given, np.ones(9, bool))
    assert [(p.first, p.second, p.kind) for p in found] == [
        (2, 6, "exact"),
        (2, 7, "exact"),
        (4, 8, "cropped"),
    ]


def test_a_large_group_is_connected_without_comparing_every_pair(scenes, monkeypatch):
    monkeypatch.setattr(duplicates, "_ROUND", 64)
    compared, align = [], alignment.align
    monkeypatch.setattr(alignment, "align", lambda d, a, *b: compared.append(len(a)) or align(d, a, *b))
    rng = np.random.default_rng(0)
    images = grey(scenes[:20] + [copy(scenes[0], "recompressed", rng) for _ in range(60)])
    found = _find(images)
    assert {number for pair in found for number in (pair.first, pair.second)} == {0, *range(20, 80)}
    some = sum(compared)
    monkeypatch.setattr(duplicates, "LARGE_GROUP", 1000)
    compared.clear()
    every = _find(images)
    # All pairs of groups up to eight, those that join groups, and what a round holds beyond that.
    assert len(found) <= 60 / 8 * 28 + 60 + 64 < len(every)
    assert some <= sum(compared) - (len(every) - len(found))


@pytest.mark.parametrize(("size", "quality"), [(8, 80), (12, 50), (24, 30)])
def test_small_smooth_images_are_told_apart(size, quality):
    images = [encode(seed, size=(size, size)) for seed in range(40)]
    found = _linked(_find(grey([*images, encode(3, size=(size, size), quality=quality)])))
    assert (3, 40) in found
    assert len(found) <= 3


def test_odd_shapes(scenes):
    wide, tall = scenes[0][40:56], scenes[1][:, 60:70]
    images = grey([*scenes[2:8], wide, tall, wide[:, 4:120], scenes[2][..., :1].repeat(3, axis=2)])
    assert (6, 8) in _linked(_find(images))


def test_unusable_images_are_left_out(scenes):
    assert not _find(np.zeros((4, 64, 64), np.uint8), np.zeros(4, bool))
    assert not _find(grey(scenes[:1]))
    images = np.repeat(grey(scenes[:1]), 4, axis=0)
    assert _linked(_find(images, np.array([True, False, True, False]))) == {(0, 2)}
    assert not _find(np.full((70, 64, 64), 128, np.uint8))  # constant: nothing to compare


@pytest.mark.parametrize("count", [0, 1, 100])
def test_no_image_one_image_or_only_unusable_ones_have_no_copies(count):
    nothing = np.zeros((count, 64, 64), np.uint8)
    assert _find(nothing) == []
    assert _find(nothing, np.zeros(count, bool)) == []


def test_many_files_of_one_image_are_one_group(scenes):
    found = _find(np.repeat(grey(scenes[:1]), 70, axis=0))
    assert {number for pair in found for number in (pair.first, pair.second)} == set(range(70))


def test_the_result_is_the_same_every_time_and_on_any_number_of_cores(scenes, monkeypatch):
    rng = np.random.default_rng(0)
    images = grey(scenes + [copy(scenes[n], "two_kinds", rng) for n in range(10)])
    once = _find(images)
    monkeypatch.setattr(duplicates.os, "cpu_count", lambda: 1)
    assert _find(images) == once


def test_different_drawn_faces_are_rarely_copies():
    source = next(iter(synthetic.SOURCES))
    faces = [synthetic.draw(source, "train", row, size=64, seed=0).image for row in range(250)]
    assert len(_find(grey(faces))) <= 2


@pytest.mark.long
def test_recall_of_every_kind_on_real_faces(real_data):
    paths = sorted((real_data / "fairface" / "train").iterdir())[:4000]
    faces = [photograph(path) for path in paths]
    rng = np.random.default_rng(1)
    kinds = [kind for kind in KINDS for _ in range(100)]
    copied = rng.choice(len(faces), len(kinds), replace=False)
    copies = [copy(faces[n], kind, rng) for n, kind in zip(copied, kinds, strict=True)]
    found = _find(grey(faces + copies))
    hits = np.array([(int(n), len(faces) + k) in _linked(found) for k, n in enumerate(copied)])
    recall = {kind: hits[[other == kind for other in kinds]].mean() for kind in KINDS}
    assert min(recall.values()) >= 0.97, recall
    # What else is found are copies that FairFace has.
    assert len(found) - hits.sum() <= 20


def test_people_who_look_alike_are_not_copies(real_data):
    faces = [photograph(real_data / "fairface" / name) for name in LOOK_ALIKES.split()]
    assert _find(grey(faces)) == []


# The faces of FairFace in the pairs most like copies that are two people, judged by eye.
LOOK_ALIKES = """
train/12164.jpg train/15477.jpg train/20812.jpg train/21626.jpg train/22810.jpg train/24530.jpg
train/24760.jpg train/24765.jpg train/24848.jpg train/26658.jpg train/27439.jpg train/27480.jpg
train/2912.jpg train/29340.jpg train/31356.jpg train/31397.jpg train/3255.jpg train/34744.jpg
train/36355.jpg train/36774.jpg train/36968.jpg train/38256.jpg train/39106.jpg train/4070.jpg
train/6492.jpg train/8319.jpg train/948.jpg val/1431.jpg val/1471.jpg val/2544.jpg val/3032.jpg
val/3593.jpg val/3640.jpg val/3794.jpg val/3950.jpg val/449.jpg val/4670.jpg val/4908.jpg
val/746.jpg val/959.jpg
"""
