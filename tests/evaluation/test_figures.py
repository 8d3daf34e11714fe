"""The figures of one task together: present, consistent, inside their intervals."""

import dataclasses
import json

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.evaluation import age_error, calibration, figures
from tests.evaluation.fixtures import random_predictions


@pytest.mark.parametrize("task", ["age", "gender"])
def test_every_interval_holds_its_figure(task):
    found = figures.task_figures(random_predictions("faces", n=300), task)
    assert {"accuracy", "balanced_accuracy", "macro_f1", "nll", "brier", "ece"} <= set(
        found["intervals"]
    )
    assert ("expected_age_mae" in found["intervals"]) is (task == "age")
    for name, (low, high) in found["intervals"].items():
        if name != "ece":  # its replicates lie above it
            assert low <= found[name] <= high, name
        assert low < high
    json.dumps(found, allow_nan=False)


def test_reliability_bins_hold_every_example_once():
    faces = random_predictions("faces", n=300)
    found = figures.task_figures(faces, "age")
    assert sum(row["n"] for row in found["reliability"]) == found["n"]
    gaps = [row["n"] * abs(row["accuracy"] - row["confidence"]) for row in found["reliability"]]
    assert sum(gaps) / found["n"] == pytest.approx(found["ece"])


def test_temperature_is_applied_and_reported():
    faces = random_predictions("faces", n=300)
    found = figures.task_figures(faces, "age", temperature=0.7)
    labels, probabilities = faces.labelled("age")
    scaled = calibration.with_temperature(probabilities, 0.7)
    assert found["temperature"]["value"] == 0.7
    assert found["temperature"]["ece"] == pytest.approx(calibration.reliability(labels, scaled).ece)
    assert "temperature" not in figures.task_figures(faces, "age")


def test_true_years_are_used_where_known():
    faces = random_predictions("faces", n=50, missing=0.2)
    years = np.where(np.arange(50) % 2, "31", "")
    faces = dataclasses.replace(faces, audit={figures.YEARS_COLUMN: years})
    labels, probabilities = faces.labelled("age")
    known = faces.labels["age"] >= 0
    expected = age_error.absolute_error(
        labels, probabilities, years=np.where(np.arange(50) % 2, 31.0, np.nan)[known]
    ).mean()
    assert figures.task_figures(faces, "age")["expected_age_mae"] == pytest.approx(expected)


def test_years_that_are_no_number_are_named():
    faces = random_predictions("faces", n=3)
    faces = dataclasses.replace(faces, audit={figures.YEARS_COLUMN: ["30", "", "old"]})
    with pytest.raises(UserError, match=r"not an age in years.*row 3.*'old'"):
        figures.task_figures(faces, "age")
