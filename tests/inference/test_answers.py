"""What the web page says: the answer with its measured accuracy, ages in order, the map's scale."""

import json
import re

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.evaluation import evaluate
from softbio_jax.inference import answers, occlusion
from softbio_jax.inference.predictor import Prediction
from softbio_jax.tasks import AGE, GENDER
from tests.evaluation.fixtures import random_predictions

SHARES = (0.01, 0.02, 0.03, 0.2, 0.3, 0.2, 0.1, 0.1, 0.04)
FOUND = Prediction(
    classes={"age": "30-39", "gender": "female"},
    probabilities={
        # As a dict may be: not in the order of the classes.
        "age": dict(sorted(zip(AGE.classes, SHARES, strict=True), key=lambda item: -item[1])),
        "gender": {"male": 0.004, "female": 0.996},
    },
    expected_age=37.25,
)


def texts(markup):
    return [text for text in re.split(r"<[^>]*>", markup) if text.strip()]


def test_the_answer_has_the_accuracy_that_the_run_measured(tmp_path):
    sets = [random_predictions(name, tasks=("age",), n=n) for name, n in (("one", 1200), ("two", 50))]
    summary = evaluate.write(tmp_path, sets, model={"variant": "v", "method": "m"})
    accuracies = answers.measured(tmp_path)
    said = texts(answers.answer(FOUND, accuracies))
    one, two = (
        (100 * metrics["accuracy"], int((item.labels["age"] >= 0).sum()))
        for item, metrics in ((item, summary["datasets"][item.name]["age"]) for item in sets)
    )
    assert one[1] > 1000
    assert said == [
        *("age", "30-39", "30 %", "expected age 37.2 years"),
        f"right for {one[0]:.1f} % of {one[1]:,} test images (one)",
        f"right for {two[0]:.1f} % of {two[1]} test images (two)",
        *("gender", "female", "100 %", "accuracy not measured"),
    ]


def test_nothing_is_known_of_what_is_no_run(tmp_path):
    assert answers.measured(tmp_path) == answers.measured("someone/model") == {}
    (tmp_path / "eval").mkdir()
    for content in ("{", json.dumps({"datasets": {"set": {"age": {"accuracy": "high"}}}})):
        (tmp_path / "eval" / "metrics.json").write_text(content)
        with pytest.raises(UserError, match=r"a damaged evaluation: .*metrics\.json"):
            answers.measured(tmp_path)


def test_classes_are_in_the_order_of_the_task_and_one_is_marked():
    markup = answers.distributions([AGE, GENDER], FOUND)
    said = texts(markup)
    assert said[:3] == ["age", "0-2", "1 %"] and said[1:19:2] == list(AGE.classes)
    assert said[19:] == ["gender", "male", "0 %", "female", "100 %"]
    assert re.findall(r'class="likeliest"><span>([^<]*)', markup) == ["30-39", "female"]
    assert 'style="width: 20.0%"' in markup


def test_a_class_without_training_images_is_marked_in_both():
    images = {"gender": {"male": 3, "female": 0}}
    assert "female ‡" in texts(answers.answer(FOUND, {}, images))
    assert "female ‡" in texts(answers.distributions([GENDER], FOUND, images))


@pytest.mark.parametrize(("largest", "points"), [(0.24, "24"), (-0.4, "40"), (0.01, "5")])
def test_the_scale_is_that_of_the_strongest_colours(largest, points):
    drops = np.zeros((8, 8), np.float32)
    drops[3, 3] = largest
    scale = occlusion.scale(drops)
    said = texts(answers.legend("age", "30-39", float(drops.max()), scale=scale))
    assert said[:3] == [f"−{points}", "0", f"+{points} points"]
    assert "age 30-39" in said[3] and f"largest is {100 * drops.max():.0f} points" in said[3]
    grey = np.full((64, 64, 3), 128, np.uint8)
    image, full = occlusion.overlay(grey, drops), occlusion.overlay(grey, np.full((8, 8), scale))
    strength = np.abs(image.astype(int) - 128).max() / np.abs(full.astype(int) - 128).max()
    assert strength == pytest.approx(abs(largest) / scale, abs=0.15)  # interpolation lowers a peak


def test_names_are_text():
    name = "<img src=x onerror=y>\x1b[31m"
    found = Prediction(classes={"gender": name}, probabilities={"gender": {name: 1.0}}, expected_age=None)
    for markup in (
        answers.answer(found, {"gender": [answers.Measured(name, 0.5, 2)]}),
        answers.legend("gender", name, 0.1, scale=0.1),
    ):
        assert "<img" not in markup and "\x1b" not in markup and "&lt;img" in markup
