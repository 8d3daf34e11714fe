import io
import pathlib

import cv2
import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.inference.bulk import inputs, videos
from softbio_jax.inference.bulk.videos import Pace


def expand(*arguments, stdin=""):
    return list(inputs.expand(arguments, stdin=io.StringIO(stdin)))


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("b.JPG", "a.png", "deep/er/c.webp", "deep/clip.mp4", "notes.txt", "[x].jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)


def test_files_folders_globs_and_lists(tree):
    everything = ["in/[x].jpg", "in/a.png", "in/b.JPG", "in/deep/clip.mp4", "in/deep/er/c.webp"]
    assert expand("in") == everything
    assert expand("in/**/*.webp", "in/*.png") == ["in/deep/er/c.webp", "in/a.png"]
    assert expand("in/notes.txt", "missing.jpg") == ["in/notes.txt", "missing.jpg"]
    assert expand("in/[x].jpg") == ["in/[x].jpg"]  # a file's name before a pattern
    assert expand("-", stdin="in/a.png\r\n\nin/with space.jpg\n") == ["in/a.png", "in/with space.jpg"]
    assert expand("in/a.png", "in", "in/*.png", "-", stdin="in/a.png\n") == [
        "in/a.png",
        *(name for name in everything if name != "in/a.png"),
    ]


@pytest.mark.parametrize("argument", ["empty", "in/*.gif"])
def test_nothing_where_something_was_named(tree, argument):
    with pytest.raises(UserError, match=argument.replace("*", r"\*")):
        expand(argument)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Three seconds of ten frames, each of its own grey."""
    path = str(tmp_path_factory.mktemp("clip") / "clip.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for i in range(30):
        writer.write(np.full((48, 64, 3), 8 * i, np.uint8))
    writer.release()
    return path


def taken(clip, text, **options):
    """The numbers of the frames used, by their grey, and their times."""
    found = [(round(f.mean() / 8), s) for s, f in videos.frames(clip, Pace.parse(text), **options)]
    assert [number / 10 for number, _ in found] == pytest.approx([s for _, s in found])
    return [number for number, _ in found]


def test_frames_at_a_pace(clip):
    assert taken(clip, "10") == [0, 10, 20]
    assert taken(clip, "1s") == [0, 10, 20]
    assert taken(clip, "0.25s") == [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28]
    assert taken(clip, "7", after=1.4) == [21, 28]
    assert taken(clip, "100s", after=2.9) == []


def test_what_is_no_video_or_no_pace(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"x\.mp4"):
        list(videos.frames(str(tmp_path / "x.mp4"), Pace.parse("1")))
    for text in ("0", "0s", "-1", "s", "1m", ""):
        with pytest.raises(UserError, match="bad pace"):
            Pace.parse(text)


def test_every_file_of_a_folder_is_read_or_left_out(tree, monkeypatch, tmp_path):
    for name in (".hidden.jpg", ".git/x.jpg", "__MACOSX/._a.png", "._a.png", "deep/.b/c.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "in" / "photo").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "in" / "clip.jfif").write_bytes(b"\xff\xd8\xff\xe0")
    told = []
    found = list(inputs.expand(["in"], stdin=io.StringIO(), leave_out=lambda *what: told.append(what)))
    everything = [*expand("in/*.JPG"), "in/[x].jpg", "in/a.png", "in/clip.jfif", "in/photo"]
    assert sorted(found) == sorted([*everything, "in/deep/clip.mp4", "in/deep/er/c.webp"])
    hidden = ("in/.git/x.jpg", "in/.hidden.jpg", "in/._a.png", "in/__MACOSX/._a.png", "in/deep/.b/c.png")
    assert sorted(told) == sorted(
        [*((name, "hidden") for name in hidden), ("in/notes.txt", "not an image or video")]
    )
    list(inputs.expand(["in/*"], stdin=io.StringIO(), leave_out=lambda *what: told.append(what)))
    assert ("in/deep", "a folder") in told
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("~/in/a.png", "~/in/*.png", "-", stdin="~/in/a.png\n") == [f"{tmp_path}/in/a.png"]


def test_a_video_is_one_by_its_contents(tmp_path, clip):
    (tmp_path / "clip").write_bytes(pathlib.Path(clip).read_bytes())
    (tmp_path / "photo.mp4").write_bytes(b"\xff\xd8\xff\xe0")
    assert inputs.is_video(str(tmp_path / "clip")) and not inputs.is_video(str(tmp_path / "photo.mp4"))
