"""Answers that no training image could have taught are marked wherever they are shown."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest

from softbio_jax.inference import annotate, hub
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference.bulk.table import PredictionTable
from softbio_jax.inference.export import stablehlo
from softbio_jax.inference.predictor import Predictor
from softbio_jax.runs import directory
from softbio_jax.runs import restore as restore_lib
from softbio_jax.runs.data import open_all, training_images


@pytest.fixture(scope="module")
def blind(bundle):
    """The bundle as if no image of emotion had been in its training set."""
    counts = dict(bundle.training_images)
    counts["emotion"] = dict.fromkeys(counts["emotion"], 0)
    counts["gender"] = dict.fromkeys(counts["gender"], 1)
    counts["age"] = dict.fromkeys(counts["age"], 1)
    return dataclasses.replace(bundle, training_images=counts)


@pytest.fixture(scope="module")
def predictions(blind):
    size = blind.image_size
    squares = list(np.random.default_rng(0).integers(0, 255, (3, size, size, 3), dtype=np.uint8))
    return Predictor(blind).predict_squares(squares)


def test_a_run_hands_its_counts_to_its_checkpoint_record_and_bundle(workdir, bundle, tmp_path):
    config = directory.read_config(workdir)
    expected = training_images(config, open_all(config.data))
    assert 0 in expected["age"].values()  # too few faces for every group
    assert bundle.training_images == expected
    assert restore_lib.restore_run(workdir).training_images == expected
    for path in (workdir / "run.json", workdir / "eval" / "metrics.json"):
        assert json.loads(path.read_text())["training_images"] == expected
    saved = bundle_lib.save(bundle, tmp_path / "saved")
    assert json.loads((saved / "config.json").read_text())["training_images"] == expected
    assert bundle_lib.from_directory(saved).training_images == expected


def test_an_exported_folder_has_the_counts(bundle, tmp_path):
    stablehlo.write_config(tmp_path, bundle, form="onnx", batch=1)
    assert json.loads((tmp_path / "config.json").read_text())["training_images"] == bundle.training_images


def test_a_bundle_without_the_record_loads_without_marks_and_keeps_its_label(bundle, tmp_path):
    old = dataclasses.replace(bundle, training_images={})
    saved = bundle_lib.save(old, tmp_path / "old")
    assert "training_images" not in json.loads((saved / "config.json").read_text())
    again = bundle_lib.from_directory(saved)
    assert again.training_images == {} and bundle_lib.label(again) == bundle_lib.label(bundle)
    size = bundle.image_size
    (found,) = Predictor(again).predict_squares([np.zeros((size, size, 3), np.uint8)])
    assert found.untrained == () and "training" not in " ".join(annotate.lines(found))


@pytest.mark.parametrize("wrong", [3, {"age": [1]}, {"age": {"0-2": -1}}])
def test_a_damaged_record_is_refused(bundle, tmp_path, wrong):
    saved = bundle_lib.save(bundle, tmp_path / "saved")
    values = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(values | {"training_images": wrong}))
    with pytest.raises(bundle_lib.UserError, match="not a model's configuration"):
        bundle_lib.from_directory(saved)


def test_predictions_name_the_tasks(predictions):
    assert [p.untrained for p in predictions] == [("emotion",)] * 3


def test_annotations_say_it(predictions):
    lines = annotate.lines(predictions[0])
    assert [("no training images" in line) for line in lines] == [
        line.startswith("emotion") for line in lines
    ]


def rows_of(form, bundle, predictions, marks):
    out = io.StringIO()
    table = PredictionTable(None, stream=out, form=form, tasks=bundle.tasks, model="m", marks=marks)
    table.write("a.jpg", None, predictions[:1])
    if form == "jsonl":
        return [json.loads(line) for line in out.getvalue().splitlines()]
    return list(csv.DictReader(io.StringIO(out.getvalue())))


def test_tables_have_a_column_for_it(blind, predictions):
    (row,) = rows_of("csv", blind, predictions, True)
    assert row["untrained"] == "emotion" and row["emotion"] == predictions[0].classes["emotion"]
    (row,) = rows_of("jsonl", blind, predictions, True)
    assert row["untrained"] == ["emotion"]
    fine = [dataclasses.replace(predictions[0], untrained=())]
    assert rows_of("csv", blind, fine, True)[0]["untrained"] == ""
    assert "untrained" not in rows_of("csv", blind, fine, False)[0]


def test_a_shared_model_card_marks_them(blind, bundle):
    assert "surprise ‡" in hub.card_of_bundle(blind, repo_id="a/b")
    assert "male ‡" not in hub.card_of_bundle(blind, repo_id="a/b")
    assert "‡" not in hub.card_of_bundle(dataclasses.replace(bundle, training_images={}), repo_id="a/b")
