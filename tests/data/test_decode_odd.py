"""Images as other programs write them: turned, deep, in other colours, moving or damaged."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from softbio_jax.data import decode
from softbio_jax.data.drawing import synthetic
from softbio_jax.errors import UserError
from softbio_jax.inference import images
from tests.data.trees import encode

_UPRIGHT = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8).repeat(8, 0).repeat(8, 1)


def written(image, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def segment(body, marker=0xE1):
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


@pytest.fixture(scope="module")
def face():
    return synthetic.draw("synthetic_fairface", "test", 3, size=224, seed=5).image


def turned(kind, orientation=6):
    exif = Image.Exif()
    exif[274] = orientation
    return written(np.rot90(_UPRIGHT), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))


XMP = segment(b"http://ns.adobe.com/xmp/extension/\0" + bytes(40) + b"<x/>" * 12000)
BEFORE = {
    "nothing": b"",
    "a long XMP block": XMP,
    "three of them": 3 * XMP,
    "a colour profile": segment(b"ICC_PROFILE\0\1\1" + bytes(9000), 0xE2),
    "a comment and fill bytes": segment(b"x" * 5000, 0xFE) + b"\xff\xff",
    "bytes between segments": segment(b"x" * 5000, 0xFE) + b"\0\0",
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_exif_counts_wherever_it_stands(before):
    data = turned("JPEG")
    moved = data[:2] + before + data[2:]
    np.testing.assert_array_equal(decode.decode_full(moved), decode.decode_full(data))
    assert np.abs(decode.decode_full(moved).astype(int) - _UPRIGHT).mean() < 20


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_exif_of_other_formats(kind):
    data = turned(kind)
    assert decode.decode_full(data).shape == _UPRIGHT.shape
    np.testing.assert_array_equal(images.pixels(Image.open(io.BytesIO(data))), decode.decode_full(data))


def test_a_broken_exif_block_is_ignored():
    plain = written(_UPRIGHT, "PNG")
    broken = written(_UPRIGHT, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\1")
    np.testing.assert_array_equal(decode.decode_full(broken), decode.decode_full(plain))


def test_every_way_of_giving_an_image_is_the_same(tmp_path, monkeypatch, face):
    deep = face[..., 0].astype(np.uint16) * 257
    for data in (written(deep, "PNG"), turned("JPEG"), encode(4, mode="CMYK")):
        path = tmp_path / "image"
        path.write_bytes(data)
        expected = decode.decode_full(data)
        with path.open("rb") as file:
            file.read(5)
            monkeypatch.setenv("HOME", str(tmp_path))
            given = [path, str(path), "~/image", data, bytearray(data), memoryview(data), file]
            given += [io.BytesIO(data), Image.open(io.BytesIO(data)), Image.open(path)]
            for image in given:
                (one,) = images.as_list(image)
                np.testing.assert_array_equal(images.pixels(one), expected)
            assert file.tell() == 5


@pytest.mark.parametrize("image", [None, 3, object(), {"a": 1}.get])
def test_what_is_no_image_is_told(image):
    with pytest.raises(UserError, match=r"not an image: images: .*found"):
        images.as_list(image)
    with pytest.raises(UserError, match=r"not an image: images\[0\]: .*found"):
        images.pixels(image, where="images[0]")


def test_unreadable_ones_are_told(tmp_path):
    (tmp_path / "x.txt").write_text("a")
    with (tmp_path / "x.txt").open() as text, pytest.raises(UserError, match="not in mode 'rb'"):
        images.pixels(text)
    with pytest.raises(UserError, match="cannot read the image"):
        images.pixels(text)  # closed
    broken = Image.open(io.BytesIO(encode(3, size=(64, 64))[:-400]))
    with pytest.raises(UserError, match="truncated"):
        images.pixels(broken, where="images[0]")
    for name in ("a\0b.jpg", "/dev/zero", str(tmp_path)):
        with pytest.raises(UserError, match="cannot read the image"):
            images.pixels(name)


_RAMP = np.linspace(0, 1, 32 * 32).reshape(32, 32)
DEEP = {
    "16 bits": ((_RAMP * 65535).astype(np.uint16), "PNG"),
    "16 bits, TIFF": ((_RAMP * 65535).astype(np.uint16), "TIFF"),
    "32 bits, small": ((_RAMP * 65535).astype(np.int32), "TIFF"),
    "32 bits, large": ((_RAMP * 2e9).astype(np.int32), "TIFF"),
    "floats to 1": (_RAMP.astype(np.float32), "TIFF"),
    "floats a little over 1": ((_RAMP * 1.02).astype(np.float32), "TIFF"),
    "floats to 255": ((_RAMP * 255).astype(np.float32), "TIFF"),
    "floats to 65535": ((_RAMP * 65535).astype(np.float32), "TIFF"),
    "floats of -1 to 1": ((_RAMP * 2 - 1).astype(np.float32), "TIFF"),
}


@pytest.mark.parametrize(("values", "kind"), DEEP.values(), ids=DEEP)
def test_deep_grey_is_scaled(values, kind):
    data = written(values, kind)
    grey = decode.decode_full(data)
    assert np.abs(grey[..., 0] - _RAMP * 255).max() < 6
    np.testing.assert_array_equal(images.pixels(Image.open(io.BytesIO(data))), grey)


def test_deep_grey_made_in_memory_keeps_eight_bits_and_nan_is_refused():
    grey = Image.fromarray((_RAMP * 255).astype(np.uint8))
    for mode in ("I", "F"):
        np.testing.assert_array_equal(images.pixels(grey.convert(mode))[..., 0], np.asarray(grey))
    broken = _RAMP.astype(np.float32).copy()
    broken[3, 3] = np.nan
    with pytest.raises(decode.UndecodableImage, match="not finite"):
        decode.decode_full(written(broken, "TIFF"))


def test_ycck_is_read_as_pillow_reads_it():
    data = encode(5, mode="CMYK", quality=95)
    ycck = data.replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2")
    assert ycck != data
    for one in (data, ycck):
        expected = np.asarray(Image.open(io.BytesIO(one)).convert("RGB"))
        np.testing.assert_array_equal(decode.decode_full(one), expected)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_used(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    assert np.abs(decode.decode_full(buffer.getvalue())[8, 8].astype(int) - (255, 0, 0)).max() < 4


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"exif": 6}])
@pytest.mark.parametrize("quality", [75, 95])
def test_a_jpeg_that_was_cut_and_closed_is_refused(face, options, quality):
    if "exif" in options:
        options = {"exif": Image.Exif()}
        options["exif"][274] = 6
    data = written(face, "JPEG", quality=quality, **options)
    decode.decode_full(data)
    for share in (0.3, 0.5, 0.9, 0.98):
        with pytest.raises(decode.UndecodableImage):
            decode.decode_full(data[: int(len(data) * share)] + b"\xff\xd9", at_least=56)


@pytest.mark.parametrize("length", [48, 256, 512, 4096])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_with_a_zeroed_middle_is_refused(face, length, mode):
    buffer = io.BytesIO()
    Image.fromarray(face).convert(mode).save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    for share in (0.3, 0.5, 0.7):
        at = int(len(data) * share)
        with pytest.raises(decode.UndecodableImage, match=r"damaged|truncated|broken"):
            decode.decode_full(data[:at] + bytes(min(length, len(data) - at - 99)) + data[at + length :])


def test_harmless_additions_are_accepted(face):
    data = written(face, "JPEG", quality=90)
    whole = decode.decode_full(data)
    for other in (data + bytes(600), data + b"trailer", data[:-2] + bytes(12) + data[-2:], data + data):
        np.testing.assert_array_equal(decode.decode_full(other), whole)


def test_whole_jpegs_with_plain_areas_are_accepted():
    page = np.zeros((256, 256, 3), np.uint8)
    page[100:150, 100:150] = 200
    for options in ({}, {"optimize": True}, {"progressive": True}, {"subsampling": 0}):
        assert decode.decode_full(written(page, "JPEG", **options)).shape == page.shape


def test_images_that_only_a_program_can_draw_are_refused():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with pytest.raises(decode.UndecodableImage):
        decode.decode_full(eps)


@pytest.mark.parametrize("size", [(0, 0), (0, 4), (4, 0)])
def test_pil_images_without_pixels_are_refused(size):
    with pytest.raises(decode.UndecodableImage, match="no pixels"):
        decode.from_pil(Image.new("RGB", size))
