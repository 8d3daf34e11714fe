"""Videos of drawn faces that move, cross and leave, through the stream into tables of frames and tracks."""

import csv
import dataclasses
import io
import math

import cv2
import numpy as np
import pytest
from PIL import Image

from softbio_jax.data.drawing import draw
from softbio_jax.data.faces import Face
from softbio_jax.errors import UserError
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference import certainty as certainty_lib
from softbio_jax.inference.annotate import lines
from softbio_jax.inference.bulk.parquet import open_table
from softbio_jax.inference.bulk.stream import Follow, Stream
from softbio_jax.inference.bulk.table import PredictionTable
from softbio_jax.inference.bulk.videos import Pace
from softbio_jax.inference.predictor import Predictor
from softbio_jax.inference.tracking import Tracks
from softbio_jax.inference.tracking.smoothing import Smoother

SIDE, RATE = 48, 10
COLOURS = ((255, 0, 0), (0, 0, 255))  # of the frames around the faces, by which they are found


class ByColour:
    """Stands for a detector: the bounding box of each colour, the larger first, in an order that changes."""

    name = "by colour"

    def find(self, image):
        found = []
        for colour in COLOURS:
            rows, columns = np.nonzero(np.abs(image.astype(int) - colour).max(axis=-1) < 90)
            if len(rows) > 60:
                box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                found.append(Face(box=tuple(map(float, box)), confidence=0.9))
        return found[:: 1 if image[0, 0, 0] < 128 else -1]


def write(path, places):
    """Writes a video: of each frame, the left edges of the faces, None where one is away."""
    faces = [draw("synthetic_fairface", "test", row, size=SIDE, seed=5).image.copy() for row in (3, 4)]
    for face, colour in zip(faces, COLOURS, strict=True):
        face[:6], face[-6:], face[:, :6], face[:, -6:] = colour, colour, colour, colour
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), RATE, (400, 160))
    for number, lefts in enumerate(places):
        image = np.full((160, 400, 3), 255 * (number % 2), np.uint8)
        for face, left, top in zip(faces, lefts, (10, 90), strict=True):
            if left is not None:
                image[top : top + SIDE, left : left + SIDE] = face
        writer.write(image[..., ::-1])
    writer.release()


@pytest.fixture(scope="module")
def model(bundle):
    return Predictor(bundle, max_batch=4)


@pytest.fixture
def clips(tmp_path):
    # In the first, one comes, they pass each other, one is away for 0.3 s; in the second, one for long.
    crossing = [(20 + 14 * i, None if i < 2 or 11 <= i < 14 else 340 - 14 * i) for i in range(22)]
    leaving = [(50 if i < 4 or i > 16 else None, 200) for i in range(20)]
    write(tmp_path / "a.mp4", crossing)
    write(tmp_path / "b.mp4", leaving)
    Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(tmp_path / "c.png")
    return tmp_path


def run(model, folder, names, *, out, half_life=None, certainty=None, every="1"):
    """Predicts; half_life None does not follow faces. Returns the rows of frames and of tracks."""
    chosen = {"tasks": model.bundle.tasks, "model": "m", "unsure": certainty is not None}
    followed = half_life is not None
    kind = "followed" if followed else "faces"
    table = PredictionTable(folder / f"{out}.csv", stream=io.StringIO(), form="csv", kind=kind, **chosen)
    follow = None
    if followed:
        tracks = folder / f"{out}.tracks.csv"
        follow = Follow(
            begin=lambda: Tracks(model.bundle, half_life=half_life),
            tracks=PredictionTable(tracks, stream=io.StringIO(), form="csv", kind="tracks", **chosen),
        )
    stream = Stream(
        model=model,
        table=table,
        faces="detect",
        finder=ByColour(),
        margin=0.0,
        pace=Pace.parse(every),
        annotated=None,
        certainty=certainty,
        follow=follow,
    )
    counts = stream.run([str(folder / name) for name in names])
    tables = [table, *([follow.tracks] if followed else [])]
    for one in tables:
        one.close()
    paths = [folder / f"{out}.csv", *([tracks] if followed else [])]
    return counts, *(list(csv.DictReader(path.open(newline=""))) for path in paths)


