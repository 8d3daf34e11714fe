import collections
import dataclasses
import io
import os
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

import softbio_jax
from softbio_jax.data.faces import Face
from softbio_jax.data.sources import open_prepared
from softbio_jax.errors import UserError
from softbio_jax.evaluation import predictions_csv
from softbio_jax.evaluation.metrics import calibration
from softbio_jax.evaluation.metrics.classification import expected_age
from softbio_jax.inference.predictor import Predictor
from softbio_jax.models.forward import encode
from softbio_jax.tasks import TASKS


@pytest.fixture(scope="module")
def model(bundle):
    return Predictor(bundle)


@pytest.fixture(scope="module")
def faces(data_root, tmp_path_factory):
    """The test images of a data set as files, and their ids."""
    dataset = open_prepared(data_root / "synthetic_raf_db", "test")
    folder = tmp_path_factory.mktemp("faces")
    for i in range(len(dataset)):
        (folder / f"{i:02d}.jpg").write_bytes(dataset[i])
    return sorted(folder.iterdir())


def matrix(predictions, task):
    names = TASKS[task].classes
    return np.array([[p.probabilities[task][name] for name in names] for p in predictions])


def test_the_api_agrees_with_the_runs_evaluation(workdir, faces, tmp_path, bundle):
    """Run and saved folder alike, through the lazy top-level load."""
    table = predictions_csv.load(workdir / "eval" / "predictions" / "synthetic_raf_db.csv")
    Predictor(bundle).save(tmp_path / "saved")
    for source in (workdir, str(tmp_path / "saved")):
        predictions = softbio_jax.load(source).predict(faces, calibrated=False)
        for task in ("gender", "emotion"):
            np.testing.assert_allclose(matrix(predictions, task), table.probabilities[task], atol=1e-5)


def test_probabilities_are_calibrated_and_age_is_in_years(model, faces):
    raw, scaled = model.predict(faces, calibrated=False), model.predict(faces)
    for task, temperature in model.bundle.temperatures.items():
        expected = calibration.with_temperature(matrix(raw, task), temperature)
        np.testing.assert_allclose(matrix(scaled, task), expected, atol=1e-5)
        assert abs(temperature - 1) > 1e-3  # or the comparison says nothing
    years = [p.expected_age for p in scaled]
    np.testing.assert_allclose(years, expected_age(matrix(scaled, "age")), rtol=1e-5)
    for prediction in scaled:
        for task, classes in prediction.probabilities.items():
            assert prediction.classes[task] == max(classes, key=classes.get)


def test_a_head_of_years_gives_its_own_expected_age(bundle):
    head = dataclasses.replace(bundle.model.head, age="years")
    net = bundle.model.clone(head=head)
    size = bundle.image_size
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    variables = net.init(jax.random.key(3), images[:1].astype(np.float32))
    own = Predictor(dataclasses.replace(bundle, model=net, variables=jax.tree.map(np.asarray, variables)))
    features = encode(net, variables["params"], images)
    bins = net.apply(variables, features, method=lambda m, f: m.heads(f, train=False))["age"]
    wanted = np.asarray(jax.nn.softmax(bins)) @ np.arange(101)
    found = own.predict(list(images))
    np.testing.assert_allclose([p.expected_age for p in found], wanted, rtol=1e-5)
    by_group = expected_age(matrix(found, "age"))  # another figure, from the middles of groups
    assert np.abs(by_group - wanted).min() > 0.01
    again = own.predict(list(images), calibrated=False)
    assert [p.expected_age for p in again] == [p.expected_age for p in found]


def test_every_kind_of_image_gives_the_same(model, faces):
    # PNG files of the model's size: decoding and resizing then leave no room for differences.
    array = np.array(Image.open(faces[0]).convert("RGB"))
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    path = faces[0].parent.parent / "first.png"
    path.write_bytes(file.getvalue())
    wanted = model.predict(array)
    assert len(wanted) == 1
    ways = [
        path,
        str(path),
        file.getvalue(),
        Image.open(path),
        array[None],
        [array],
        jax.numpy.asarray(array),
        np.asfortranarray(array),
    ]
    for way in ways:
        assert model.predict(way) == wanted
    mixed = model.predict([path, array, Image.open(path)])
    for prediction in mixed:  # of another bucket, so to rounding
        for task in TASKS:
            np.testing.assert_allclose(matrix([prediction], task), matrix(wanted, task), atol=1e-6)
    assert model.predict([]) == []
    assert model.predict(pictures=array) == wanted  # the argument's former name


