import io
import os

import numpy as np
import pytest
from PIL import Image

from softbio_jax.data import listing, sources
from softbio_jax.data.prepare import prepare
from tests.data.trees import encode, write_image

LATIN1 = os.fsdecode(b"caf\xe9.jpg")


def image(kind):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF"])
@pytest.mark.parametrize("name", ["a", "a.dat", "a.mp4", "a.jpg", "a.txt"])
def test_contents_decide(tmp_path, kind, name):
    (tmp_path / name).write_bytes(image(kind))
    assert listing.kind_of(tmp_path / name) == "image"


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.jfif", b"", "image"),
        ("a.PGM", b"", "image"),
        ("a", b"\0\0\0\x18ftypmp42", "video"),
        ("a.bin", b"\x1a\x45\xdf\xa3....", "video"),
        ("a.MOV", b"anything", "video"),
        ("a", b"", "other"),
        ("a.txt", b"Perhaps this is a text", "other"),
        ("a.txt", b"BM is what it begins with", "other"),
        ("a.heic", b"\0\0\0\x18ftypheic", "other"),
        ("a.nef", b"MM\0*\0\0\0\x08", "other"),
        ("a.csv", b"file,age\n", "other"),
    ],
)
def test_names_decide_only_without_known_contents(tmp_path, name, data, kind):
    (tmp_path / name).write_bytes(data)
    assert listing.kind_of(tmp_path / name) == kind


@pytest.fixture
def tree(tmp_path):
    """A class folder with one of everything: five images, and what is none."""
    folder = tmp_path / "raw" / "train" / "happy"
    write_image(folder / "0.jpg", 0)
    write_image(folder / "subject" / "deep" / "1.jpg", 1)
    (folder / "noext").write_bytes(encode(2))
    (folder / "p.pgm").write_bytes(b"P5 4 4 255\n" + bytes(range(16)))
    (folder / "linked.jpg").symlink_to("0.jpg")
    elsewhere = tmp_path / "elsewhere"
    write_image(elsewhere / "5.jfif", 5, kind="JPEG")
    (folder / "link").symlink_to(elsewhere, target_is_directory=True)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "nothing").symlink_to("gone")
    write_image(folder / ".ipynb_checkpoints" / "0.jpg", 0)
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "x.jpg").write_bytes(b"x")
    (folder / "sub" / "@eaDir" / "1.jpg").mkdir(parents=True)
    (folder / "sub" / "@eaDir" / "1.jpg" / "SYNOPHOTO_THUMB_XL.jpg").write_bytes(b"x")
    (folder / "._0.jpg").write_bytes(b"\0\5\x16\7")
    (folder / "notes.txt").write_text("notes")
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    return folder


LEFT_OUT = {
    "._0.jpg": "hidden",
    ".ipynb_checkpoints/0.jpg": "hidden",
    "__MACOSX/x.jpg": "hidden",
    "sub/@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg": "hidden",
    "loop": "a folder that was read before",
    "notes.txt": "not an image or video",
    "nothing": "a link to nothing",
    "pipe": "a pipe or a device",
    "zero": "a pipe or a device",
}
KEPT = ["0.jpg", "link/5.jfif", "linked.jpg", "noext", "p.pgm", "subject/deep/1.jpg"]


def test_every_file_is_accounted_for(tree):
    found = {os.path.relpath(one.path, tree): one for one in listing.walk(tree)}
    assert {name: one.reason for name, one in found.items() if one.reason} == LEFT_OUT
    assert [name for name, one in found.items() if not one.reason] == KEPT


def test_names_that_no_table_can_hold(tree):
    assert listing.name_problem("é ü.jpg") == ""
    assert listing.name_problem(LATIN1) == ""  # it is read; only its bytes are written otherwise
    assert listing.name_problem("a\rb") == listing.name_problem("a\nb") == "a line break in its name"
    assert listing.shown(LATIN1) == r"caf\xe9.jpg" and listing.shown("a\nb") == r"a\nb"


def test_preparation_accounts_for_the_same_files(tree, tmp_path):
    write_image(tree.parent / "sad" / "0.jpg", 7)
    (tree.parent / "labels.csv").write_text("x")
    for name in (LATIN1, "a\nb.jpg"):
        (tree / name).write_bytes(encode(8))
    os.mkfifo(tree / "pipe.jpg")
    (tree / "zero.png").symlink_to("/dev/zero")
    (tree / "gone.png").symlink_to("gone")
    (tree / "digits.ppm").write_bytes(b"P6\n" + b"9" * 5000 + b" 1\n255\n")
    report = prepare.prepare(
        "folder", source=str(tmp_path / "raw"), out=tmp_path / "out", task="emotion", max_rejected=0.5
    )
    train = report["splits"]["train"]
    happy = {f"train/happy/{name}: {reason}" for name, reason in LEFT_OUT.items()}
    assert set(train["files_left_out"]) == happy | {"train/labels.csv: not in the folder of a class"}
    (digits,) = (row["reason"] for row in train["rejected_rows"] if "digits" in row["path"])
    assert {(row["path"], row["reason"]) for row in train["rejected_rows"]} == {
        ("train/happy/a\\nb.jpg", "a line break in its name"),
        ("train/happy/pipe.jpg", "cannot be read: a pipe or a device, not a file"),
        ("train/happy/zero.png", "cannot be read: a pipe or a device, not a file"),
        ("train/happy/gone.png", "no such file"),
        ("train/happy/digits.ppm", digits),
    }
    ids = sources.open_prepared(tmp_path / "out", "train").columns["id"]
    others = {"train/sad/0.jpg", "train/happy/caf\\xe9.jpg"}
    assert set(ids) == {f"train/happy/{name}" for name in KEPT} | others
    assert train["rows_read"] == len(ids) + 5 + len(LEFT_OUT) + 1


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_image(tmp_path / "raw" / "train" / "male" / "0.jpg", 0)
    prepare.prepare("folder", source="~/raw", out="~/data/out", task="gender")
    assert len(sources.open_prepared("~/data/out", "train")) == 1
    assert prepare.read_report("~/data/out")["splits"]["train"]["kept"] == 1