def probabilities(row, task):
    return np.array([float(row[f"{task.name}_{name}"]) for name in task.classes])


def test_each_face_keeps_its_track_and_is_smoothed_over_it(model, clips):
    names = ["a.mp4", "b.mp4"]
    _, plain = run(model, clips, names, out="plain")
    _, frames, tracks = run(model, clips, names, out="followed", half_life=0.5)
    where = ("input", "seconds", "face", "x0", "y0")
    assert [[row[key] for key in where] for row in frames] == [[row[key] for key in where] for row in plain]
    upper = [row["track"] for row in frames if row["input"].endswith("a.mp4") and int(row["y0"]) < 60]
    lower = [row["track"] for row in frames if row["input"].endswith("a.mp4") and int(row["y0"]) > 60]
    assert set(upper) == {"0"} and len(upper) == 22
    assert set(lower) == {"1"} and len(lower) == 17  # also after it was away
    away = [row["track"] for row in frames if row["input"].endswith("b.mp4") and int(row["y0"]) < 60]
    assert away == ["0"] * 4 + ["2"] * 3  # its numbers begin anew in every video
    smoothers = {}
    for before, after in zip(plain, frames, strict=True):
        key = after["input"], after["track"]
        smoother = smoothers.setdefault(key, Smoother(0.5))
        wanted = smoother.update(
            float(after["seconds"]), {t.name: probabilities(before, t) for t in model.bundle.tasks}
        )
        for task in model.bundle.tasks:
            np.testing.assert_allclose(probabilities(after, task), wanted[task.name], atol=1e-5)
            assert after[task.name] == task.classes[wanted[task.name].argmax()]
    assert [row["age_0-2"] for row in frames] != [row["age_0-2"] for row in plain]
    check_tracks(model, plain, frames, tracks)


def check_tracks(model, plain, frames, tracks):
    """Every track's row is the geometric mean of its frames, whatever the half-life."""
    wanted = {}
    for before, after in zip(plain, frames, strict=True):
        wanted.setdefault((after["input"], after["track"]), []).append(before)
    assert [(row["input"], row["track"]) for row in tracks] == sorted(wanted)
    for row in tracks:
        rows = wanted[row["input"], row["track"]]
        assert (float(row["first"]), float(row["last"])) == tuple(float(rows[i]["seconds"]) for i in (0, -1))
        assert int(row["frames"]) == len(rows)
        for task in model.bundle.tasks:
            mean = np.exp(np.mean([np.log(probabilities(r, task)) for r in rows], axis=0))
            np.testing.assert_allclose(probabilities(row, task), mean / mean.sum(), atol=1e-5)


@pytest.mark.parametrize("lines_left", [0, 1, 9, 30, -1])
def test_an_interrupted_run_has_the_same_tracks(model, clips, lines_left):
    names = ["a.mp4", "c.png", "b.mp4"]
    run(model, clips, names, out="whole", half_life=1.0)
    run(model, clips, names, out="cut", half_life=1.0)
    rows = (clips / "cut.csv").read_text().splitlines(keepends=True)
    (clips / "cut.csv").write_text("".join(rows[: 1 + lines_left] if lines_left >= 0 else rows))
    tracks = (clips / "cut.tracks.csv").read_text().splitlines(keepends=True)
    # Tracks are written after the frames of their video.
    kept = 3 if lines_left == -1 else 1
    (clips / "cut.tracks.csv").write_text("".join(tracks[:kept]))
    counts, *_ = run(model, clips, names, out="cut", half_life=1.0)
    for name in ("csv", "tracks.csv"):
        assert (clips / f"cut.{name}").read_text() == (clips / f"whole.{name}").read_text()
    again, *_ = run(model, clips, names, out="cut", half_life=1.0)
    assert (again.images, again.done) == (0, 2)
    kept_rows = len(rows) - 1 if lines_left == -1 else lines_left
    assert len(rows) - 1 - kept_rows <= counts.faces <= len(rows) - kept_rows  # a frame is written as one
    assert (clips / "cut.csv").read_text() == (clips / "whole.csv").read_text()