def test_photographs_turned_by_their_exif_block(model):
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:, 30:] = (200, 40, 90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise when shown
    turned = io.BytesIO()
    Image.fromarray(np.rot90(upright)).save(turned, "png", exif=exif)
    turned = turned.getvalue()
    for way in (turned, Image.open(io.BytesIO(turned))):
        assert model.predict(way) == model.predict(upright)


def test_one_compilation_per_bucket(bundle, monkeypatch):
    traced = collections.Counter()
    answers = type(bundle).answers

    def counted(self, variables, images):
        traced[images.shape[0]] += 1
        return answers(self, variables, images)

    monkeypatch.setattr(type(bundle), "answers", counted)
    model = Predictor(bundle, device="cpu", max_batch=8)
    images = np.random.default_rng(0).integers(0, 256, (21, 32, 32, 3), np.uint8)
    whole = model.logits(images)  # 8 + 8 + 5
    assert model.buckets == (8,)
    for count in (1, 2, 3, 4, 5, 7, 8, 1, 3, 13):
        part = model.logits(images[:count])
        for task in whole:
            assert part[task].shape == (count, TASKS[task].num_classes)
            np.testing.assert_allclose(part[task], whole[task][:count], atol=1e-5)
    assert model.buckets == (1, 2, 4, 8)
    assert traced == {1: 1, 2: 1, 4: 1, 8: 1}


def test_any_device(bundle, faces):
    last = jax.devices()[-1]
    assert last != jax.devices()[0]
    first = Predictor(bundle).predict(faces[:2])
    for name in (last, f"cpu:{last.id}"):
        model = Predictor(bundle, device=name)
        leaves = jax.tree.leaves(model._variables)
        assert {device for leaf in leaves for device in leaf.devices()} == {last}
        assert model.predict(faces[:2]) == first
    with pytest.raises(UserError, match=r"no such device.*cpu:0"):
        Predictor(bundle, device="gpu:7")
    with pytest.raises(UserError, match="power of two"):
        Predictor(bundle, max_batch=12)


class TwoFaces:
    """Stands for a detector: two faces in a large image."""

    name = "two"

    def find(self, image):
        if image.shape[0] < 50:
            return []
        boxes = {(10, 10, 50, 50): 0.99, (60, 5, 80, 35): 0.95}
        return [Face(box=box, confidence=value) for box, value in boxes.items()]


def test_faces_of_photographs_are_predicted_from_their_squares(model):
    photo = np.random.default_rng(1).integers(0, 256, (100, 120, 3), np.uint8)
    none = np.zeros((40, 40, 3), np.uint8)
    found = model.predict_faces([none, photo, none], finder=TwoFaces())
    assert [len(of_image) for of_image in found] == [0, 2, 0]
    first, second = found[1]
    assert first.face.box == (10, 10, 50, 50) and second.face.confidence == 0.95
    crops = model.predict([photo[10:50, 10:50], photo[5:35, 55:85]])  # 20 x 30 becomes 30 x 30
    for prediction, expected in zip(found[1], crops, strict=True):
        assert prediction.probabilities == expected.probabilities
    wider = model.predict_faces(photo, finder=TwoFaces(), margin=0.25)[0]
    assert [p.face for p in wider] == [first.face, second.face]
    frame = np.zeros((46, 46, 3), np.uint8)  # 30 and 8 on each side, of which 3 are above the frame
    frame[3:] = photo[:43, 47:93]
    crops = model.predict([photo[:60, :60], frame])
    for prediction, expected in zip(wider, crops, strict=True):
        assert prediction.probabilities == expected.probabilities


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("missing.jpg", "missing.jpg.*No such file"),
        (b"something else", r"images\[0\].*not an? (image|picture)"),
        (b"", r"images\[0\].*empty"),
        (np.zeros((8, 8, 3), np.float32), "uint8, 0 to 255.*float32"),
        (np.zeros((8, 8), np.uint8), r"\(8, 8\).*np.repeat"),
        (np.zeros((3, 8, 8), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\)"),
        (pathlib.Path(os.sep), "cannot read the image"),
    ],
)
def test_what_is_not_an_image_is_reported_in_one_line(model, image, says):
    with pytest.raises(UserError, match=says) as caught:
        model.predict([image])
    assert "\n" not in str(caught.value)
