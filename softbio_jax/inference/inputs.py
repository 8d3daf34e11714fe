"""Expands the inputs of a command line to image and video files."""

from __future__ import annotations

import glob
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import TextIO

from softbio_jax.errors import UserError

IMAGES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"))
VIDEOS = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"))
STDIN = "-"


def expand(arguments: Iterable[str], *, stdin: TextIO) -> Iterator[str]:
    """Yields every file that the arguments name, once, in order and as soon as it is known.

    Args:
      arguments: files; folders, searched at any depth for images and videos, sorted; globs (`**` for
        any depth), unless a file has that name; "-" for a list on stdin, one file per line.

    Raises:
      UserError: a glob or a folder without an image or video.
    """
    seen: set[str] = set()
    for argument in arguments:
        listed = (line.rstrip("\r\n") for line in stdin if line.strip())
        for name in listed if argument == STDIN else _expanded(argument):
            if name not in seen:
                seen.add(name)
                yield name


def is_video(name: str) -> bool:
    """Returns whether a file is a video, by the end of its name."""
    return pathlib.Path(name).suffix.lower() in VIDEOS


def _expanded(argument: str) -> list[str]:
    if os.path.isdir(argument):
        return _listed(argument)
    if glob.has_magic(argument) and not os.path.exists(argument):
        found = sorted(name for name in glob.glob(argument, recursive=True) if os.path.isfile(name))
        if not found:
            raise UserError(
                "no file", where=argument, expected="a match", found="none", fix="correct the pattern"
            )
        return found
    return [argument]


def _listed(folder: str) -> list[str]:
    found = [
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if pathlib.Path(name).suffix.lower() in IMAGES | VIDEOS
    ]
    if not found:
        raise UserError(
            "no image or video",
            where=folder,
            expected=f"names ending in {', '.join(sorted(IMAGES | VIDEOS))}",
            found="none",
            fix="name the files themselves",
        )
    return sorted(found)
