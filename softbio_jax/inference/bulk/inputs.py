"""Expands the inputs of a command line to image and video files."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from softbio_jax import files
from softbio_jax.console import Console
from softbio_jax.data import listing
from softbio_jax.errors import UserError
from softbio_jax.inference.bulk import parquet

STDIN = "-"
LeaveOut = Callable[[str, str], None]  # (name, reason)


class LeftOut:
    """Counts and reports the files of folders that are not used, which is no error."""

    def __init__(self, console: Console):
        self.count = 0
        self._console = console

    def __call__(self, name: str, reason: str) -> None:
        self.count += 1
        self._console.say(f"left out: {listing.shown(name)}: {reason}")


def expand(
    arguments: Iterable[str],
    *,
    stdin: TextIO,
    leave_out: LeaveOut = lambda name, reason: None,
    column: str = "",
) -> Iterator[str]:
    """Yields every file that the arguments name, once, in order and as soon as it is known.

    Args:
      arguments: files; folders, searched at any depth for images and videos as `listing.walk` does,
        sorted; globs (`**` for any depth), unless a file has that name; "-" for a list on stdin, one
        file per line. `~` is the home folder. A Parquet file stands for its images.
      leave_out: called with every other file of a folder, and every folder that a glob matches.
      column: see `parquet.images`.

    Raises:
      UserError: a glob or a folder without an image or video, or a table without images.
    """
    seen: set[str] = set()
    for argument in arguments:
        listed = (line.rstrip("\r\n") for line in stdin if line.strip())
        listed = (files.home(line) for line in listed)
        for file in listed if argument == STDIN else _expanded(files.home(argument), leave_out):
            for name in parquet.images(file, column=column) if _is_table(file) else (file,):
                if name not in seen:
                    seen.add(name)
                    yield name


def is_video(name: str) -> bool:
    """Returns whether a file is a video, by its contents, or the end of its name."""
    return listing.kind_of(name) == "video"


def _is_table(name: str) -> bool:
    return name.lower().endswith(parquet.SUFFIXES) and os.path.isfile(name)


def _expanded(argument: str, leave_out: LeaveOut) -> list[str]:
    if os.path.isdir(argument):
        return _listed(argument, leave_out)
    if glob.has_magic(argument) and not os.path.exists(argument):
        found = []
        for name in sorted(glob.glob(argument, recursive=True)):
            if os.path.isfile(name):
                found.append(name)
            elif "**" not in argument:
                leave_out(name, "a folder" if os.path.isdir(name) else "a pipe or a device")
        if not found:
            raise UserError(
                "no file", where=argument, expected="a match", found="none", fix="correct the pattern"
            )
        return found
    return [argument]


def _listed(folder: str, leave_out: LeaveOut) -> list[str]:
    found, others = [], 0
    for listed in listing.walk(folder):
        if listed.reason:
            leave_out(listed.path, listed.reason)
            others += 1
        else:
            found.append(listed.path)
    if not found:
        raise UserError(
            "no image or video",
            where=folder,
            expected="contents of an image or a video",
            found=f"{others:,} other files" if others else "none",
            fix="name the files themselves",
        )
    return sorted(found)
