import io

import numpy as np
import pytest
from PIL import Image

from softbio_jax.data import decode
from tests.data.trees import encode


def _pil(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_jpeg_equals_pillow():
    data = encode(1, size=(60, 40), quality=90)
    np.testing.assert_array_equal(decode.decode_full(data), _pil(data))


@pytest.mark.parametrize("size", [(48, 48), (90, 50), (336, 200), (500, 700)])
def test_fast_resize_stays_close_to_the_reference(size):
    data = encode(2, size=size, quality=95)
    fast = decode.decode(data, size=48).astype(int)
    exact = decode.decode(data, size=48, resize="squash").astype(int)
    assert fast.shape == (48, 48, 3)
    assert np.abs(fast - exact).mean() < 1.5


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_reference_is_pillow_resized_before_the_conversion(mode):
    data = encode(3, size=(70, 50), mode=mode, kind="PNG")
    image = Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.BILINEAR)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode.decode(data, size=32, resize="squash"), expected)


def test_the_middle_keeps_the_aspect_ratio():
    # A circle in the middle of a wide image stays one, and what is left and right of it goes.
    rows, columns = np.mgrid[:60, :120]
    pixels = np.full((60, 120, 3), 255, np.uint8)
    pixels[(rows - 29.5) ** 2 + (columns - 59.5) ** 2 < 20**2] = 0
    pixels[:, :25] = pixels[:, -25:] = (255, 0, 0)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    found = decode.decode(file.getvalue(), size=30, resize="center")
    assert found.shape == (30, 30, 3) and (found[..., 1] > 200).mean() == pytest.approx(0.65, abs=0.04)
    dark = found[..., 0] < 128
    np.testing.assert_array_equal(dark, dark.T)
    assert dark.any(axis=0).sum() == pytest.approx(20, abs=1)


def test_a_strip_has_no_middle():
    data = encode(1, size=(100_000, 2), kind="PNG")
    with pytest.raises(decode.UndecodableImage, match="too elongated: 2x100000"):
        decode.decode(data, size=336, resize="center")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "TIFF", "GIF"])
def test_other_formats(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(4, size=(32, 32), kind=kind, **options)
    np.testing.assert_array_equal(decode.decode(data, size=32), _pil(data))


def test_grey_and_cmyk_jpeg():
    grey = encode(5, size=(32, 32), mode="L")
    cmyk = encode(5, size=(32, 32), mode="CMYK", quality=95)
    np.testing.assert_array_equal(decode.decode(grey, size=32), _pil(grey))
    np.testing.assert_array_equal(decode.decode(cmyk, size=32), _pil(cmyk))


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    decoded = decode.decode(buffer.getvalue(), size=32)
    np.testing.assert_array_equal(decoded[..., 0], np.rint(values / 257.0).astype(np.uint8))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_rotation_is_applied(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    upright = encode(6, size=(40, 20), quality=95)
    turned = encode(6, size=(40, 20), quality=95, exif=exif)
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    np.testing.assert_array_equal(decode.decode_full(turned), np.rot90(decode.decode_full(upright), turns))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated(kind):
    data = encode(7, size=(64, 64), kind=kind)
    with pytest.raises(decode.UndecodableImage):
        decode.decode(data[: len(data) // 2], size=32)


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "empty file"), (b"file,age\n", "not an image"), (b"\xff\xd8\xff", "truncated")]
)
def test_no_image_at_all(data, reason):
    with pytest.raises(decode.UndecodableImage, match=reason):
        decode.decode(data, size=32)


def test_huge_images_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 1000)
    for kind in ("JPEG", "PNG"):
        with pytest.raises(decode.UndecodableImage, match="too large: 50x40"):
            decode.decode(encode(8, size=(40, 50), kind=kind), size=32)
