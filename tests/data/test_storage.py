import numpy as np
import pytest

from softbio_jax.data import decode, sources
from softbio_jax.data.prepare import storage
from softbio_jax.data.prepare.rows import Row
from softbio_jax.errors import UserError
from tests.data.trees import encode, prepared_split

ROW = Row(id="a", image=b"", labels={})


def test_source_bytes_are_kept_as_they_are():
    data = encode(1)
    assert storage.Storage()(ROW, data) is data


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_lossless_encodings_hold_the_resized_pixels(encoding):
    data = encode(2, size=(50, 70))
    stored = storage.Storage(image_size=32, encoding=encoding)(ROW, data)
    expected = decode.decode(data, size=32)
    np.testing.assert_array_equal(decode.decode(stored, size=32), expected)


def test_jpeg_stays_close_to_the_resized_pixels():
    data = encode(3, size=(50, 70))
    stored = storage.Storage(image_size=32, encoding="jpeg")(ROW, data)
    expected = decode.decode(data, size=32).astype(int)
    assert np.abs(decode.decode(stored, size=32) - expected).mean() < 2


def test_raw_images_open_in_other_programs():
    import io

    from PIL import Image

    image = decode.decode_full(encode(4))
    opened = Image.open(io.BytesIO(storage.encode(image, "raw")))
    np.testing.assert_array_equal(np.asarray(opened), image)


@pytest.mark.parametrize("cut", [10, 400])
def test_truncated_raw_images(cut):
    with pytest.raises(decode.UndecodableImage):
        decode.decode_full(storage.encode(decode.decode_full(encode(4)), "raw")[:cut])


def test_pre_resized_records(prepared, tmp_path):
    dataset, _ = prepared_split(
        "fairface",
        prepared / "raw_faces",
        tmp_path / "out",
        "train",
        storage=storage.Storage(image_size=16, encoding="raw"),
    )
    original = sources.open_prepared(prepared / "faces", "train")
    for example in range(3):
        np.testing.assert_array_equal(
            decode.decode(dataset[example], size=16), decode.decode(original[example], size=16)
        )
    # The fingerprint covers what is stored, not only the images that the source had.
    assert dataset.fingerprint != original.fingerprint


@pytest.mark.parametrize("options", [{"image_size": 0}, {"quality": 0}, {"quality": 101}])
def test_impossible_choices(options):
    with pytest.raises(UserError):
        storage.Storage(**options)
