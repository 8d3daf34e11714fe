import csv
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from softbio_jax.console import Console
from softbio_jax.data.faces import Face
from softbio_jax.errors import UserError
from softbio_jax.inference import annotate, bundle
from softbio_jax.inference.bulk.stream import Stream
from softbio_jax.inference.bulk.table import PredictionTable
from softbio_jax.inference.bulk.videos import Pace
from softbio_jax.inference.predictor import Prediction, Predictor


@pytest.fixture(scope="module")
def model(bundle):
    return Predictor(bundle, max_batch=4)


class Wide:
    """Stands for a detector: one face per hundred pixels of width."""

    name = "wide"

    def find(self, image):
        count = image.shape[1] // 100
        return [Face(box=(100.0 * i + 10, 10.0, 100.0 * i + 60, 60.0), confidence=0.9) for i in range(count)]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i, width in enumerate((100, 250, 80, 330, 100, 120)):
        image = rng.integers(0, 256, (90, width, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff not much more")
    writer = cv2.VideoWriter(str(tmp_path / "v.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (128, 96))
    for i in range(10):
        writer.write(np.full((96, 128, 3), 20 * i, np.uint8))
    writer.release()
    return tmp_path


def run(model, folder, names, *, faces="crop", out="out.csv", annotated=None, every="5", margin=0.0):
    table = PredictionTable(
        folder / out,
        stream=io.StringIO(),
        form="csv",
        tasks=model.bundle.tasks,
        model=bundle.label(model.bundle),
    )
    printed = io.StringIO()
    stream = Stream(
        model=model,
        table=table,
        faces=faces,
        finder=Wide(),
        margin=margin,
        pace=Pace.parse(every),
        annotated=annotated,
        console=Console(out=printed),
    )
    counts = stream.run([str(folder / name) for name in names])
    table.close()
    with (folder / out).open(newline="") as file:
        return counts, printed.getvalue().splitlines(), list(csv.DictReader(file))


def test_crops_are_what_the_api_says_and_broken_files_are_reported(model, folder):
    names = ["0.png", "broken.jpg", "1.png", "gone.png", "2.png", "3.png", "4.png", "no\nname.png"]
    counts, printed, table = run(model, folder, names)
    assert (counts.images, counts.faces, counts.skipped, counts.done) == (5, 5, 3, 0)
    assert ["broken.jpg" in printed[0] or "broken.jpg" in printed[1], len(printed)] == [True, 3]
    assert any("gone.png" in line and "No such file" in line for line in printed)
    good = [str(folder / name) for name in names if name[0].isdigit()]
    assert [row["input"] for row in table] == good
    for row, expected in zip(table, model.predict(good), strict=True):
        for task, name in expected.classes.items():
            assert row[task] == name
            assert float(row[f"{task}_{name}"]) == pytest.approx(expected.probabilities[task][name], abs=1e-5)
        assert float(row["expected_age"]) == pytest.approx(expected.expected_age, abs=0.01)


def test_every_detected_face_is_a_row(model, folder):
    names = [f"{i}.png" for i in range(6)]
    counts, printed, table = run(model, folder, names, faces="detect")
    assert (counts.images, counts.faces, counts.skipped) == (5, 8, 1)
    assert len(printed) == 1 and "2.png: no face found (--faces=crop" in printed[0]
    wide = [row for row in table if row["input"].endswith("3.png")]
    assert [(row["face"], row["faces"], row["x0"]) for row in wide] == [
        ("0", "3", "10"),
        ("1", "3", "110"),
        ("2", "3", "210"),
    ]
    _, _, wider = run(model, folder, ["3.png"], faces="detect", out="wider.csv", margin=0.5)
    assert [row["x0"] for row in wider] == [row["x0"] for row in wide]  # the detector's box
    assert [row["age_0-2"] for row in wider] != [row["age_0-2"] for row in wide]
    expected = model.predict_faces(folder / "3.png", finder=Wide())[0]
    assert [row["age"] for row in wide] == [p.classes["age"] for p in expected]


@pytest.mark.parametrize("faces", ["crop", "detect"])
def test_an_interrupted_run_resumes(model, folder, faces, monkeypatch):
    names = ["0.png", "1.png", "v.mp4", "3.png", "4.png", "5.png"]
    _, _, whole = run(model, folder, names, faces=faces, out="whole.csv")
    write, written = PredictionTable.write, []

    def interrupted(self, name, seconds, predictions):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(predictions)
        write(self, name, seconds, predictions)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PredictionTable, "write", interrupted)
        run(model, folder, names, faces=faces)
    with (folder / "out.csv").open("a") as file:
        file.write("torn,")
    seen = []
    real = Predictor.predict_squares

    def counted(self, squares, **settings):
        seen.extend(square for square in squares if square.any())  # the others keep places of the batch
        return real(self, squares, **settings)

    monkeypatch.setattr(Predictor, "predict_squares", counted)
    counts, _, table = run(model, folder, names, faces=faces)
    assert table == whole or _close(table, whole)
    assert counts.done == 3  # two images and a video, of which both frames were done
    assert len(seen) == len(whole) - sum(map(len, written)) == counts.faces
    again, _, table = run(model, folder, names, faces=faces)
    assert again.images == again.skipped == 0 and len(table) == len(whole)


def _close(one, other):
    """The same rows, up to rounding in another batch."""
    return len(one) == len(other) and all(
        a.keys() == b.keys()
        and all(a[k] == b[k] or float(a[k]) == pytest.approx(float(b[k]), abs=1e-5) for k in a)
        for a, b in zip(one, other, strict=True)
    )


def test_videos_give_one_row_per_frame(model, folder):
    counts, printed, table = run(model, folder, ["v.mp4"], faces="detect", annotated=folder / "seen")
    assert [row["seconds"] for row in table] == ["0.000", "0.500"] and printed == []
    assert counts.images == 2
    drawn = sorted((folder / "seen").rglob("*.jpg"))
    assert [path.name for path in drawn] == ["0.000.jpg", "0.500.jpg"]
    (folder / "bad.mp4").write_bytes(b"no video")
    counts, printed, _ = run(model, folder, ["bad.mp4"], out="other.csv")
    assert counts.skipped == 1 and "bad.mp4" in printed[0]


def test_annotated_images_keep_their_folders(model, folder):
    seen = folder / "seen"
    run(model, folder, ["0.png", "1.png"], faces="detect", annotated=seen)
    paths = sorted(seen.rglob("*"))
    files = [path for path in paths if path.is_file()]
    assert [path.name for path in files] == ["0.png.jpg", "1.png.jpg"]
    relative = files[0].relative_to(seen)
    assert relative.parts[:-1] == folder.resolve().parts[1:]


def prediction(face=None):
    return Prediction(
        classes={"gender": "female"},
        probabilities={"gender": {"male": 0.2, "female": 0.8}},
        expected_age=None,
        face=face,
    )


def test_boxes_and_lines_are_drawn_and_the_rest_is_not_changed():
    image = np.full((400, 600, 3), 90, np.uint8)
    one = prediction(Face(box=(100.0, 100.0, 200.0, 200.0), confidence=1.0))
    drawn = annotate.annotate(image, [one])
    assert drawn.shape == image.shape
    changed = (drawn != image).any(axis=2)
    assert changed[100, 100:200].all() and changed[100:200, 200].all()  # the box
    assert not changed[110:190, 110:190].any()  # the face
    assert changed[202:220, 102:150].mean() > 0.9  # the line below
    assert not changed[:95].any() and not changed[:, :95].any()
    other = prediction(Face(box=(400.0, 100.0, 500.0, 200.0), confidence=1.0))
    both = annotate.annotate(image, [one, other], chosen=1)
    assert (both[:, :300] == drawn[:, :300]).all() and (both[100, 450] != drawn[100, 150]).any()
    small = annotate.annotate(image[:48, :48], [prediction()])
    assert small.shape[1] == 320 and small.shape[0] > 320  # enlarged, its lines below
    assert annotate.lines(one) == ["gender female (80 %)"]


@pytest.mark.parametrize(
    ("annotated", "arguments", "apart"),
    [
        (".", ["photos"], False),
        ("photos", ["photos"], False),
        ("photos/drawn", ["other", "photos/"], False),
        ("../here", ["photos"], False),
        ("drawn", ["photos", "other"], True),
        ("photos", ["photos/1.png", "photos/*.png"], True),
        ("photos-drawn", ["photos"], True),
    ],
)
def test_annotated_images_stay_out_of_searched_folders(tmp_path, monkeypatch, annotated, arguments, apart):
    (tmp_path / "here" / "photos").mkdir(parents=True)
    (tmp_path / "here" / "other").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    places = annotate.Places(annotated)
    if apart:
        places.check_apart(arguments)
    else:
        with pytest.raises(UserError, match="annotated images among those to predict"):
            places.check_apart(arguments)
