"""Images that are made to run a program, to take all memory, or to take forever."""

import ast
import contextlib
import io
import os
import stat
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from softbio_jax.data import decode, faces
from softbio_jax.data.faces import Face
from tests.structure import PACKAGE, SCRIPTS, python_files

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\n%%EndComments\n0 0 48 48 rectfill\n%%EOF\n"
PREVIEW = struct.pack("<IIIIIIIH", 0xC6D3D0C5, 30, len(EPS), 0, 0, 0, 0, 0) + EPS  # the DOS form
PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n"
WMF = b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hH", 0, 0, 48, 48, 96) + bytes(6) + b"\1\0\t\0\0\3" + bytes(40)
EMF = struct.pack("<II", 1, 108) + bytes(32) + b" EMF" + bytes(64)
FLI = struct.pack("<IHHHHH", 200, 0xAF12, 2, 48, 48, 8) + bytes(200)
PSD = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 48, 48, 8, 3) + bytes(100)
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
STRANGERS = {
    "eps": EPS,
    "dos": PREVIEW,
    "pdf": PDF,
    "wmf": WMF,
    "emf": EMF,
    "fli": FLI,
    "psd": PSD,
    "svg": SVG,
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_other_formats_are_refused_and_run_no_program(tmp_path, monkeypatch, kind):
    log = tmp_path / "log"
    for name in ("gs", "gswin64c", "convert", "rsvg-convert"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho run >> {log}\n[ $1 = --version ] && echo 10.0\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(decode.UndecodableImage):
        decode.decode_full(STRANGERS[kind])
    assert decode.size_of(STRANGERS[kind]) is None
    assert not log.exists()


def test_pillow_itself_would_open_some_of_them():
    """The list of formats matters: without it these are images."""
    assert Image.open(io.BytesIO(EPS)).format == "EPS"
    assert Image.open(io.BytesIO(PREVIEW)).format == "EPS"
    assert Image.open(io.BytesIO(WMF)).format == "WMF"


def opens_of(path):
    """Yields the calls of PIL's Image.open in a file, by whatever name its module has there."""
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "PIL":
            names |= {alias.asname or alias.name for alias in node.names if alias.name == "Image"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        of = node.func.value
        named = isinstance(of, ast.Name) and of.id in names
        dotted = isinstance(of, ast.Attribute) and ast.unparse(of) == "PIL.Image"
        if node.func.attr == "open" and (named or dotted):
            yield node


def test_every_image_is_opened_with_a_list_of_formats():
    found = {}
    for path in python_files(PACKAGE) + python_files(SCRIPTS):
        for call in opens_of(path):
            found[f"{path.name}:{call.lineno}"] = any(k.arg == "formats" for k in call.keywords)
    assert len(found) >= 4  # the decoder's two, and the benchmarks'
    assert [place for place, listed in found.items() if not listed] == []


def png(width, height, *chunks, rows=b"", colour=0):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    body = b"".join(chunk(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


BOMB = zlib.compress(bytes(80 << 20), 9)
BOMBS = {
    "itxt": png(8, 8, (b"iTXt", b"a\0\1\0\0\0" + BOMB), rows=bytes(9 * 8)),
    "ztxt": png(8, 8, (b"zTXt", b"a\0\0" + BOMB), rows=bytes(9 * 8)),
    "profile": png(8, 8, (b"iCCP", b"a\0\0" + BOMB), rows=bytes(9 * 8)),
    "rows": png(8, 8, rows=bytes(80 << 20)),
    "many texts": png(8, 8, *[(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20), 9))] * 100, rows=bytes(72)),
    "declared": png(50_000, 50_000),
    "wide": png(2**31 - 1, 1),
}


def gif(width, height, frames):
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2D\1\0"
    return head + frame * frames + b";"


BOMBS["animation"] = gif(8, 8, 100_000)
BOMBS["screen"] = gif(65_535, 65_535, 1)


def tiff(entries):
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + body + bytes(4)


_SHAPE = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
BOMBS["tags"] = tiff([*_SHAPE, (270, 2, 2**32 - 1, 8), (273, 4, 2**32 - 1, 8), (279, 4, 2**31, 8)])
BOMBS["samples"] = tiff([*_SHAPE, (277, 3, 1, 60_000)])
BOMBS["loop"] = b"II*\0" + struct.pack("<IHI", 8, 0, 8)


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_decoded_or_refused_in_little_memory(kind):
    peak = in_child(f"decode.decode_full(BOMBS[{kind!r}])")
    assert peak < 250, f"{peak} MiB"


def in_child(work):
    """Returns how much memory (MiB) a piece of work takes, in a process of its own."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.close(read)
            os.write(write, str(memory_of(work)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return float(text)


def memory_of(work):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(decode.UndecodableImage):
        exec(work, globals())
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def test_a_jpeg_of_very_many_scans_is_refused():
    image = io.BytesIO()
    Image.fromarray(np.zeros((4000, 4000), np.uint8)).save(image, "jpeg", progressive=True)
    data = image.getvalue()
    start = data.rindex(b"\xff\xda")
    with pytest.raises(decode.UndecodableImage, match="scans"):
        decode.decode_full(data[:start] + data[start:-2] * 1000 + b"\xff\xd9")
    assert decode.decode_full(data).shape == (4000, 4000, 3)


def test_interlaced_and_thin_images_are_images():
    noise = np.random.default_rng(0).integers(0, 256, (60_000, 1, 3), np.uint8)
    thin = io.BytesIO()
    Image.fromarray(noise).save(thin, "png")
    np.testing.assert_array_equal(decode.decode_full(thin.getvalue()), noise)
    assert decode.decode(thin.getvalue(), size=32).shape == (32, 32, 3)


def test_all_threads_of_a_process_share_one_budget(monkeypatch):
    held = []

    class Recording(decode.PixelBudget):
        def hold(self, pixels):
            held.append(pixels)
            return super().hold(pixels)

    monkeypatch.setattr(decode, "_DECODING", Recording(decode.MAX_PIXELS))
    image = Image.fromarray(np.zeros((70, 50, 3), np.uint8))
    for kind in ("jpeg", "png", "gif", "bmp"):
        file = io.BytesIO()
        image.save(file, kind)
        for take in (decode.decode_full, lambda data: decode.decode(data, size=8, resize="squash")):
            held.clear()
            take(file.getvalue())
            assert held == [3500], kind


def test_grey_of_more_than_8_bits_is_scaled_by_rows():
    values = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "png")
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode.decode_full(file.getvalue())[..., 0], expected)
    for constant in (-5.0, 0.0, 1e30):
        file = io.BytesIO()
        Image.fromarray(np.full((4, 4), constant, np.float32)).save(file, "tiff")
        assert decode.decode_full(file.getvalue()).shape == (4, 4, 3)


@pytest.mark.parametrize("box", [(0, 0, 1, 60_000), (0, 0, 1e6, 1e6), (-1e7, 0, 1, 1e7)])
def test_a_box_larger_than_any_image_is_refused(box):
    image = np.zeros((60_000, 1, 3), np.uint8)
    with pytest.raises(decode.UndecodableImage, match="too large"):
        faces.square_crop(image, Face(box=box, confidence=1.0))


def test_truncated_images_are_never_completed():
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
