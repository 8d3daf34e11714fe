"""The drawing: deterministic, independent of size, and every parameter visible."""

import dataclasses

import cv2
import numpy as np
import pytest

from softbio_jax.data.drawing.appearance import Style, sample_face
from softbio_jax.data.drawing.face import Face
from softbio_jax.data.drawing.rendering import render

PLAIN = Face(noise=0.0)
# Parameters that only show together with another one.
PARTNERS = {
    "beard_colour": {"beard": 0.8},
    "teeth": {"mouth_open": 0.4},
    "light": {"contrast": 0.3},
    "part": {"hairline": 0.4},
}
CHANGED = {
    "x": 0.2,
    "y": 0.2,
    "scale": 0.8,
    "tilt": 0.3,
    "yaw": 0.25,
    "head_width": 0.9,
    "jaw": 3.0,
    "cheeks": 0.1,
    "neck": 0.6,
    "eye_line": 0.2,
    "eye_size": 0.22,
    "eye_spacing": 0.4,
    "iris": 0.75,
    "lashes": 1.0,
    "nose_length": 0.25,
    "nose_width": 0.18,
    "mouth_line": 0.65,
    "lips": 0.1,
    "brow_thickness": 0.1,
    "brow_raise": 1.0,
    "brow_inner": 1.0,
    "eye_open": 1.5,
    "mouth_curve": 1.0,
    "mouth_open": 0.6,
    "mouth_width": 1.4,
    "teeth": 1.0,
    "nose_wrinkle": 1.0,
    "wrinkles": 1.0,
    "folds": 1.0,
    "eye_bags": 1.0,
    "spots": 1.0,
    "hair_length": 0.8,
    "hair_volume": 0.2,
    "hairline": 0.9,
    "part": 0.6,
    "beard": 0.9,
    "moustache": 0.9,
    "blush": 1.0,
    "glasses": 1.0,
    "earrings": 1.0,
    "light": 2.0,
    "contrast": 0.3,
    "brightness": 0.7,
    "warmth": 0.1,
    "blur": 1.0,
    "noise": 8.0,
    "skin": (90, 60, 40),
    "hair": (200, 160, 90),
    "beard_colour": (200, 200, 200),
    "eyes": (80, 130, 180),
    "lip_colour": (210, 40, 60),
    "background": (30, 90, 60),
    "backdrop": (220, 200, 90),
    "clothes": (200, 40, 40),
}


def drawn(face, size=64, seed=0):
    return render(face, np.random.default_rng(seed), size)


def test_every_parameter_is_covered():
    assert set(CHANGED) == {field.name for field in dataclasses.fields(Face)}


@pytest.mark.parametrize("name", CHANGED)
def test_every_parameter_changes_the_image(name):
    partners = PARTNERS.get(name, {})
    base = dataclasses.replace(PLAIN, **partners)
    other = dataclasses.replace(base, **{name: CHANGED[name]})
    difference = np.abs(drawn(base).astype(int) - drawn(other)).max()
    assert difference > 12  # well above rounding


@pytest.mark.parametrize("size", (16, 48, 63, 96))
def test_shape_type_and_determinism(size):
    face = sample_face(age=4, gender=1, emotion=3, style=Style(), rng=np.random.default_rng(5))
    image = drawn(face, size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image, drawn(face, size))


def test_the_same_face_at_another_size_is_the_same_image():
    large = cv2.resize(drawn(PLAIN, 192), (64, 64), interpolation=cv2.INTER_AREA)
    difference = np.abs(large.astype(int) - drawn(PLAIN, 64))
    assert difference.mean() < 4


def test_a_face_seen_straight_on_is_symmetric():
    face = dataclasses.replace(PLAIN, contrast=0.0)
    image = drawn(face).astype(int)[22:48, 21:43]  # the face alone: the backdrop is not symmetric
    assert image.std() > 20
    assert np.abs(image - image[:, ::-1]).mean() < 2  # the eyes' glints fall on one side


def test_yaw_moves_the_features_but_not_the_outline():
    ahead, aside = drawn(PLAIN).astype(int), drawn(dataclasses.replace(PLAIN, yaw=0.2)).astype(int)
    changed = np.abs(ahead - aside).max(-1) > 8
    assert changed[26:52, 20:44].mean() > 0.1
    assert not changed[:6].any() and not changed[:, :8].any()


def test_colour_channels_are_red_green_blue():
    red = drawn(dataclasses.replace(PLAIN, skin=(220, 90, 60), contrast=0.0))
    forehead = red[24, 32]
    assert forehead[0] > forehead[1] > forehead[2]


@pytest.mark.parametrize("emotion", range(7))
def test_appearance_is_drawable_at_every_age(emotion):
    rng = np.random.default_rng(emotion)
    for age in range(9):
        for gender in (0, 1):
            for _ in range(4):
                face = sample_face(age=age, gender=gender, emotion=emotion, style=Style(), rng=rng)
                numbers = [v for v in dataclasses.asdict(face).values() if isinstance(v, float)]
                assert np.isfinite(numbers).all()
                assert drawn(face, 32).std() > 5


def mean_of(name, count=200, **labels):
    rng = np.random.default_rng(0)
    given = {"age": 4, "gender": 0, "emotion": 6} | labels
    faces = [sample_face(**given, style=Style(), rng=rng) for _ in range(count)]
    return np.mean([np.mean(getattr(face, name)) for face in faces])


@pytest.mark.parametrize(
    "name, low, high",
    (
        ("wrinkles", {"age": 3}, {"age": 7}),
        ("eye_line", {"age": 8}, {"age": 0}),
        ("hair", {"age": 3}, {"age": 8}),
        ("hair_length", {"gender": 0}, {"gender": 1}),
        ("jaw", {"gender": 1}, {"gender": 0}),
        ("mouth_curve", {"emotion": 4}, {"emotion": 3}),
        ("mouth_open", {"emotion": 6}, {"emotion": 0}),
        ("brow_inner", {"emotion": 5}, {"emotion": 1}),
        ("nose_wrinkle", {"emotion": 6}, {"emotion": 2}),
    ),
)
def test_labels_show_in_the_parameters(name, low, high):
    assert mean_of(name, **low) < mean_of(name, **high)


@pytest.mark.parametrize("task, first, last", (("age", 0, 8), ("gender", 0, 1), ("emotion", 3, 4)))
@pytest.mark.parametrize("name", ("skin", "background", "brightness", "tilt", "scale", "glasses"))
def test_nuisances_do_not_depend_on_the_labels(task, first, last, name):
    # The same draws give the same nuisances, whatever the label.
    values = []
    for label in (first, last):
        rng = np.random.default_rng(7)
        given = {"age": 4, "gender": 0, "emotion": 6} | {task: label}
        values.append(getattr(sample_face(**given, style=Style(), rng=rng), name))
    assert values[0] == values[1]