def with_thresholds(model, thresholds):
    return dataclasses.replace(model.bundle, thresholds=thresholds)


def test_answers_below_the_threshold_are_unsure(model, clips):
    thresholds = {"age": {"0.1": 0.0}, "gender": {"0.1": 0.5001}, "emotion": {"0.1": None}}
    sure = certainty_lib.of_bundle(with_thresholds(model, thresholds), "0.1")
    _, frames, tracks = run(model, clips, ["a.mp4", "c.png"], out="x", half_life=math.inf, certainty=sure)
    assert len(frames) > 30 and len(tracks) == 2
    for row in frames + tracks:
        low = probabilities(row, model.bundle.tasks[1]).max() < 0.5001
        assert row["unsure"] == ("gender emotion" if low else "emotion")
    (note,) = sure.notes()
    assert note.startswith("emotion: always unsure")


def test_a_model_without_the_threshold_is_one_line(model):
    for thresholds, risk in (({}, "0.1"), ({"age": {"0.1": 0.5}}, "0.1"), ({"age": {"0.1": 0.5}}, "0.2")):
        with pytest.raises(UserError, match="no threshold of unsure answers") as error:
            certainty_lib.of_bundle(with_thresholds(model, thresholds), risk)
        assert "\n" not in str(error.value)


def test_thresholds_come_from_the_validation_rows_of_a_run(workdir, bundle, tmp_path):
    from softbio_jax.evaluation import predictions_csv
    from softbio_jax.evaluation.metrics import selective
    from softbio_jax.evaluation.metrics.calibration import with_temperature

    rows = predictions_csv.load(workdir / "eval" / "validation.csv")
    assert set(bundle.thresholds) == set(rows.tasks())
    for task in rows.tasks():
        labels, p = rows.labelled(task)
        assert bundle.thresholds[task] == selective.thresholds(
            labels, with_temperature(p, bundle.temperatures[task])
        )
    chosen = dataclasses.replace(bundle, thresholds={"age": {"0.1": 0.75, "0.01": None}})
    saved = bundle_lib.save(chosen, tmp_path / "model")
    assert bundle_lib.from_directory(saved).thresholds == chosen.thresholds
    assert bundle_lib.label(chosen) == bundle_lib.label(bundle)  # of a model saved before


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_tracks_in_the_other_formats(model, tmp_path, form):
    if form == "parquet":
        pq = pytest.importorskip("pyarrow.parquet", reason="the extra parquet")
    followed = Tracks(model.bundle, half_life=1.0)
    image = np.random.default_rng(0).integers(0, 256, (1, *[model.bundle.image_size] * 2, 3), np.uint8)
    for seconds in (0.0, 0.5):
        (prediction,) = model.predict_squares(list(image))
        face = Face(box=(10.0 * seconds, 0.0, 40.0, 40.0), confidence=1.0)
        own = followed.update(seconds, [dataclasses.replace(prediction, face=face)])
    assert lines(own[0])[0] == "face 0"
    path = tmp_path / f"t.{form}"
    for _ in range(2):  # the second opens it again
        table = open_table(
            path, stream=io.StringIO(), form=form, tasks=model.bundle.tasks, model="m", kind="tracks"
        )
        if not table.done("v.mp4"):
            table.write("v.mp4", None, followed.summary())
        table.finish()
    if form == "parquet":
        (row,) = pq.read_table(path).to_pylist()
        assert (row["track"], row["first"], row["last"], row["frames"]) == (0, 0.0, 0.5, 2)
    else:
        (line,) = path.read_text().splitlines()
        assert '"track": 0' in line and '"frames": 2' in line and '"last": 0.5' in line
