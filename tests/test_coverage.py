"""Classes without training images: counted, warned of, and carried into the record of a run."""

import json

import numpy as np
import pytest

from softbio_jax import coverage
from softbio_jax.data.prepare import prepare
from softbio_jax.runs import data as data_lib
from softbio_jax.runs import directory
from softbio_jax.tasks import MISSING, TASKS
from tests.runs.tiny import changed, run_of


def test_a_row_counts_if_it_is_labelled_and_can_be_drawn():
    labels = {"gender": np.array([0, 1, 1, MISSING, 1])}
    drawn = np.array([True, True, False, True, True])
    assert coverage.count(labels, drawn) == {"gender": {"male": 1, "female": 2}}
    assert coverage.count(labels, ~drawn) == {"gender": {"male": 0, "female": 1}}


def test_what_is_unknown_has_no_mark():
    assert coverage.marked({}, "gender", "male") == "male"
    assert coverage.marked({}, "gender") == "gender"
    assert coverage.notes({}) == [] and coverage.warnings({}, {}) == []
    assert coverage.from_json(None) == {}


@pytest.mark.parametrize("value", [[], {"age": 3}, {"age": {"0-2": "many"}}, {"age": {"0-2": -1}}, "x"])
def test_another_structure_is_refused(value):
    with pytest.raises(ValueError, match="training_images"):
        coverage.from_json(value)


def test_a_task_has_one_warning_with_all_that_its_sets_lack():
    images = {"gender": {"male": 0, "female": 9}, "emotion": dict.fromkeys(TASKS["emotion"].classes, 5)}
    full = dict.fromkeys(TASKS["emotion"].classes, 1)
    tests = {
        "a/test": {"gender": {"male": 1, "female": 0}, "emotion": full},
        "b/val": {"emotion": full | {"sad": 0}},
    }
    gender, emotion = coverage.warnings(images, tests)
    for part in ("no training image of male", "no label in b/val", "no test image of female in a/test"):
        assert part in gender
    assert "training" not in emotion and "no test image of sad in b/val" in emotion
    assert coverage.warnings({"emotion": full}, {"a/test": tests["a/test"]}) == []


@pytest.fixture
def two_sets(config):
    """A run on two sets; only the second has labels of emotion."""
    return changed(config, data__val_fraction=0.0)


def test_rows_that_a_sampler_never_draws_do_not_count(two_sets):
    run, data = run_of(two_sets)
    both = data_lib.training_images(run.config, data)
    raw = {
        task: np.concatenate([item.labels[task] for item in data.train if task in item.labels])
        for task in both
    }
    assert both["emotion"] == {
        name: int((raw["emotion"] == i).sum()) for i, name in enumerate(TASKS["emotion"].classes)
    }
    shares = {"synthetic_fairface": 1.0, "synthetic_raf_db": 0.0}
    run, data = run_of(changed(two_sets, data__sampler={"name": "mixture", "shares": shares}))
    images = data_lib.training_images(run.config, data)
    assert set(images["emotion"].values()) == {0} and sum(images["gender"].values()) == 40
    assert any(
        "emotion: no training image of surprise" in line for line in data_lib.coverage_warnings(data, images)
    )


def test_validation_rows_are_no_training_images(config):
    run, data = run_of(config)
    images = data_lib.training_images(run.config, data)
    assert sum(images["gender"].values()) == sum(
        (item.labels["gender"] != MISSING).sum() for item in data.train
    )
    assert sum(map(len, data.val)) > 0


def test_the_record_of_a_run_has_counts_and_warnings(two_sets, tmp_path):
    run, data = run_of(two_sets)
    images = data_lib.training_images(run.config, data)
    lines = data_lib.coverage_warnings(data, images)
    directory.write_start(
        run, data, tmp_path, audits=data_lib.audit_hashes(data), images=images, warnings=lines
    )
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["training_images"] == images and record["warnings"] == lines
    assert any("no label in synthetic_utkface/test" in line for line in lines)


def test_a_preparation_warns_of_classes_and_tasks_without_images():
    female = {"male": 0, "female": 3}
    counts = {
        "train": {"gender": female, "age": dict.fromkeys(TASKS["age"].classes, 0)},
        "test": {"gender": female},
    }
    assert prepare.warnings(counts) == [
        "warning: train: gender: no image of male",
        "warning: train: age: no label",
        "warning: test: gender: no image of male",
    ]
    assert prepare.warnings({"train": {"gender": {"male": 1, "female": 1}}}) == []
