"""The margin of training crops, from the preparation of a set to predictions on photographs."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from softbio_jax.console import Console
from softbio_jax.data.faces import Face
from softbio_jax.data.prepare import prepare
from softbio_jax.data.prepare.storage import Storage
from softbio_jax.errors import UserError
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference import crops, images, predictor, run_bundle
from tests.inference.test_bundle import bundle_of

CROPS = {"a": {"cut": "as distributed", "margin": 0.25}, "b": {"cut": "as distributed", "margin": None}}


def faces(folder):
    for number in range(4):
        path = folder / "train" / ("happy", "sad")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), 50 * number, np.uint8)).save(path)
    return folder


class Finder:
    name = "a finder"

    def find(self, image):
        return [Face(box=(2, 2, 30, 30), confidence=1.0)]


@pytest.mark.parametrize(
    ("storage", "crop"),
    [
        (Storage(crops=True), {"cut": "as distributed", "margin": None}),
        (Storage(crops=True, margin=0.25), {"cut": "as distributed", "margin": 0.25}),
        (Storage(face_finder=Finder()), {"cut": "the square around the found face", "margin": 0.0}),
    ],
    ids=["unknown", "given", "found"],
)
def test_preparation_records_how_faces_are_cut(tmp_path, storage, crop):
    report = prepare.prepare(
        "folder", source=faces(tmp_path / "faces"), out=tmp_path / "out", task="emotion", storage=storage
    )
    assert report["crop"] == crop
    assert json.loads((tmp_path / "out" / "report.json").read_text())["crop"] == crop


@pytest.mark.parametrize(
    ("folder", "margin"),
    [("fairface-img-margin025-trainval", 0.25), ("fairface-img-margin125-trainval", 1.25), ("images", None)],
)
def test_fairfaces_margin_is_in_its_folders_name(tmp_path, folder, margin):
    root = tmp_path / "fairface"
    for split in ("train", "val"):
        path = root / folder / split / "1.jpg"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(path)
        (root / f"fairface_label_{split}.csv").write_text(
            f"file,age,gender,race,service_test\n{split}/1.jpg,3-9,Male,White,True\n"
        )
    report = prepare.prepare("fairface", source=root, out=tmp_path / "out")
    assert report["crop"] == {"cut": "as distributed", "margin": margin}


@pytest.mark.parametrize(
    ("storage", "message"),
    [({"margin": -0.1}, "not a margin"), ({"margin": 0.2, "face_finder": Finder()}, "does not apply")],
)
def test_a_margin_that_cannot_be_is_refused(storage, message):
    with pytest.raises(UserError, match=message):
        Storage(**storage)


@pytest.mark.parametrize(
    ("known", "margin"),
    [
        ({}, None),
        (CROPS, 0.25),
        ({"b": CROPS["b"]}, None),
        (CROPS | {"c": {"cut": "as distributed", "margin": 1.25}}, None),
        ({"a": {"cut": "the square around the found face", "margin": 0.0}}, 0.0),
    ],
    ids=["no record", "one known", "none known", "two", "zero"],
)
def test_the_margin_of_several_sets(known, margin):
    assert crops.margin(known) == margin


@pytest.mark.parametrize(
    ("given", "known", "margin", "said"),
    [
        (None, {}, 0.0, ""),
        (None, CROPS, 0.25, "margin 0.25 around faces, as in the training crops"),
        (0.25, CROPS, 0.25, ""),
        (0.1, CROPS, 0.1, "note: margin 0.1 around faces; the training crops have 0.25"),
        (0.1, {}, 0.1, ""),
    ],
)
def test_a_prediction_says_which_margin_it_takes(given, known, margin, said):
    out = io.StringIO()
    assert crops.chosen(given, known, Console(out=out)) == margin
    assert out.getvalue().startswith(said) and bool(out.getvalue()) == bool(said)


def test_a_saved_model_keeps_the_crops_and_predicts_with_their_margin(tmp_path, monkeypatch):
    bundle, _ = bundle_of("lora")
    plain = bundle_lib.label(bundle)
    bundle = dataclasses.replace(bundle, crops=CROPS)
    assert bundle_lib.label(bundle) == plain, "predictions on crops do not depend on it"
    folder = bundle_lib.save(bundle, tmp_path / "model")
    assert json.loads((folder / "config.json").read_text())["preprocessing"]["crop"]["training"] == CROPS
    model = predictor.load(folder)
    assert model.bundle.crops == CROPS
    cut, taken = images.face_square, []

    def noted(*arguments, margin, **options):
        taken.append(margin)
        return cut(*arguments, margin=margin, **options)

    monkeypatch.setattr(predictor.images_lib, "face_square", noted)
    model.predict_faces(np.zeros((40, 40, 3), np.uint8), finder=Finder())
    model.predict_faces(np.zeros((40, 40, 3), np.uint8), finder=Finder(), margin=0.1)
    assert taken == [0.25, 0.1]


def test_a_config_with_another_margin_is_refused(tmp_path):
    bundle, _ = bundle_of("lora")
    folder = bundle_lib.save(dataclasses.replace(bundle, crops=CROPS), tmp_path / "model")
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"margin": 0.25', '"margin": -3'))
    with pytest.raises(UserError, match="margin"):
        bundle_lib.from_directory(folder)


def test_a_runs_bundle_has_what_its_record_says(tmp_path):
    record = {
        "data": {"train/a/train": {"crop": CROPS["a"]}, "test/c/test": {"crop": CROPS["b"]}, "train/d/x": {}}
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert run_bundle._training_crops(tmp_path / "run.json") == {"a": CROPS["a"]}
    shutil.rmtree(tmp_path)
    assert run_bundle._training_crops(tmp_path / "run.json") == {}
