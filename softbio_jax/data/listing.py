"""Every file of a folder, for preparation and prediction: an image, a video, or left out and why."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import Literal

from softbio_jax.escaping import one_line

Kind = Literal["image", "video", "other"]

IMAGES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
    )
)
VIDEOS = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"))

# Files of cameras begin like a TIFF, which is a small preview.
_RAW = frozenset((".dng", ".nef", ".cr2", ".arw", ".orf", ".pef", ".rw2", ".srw"))

_IMAGE_STARTS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
)
_VIDEO_STARTS = (b"\x1a\x45\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3")
_HIDDEN = "hidden"
# Folders that macOS' archives, Synology's disks (small copies of the images) and recycle bins add.
_OF_SYSTEMS = frozenset(("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN"))
UNKNOWN = "not an image or video"  # the reason of a file whose contents are neither


@dataclasses.dataclass(frozen=True)
class Listed:
    """A file or folder; `reason` says why it is left out and is empty for images and videos."""

    path: str
    kind: Kind = "other"
    reason: str = ""


def walk(folder: str | os.PathLike[str]) -> Iterator[Listed]:
    """Yields every file below a folder, at any depth, in the order of the names.

    Links are followed, to each folder once. Names that start with a dot and the folders that systems
    add, such as `__MACOSX`, are hidden, with all that is inside. The contents decide what a file is
    where its name does not end like an image's.
    """
    yield from _walk(os.fspath(folder), set())


def kind_of(path: str | os.PathLike[str]) -> Kind:
    """Returns what a file is, by its first bytes, or by its name if it cannot be read."""
    suffix = pathlib.PurePath(path).suffix.lower()
    if suffix in IMAGES:  # whatever is wrong with it is found by the decoder
        return "image"
    if suffix in _RAW:
        return "other"
    start = _start(path)
    if starts_like_image(start):
        return "image"
    is_mp4 = start[4:8] == b"ftyp" and start[8:12] not in (b"heic", b"heix", b"mif1", b"msf1", b"hevc")
    is_avi = start[:4] == b"RIFF" and start[8:12] == b"AVI "
    if suffix in VIDEOS or is_mp4 or is_avi or start.startswith(_VIDEO_STARTS):
        return "video"
    return "other"


def starts_like_image(start: bytes) -> bool:
    """Returns whether the first 32 bytes of a file are those of a format that is read."""
    if start.startswith(_IMAGE_STARTS):
        return True
    if start[:4] == b"RIFF":
        return start[8:12] == b"WEBP"
    if start[:2] == b"BM":  # its own header follows, of one of these lengths
        return int.from_bytes(start[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)
    if start[4:8] == b"ftyp":
        return start[8:12] in (b"avif", b"avis")
    return start[:1] == b"P" and start[1:2] in b"123456f" and start[2:3] in (b"\n", b" ", b"\t", b"\r")


def is_hidden(name: str) -> bool:
    """Returns whether a file's or folder's own name is a hidden one."""
    return name.startswith(".") or name in _OF_SYSTEMS


def name_problem(name: str) -> str:
    """Returns why a table cannot hold a name, or ""."""
    return "a line break in its name" if "\n" in name or "\r" in name else ""


def shown(name: str) -> str:
    r"""Returns a name that can be printed: what is not UTF-8 as \xe9, line breaks as \n."""
    return one_line(name)


def _walk(folder: str, entered: set[tuple[int, int]]) -> Iterator[Listed]:
    try:
        about = os.stat(folder)
        if (about.st_dev, about.st_ino) in entered:
            yield Listed(folder, reason="a folder that was read before")
            return
        entered.add((about.st_dev, about.st_ino))
        names = sorted(os.listdir(folder))
    except OSError as error:
        yield Listed(folder, reason=f"cannot be read: {error.strerror}")
        return
    for name in names:
        path = os.path.join(folder, name)
        if is_hidden(name):
            yield from _hidden(path)
        elif os.path.isdir(path):
            yield from _walk(path, entered)
        else:
            yield _listed(path)


def _hidden(path: str) -> Iterator[Listed]:
    if not os.path.isdir(path) or os.path.islink(path):
        yield Listed(path, reason=_HIDDEN)
    for parent, _, names in os.walk(path):
        yield from (Listed(os.path.join(parent, name), reason=_HIDDEN) for name in sorted(names))


def _listed(path: str) -> Listed:
    kind = kind_of(path)
    if kind != "other":  # by its name alone if it is no file, which is reported when it is read
        return Listed(path, kind)
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return Listed(path, reason="a link to nothing")
    return Listed(path, reason=UNKNOWN if is_file else "a pipe or a device")


def _start(path: str | os.PathLike[str]) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return b""
        with open(path, "rb") as file:
            return file.read(32)
    except (OSError, ValueError):  # reported when it is read
        return b""
