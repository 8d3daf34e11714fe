"""What a command line names, as a stream of picture and video files."""

from __future__ import annotations

import glob
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import TextIO

from softbio_jax.errors import UserError

PICTURES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"))
VIDEOS = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"))
STDIN = "-"


def expand(arguments: Iterable[str], *, stdin: TextIO) -> Iterator[str]:
    """Yields every file that the arguments name, each once, as it is come to.

    Args:
      arguments: files; folders, whose pictures and videos are taken at any depth, sorted; globs
        (`**` for any depth) that no file is named like; "-" for a list on stdin, a file a line.
      stdin: where "-" reads.

    Raises:
      UserError: a glob or a folder without a picture or video.
    """
    seen: set[str] = set()
    for argument in arguments:
        names = _lines(stdin) if argument == STDIN else _expanded(argument)
        for name in names:
            if name not in seen:
                seen.add(name)
                yield name


def is_video(name: str) -> bool:
    """Tells videos from pictures by the end of their names."""
    return pathlib.Path(name).suffix.lower() in VIDEOS


def _expanded(argument: str) -> list[str]:
    if os.path.isdir(argument):
        return _listed(argument)
    if glob.has_magic(argument) and not os.path.exists(argument):
        found = sorted(name for name in glob.glob(argument, recursive=True) if os.path.isfile(name))
        if not found:
            raise UserError(
                "no file",
                where=argument,
                expected="a glob that matches some",
                found="none",
                fix="correct the pattern",
            )
        return found
    return [argument]


def _listed(folder: str) -> list[str]:
    found = [
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if pathlib.Path(name).suffix.lower() in PICTURES | VIDEOS
    ]
    if not found:
        raise UserError(
            "no picture or video",
            where=folder,
            expected=f"names ending in {', '.join(sorted(PICTURES | VIDEOS))}",
            found="none",
            fix="name the files themselves",
        )
    return sorted(found)


def _lines(stdin: TextIO) -> Iterator[str]:
    return (line.rstrip("\r\n") for line in stdin if line.strip())
