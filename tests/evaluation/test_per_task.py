"""The metrics of one task together: present, consistent, inside their intervals."""

import dataclasses
import json

import numpy as np
import pytest

from softbio_jax.data.builders import BUILDERS
from softbio_jax.data.partial.years import COLUMNS
from softbio_jax.errors import UserError
from softbio_jax.evaluation.metrics import calibration, classification, intervals, per_task
from tests.evaluation.fixtures import hand_made, random_predictions

YEARS = COLUMNS[0]  # the finest


@pytest.mark.parametrize("task", ["age", "gender"])
def test_every_interval_holds_its_metric(task):
    found = per_task.task_metrics(random_predictions("faces", n=300), task)
    assert {"accuracy", "balanced_accuracy", "macro_f1", "nll", "brier", "ece"} <= set(found["intervals"])
    assert ("expected_age_mae" in found["intervals"]) is (task == "age")
    for name, (low, high) in found["intervals"].items():
        if name != "ece":  # its replicates lie above it
            assert low <= found[name] <= high, name
        assert low < high
    json.dumps(found, allow_nan=False)


def test_every_class_has_intervals_that_hold_its_metrics():
    found = per_task.task_metrics(random_predictions("faces", n=300), "age")
    for row in found["per_class"].values():
        assert set(row["intervals"]) == {"precision", "recall", "f1"}
        for name, (low, high) in row["intervals"].items():
            assert low <= row[name] <= high
    recall = found["per_class"]["20-29"]["intervals"]["recall"]
    counts = found["confusion"][3]
    assert recall == list(intervals.wilson(counts[3], sum(counts)))


def test_a_class_without_examples_has_no_recall_and_no_interval():
    labels, probabilities = [0, 0, 1], np.eye(7)[[0, 2, 1]]
    found = per_task.task_metrics(hand_made("faces", "emotion", labels, probabilities), "emotion")
    disgust, happy = found["per_class"]["disgust"], found["per_class"]["happy"]
    assert disgust["recall"] is None and disgust["f1"] == 0
    assert disgust["intervals"] == happy["intervals"] == {}
    json.dumps(found, allow_nan=False)


def test_a_class_that_is_too_small_has_no_interval():
    labels = [0] * intervals.LEAST_EXAMPLES + [1] * (intervals.LEAST_EXAMPLES - 1)
    found = per_task.task_metrics(hand_made("faces", "gender", labels, np.eye(2)[labels]), "gender")
    male, female = found["per_class"].values()
    assert set(male["intervals"]) == {"precision", "recall", "f1"}
    assert female["recall"] == 1 and female["intervals"] == {}


def test_reliability_bins_hold_every_example_once():
    faces = random_predictions("faces", n=300)
    found = per_task.task_metrics(faces, "age")
    assert sum(row["n"] for row in found["reliability"]) == found["n"]
    gaps = [row["n"] * abs(row["accuracy"] - row["confidence"]) for row in found["reliability"]]
    assert sum(gaps) / found["n"] == pytest.approx(found["ece"])


def test_temperature_is_applied_and_reported():
    faces = random_predictions("faces", n=300)
    found = per_task.task_metrics(faces, "age", temperature=0.7)
    labels, probabilities = faces.labelled("age")
    scaled = calibration.with_temperature(probabilities, 0.7)
    assert found["temperature"]["value"] == 0.7
    assert found["temperature"]["ece"] == pytest.approx(calibration.reliability(labels, scaled).ece)
    low, high = found["temperature"]["intervals"]["nll"]
    assert low < found["temperature"]["nll"] < high
    assert "temperature" not in per_task.task_metrics(faces, "age")


def test_true_years_are_used_where_known():
    faces = random_predictions("faces", n=50, missing=0.2)
    years = np.where(np.arange(50) % 2, "31", "")
    faces = dataclasses.replace(faces, labels=_thirties(faces), audit={YEARS: years})
    labels, probabilities = faces.labelled("age")
    known = faces.labels["age"] >= 0
    expected = classification.absolute_error(
        labels, probabilities, years=np.where(np.arange(50) % 2, 31.0, np.nan)[known]
    ).mean()
    assert per_task.task_metrics(faces, "age")["expected_age_mae"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "name", ["utkface", "lagenda", "imdb_clean", "vggface2", "agedb", "appa_real", "morph"]
)
def test_years_are_looked_for_where_the_builders_put_them(name):
    assert YEARS in BUILDERS[name].COLUMNS


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("old", "not an age or a range"),
        ("2013", "not an age or a range"),
        ("121", "an impossible age"),
        ("12", "an age that contradicts the label"),
    ],
)
def test_years_that_are_no_age_of_the_label_are_named(word, says):
    faces = random_predictions("faces", n=3)
    audit = {YEARS: ["30", "", word]}
    faces = dataclasses.replace(faces, labels=_thirties(faces), audit=audit)
    with pytest.raises(UserError, match=rf"{says}.*'faces':{faces.ids[2]} years.*'{word}'"):
        per_task.task_metrics(faces, "age")


def _thirties(faces):
    age = faces.labels["age"]
    return faces.labels | {"age": np.where(age < 0, age, 4)}
