"""What a folder looks like when a file of the named data set is missing, and the command that reads it.

A builder declares the layouts in which people have its data set:

    LAYOUTS = (
        Layout(name="RAF-DB in numbered folders", needs=("train/1", "train/7", "test|valid"),
               without=("train/0",)),
        Layout(name="UTKFace's file names", file_names=r"\\d{1,3}_[01]_[0-4]_", flags="--utk=aligned"),
    )

`propose` tries those of all builders on a folder, its subfolders and its parent. A builder raises
`MissingSource` (as `tables.require_folder` and `tables.existing_splits` do) where a file or folder of its
layout is missing; `prepare` and `survey` add what lies there instead and the command of the first layout
that fits. A general reader overrides `FaceBuilder.recognise`, which yields `Proposal`s of one folder.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from softbio_jax.data import listing
from softbio_jax.errors import UserError, nearest

_LOOKED_AT = 500  # entries of a folder
_SUBFOLDERS = 12  # that are tried
_SHOWN = 6  # names in a message


class MissingSource(UserError):
    """A file or folder that the layout of a data set needs and the source lacks; see `UserError`."""

    def __init__(self, what: str, *, where: str = "", expected: str = "", found: str = "", fix: str = ""):
        super().__init__(what, where=where, expected=expected, found=found, fix=fix)
        self.what, self.where, self.expected, self.found, self.fix = what, where, expected, found, fix


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Files and folders by which a layout is recognised.

    Args:
      name: what it is, as in "FILES looks like NAME".
      needs: paths below the folder, all of which exist; `*` stands for any name, and one of the
        alternatives between bars is enough.
      without: paths of which none exists.
      file_names: a regular expression that the names of most images in `images` match from their start.
      images: the folder of these images.
      flags: the flags that read it, besides --dataset and --source.
      source: the path below the folder to give as --source.
    """

    name: str
    needs: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    file_names: str = ""
    images: str = ""
    flags: str = ""
    source: str = ""

    def fits(self, folder: pathlib.Path) -> bool:
        """Returns whether a folder has this layout."""
        if not (self.needs or self.file_names):
            return False
        return (
            all(_exists(folder, path) for path in self.needs)
            and not any(_exists(folder, path) for path in self.without)
            and (not self.file_names or _most_match(folder / self.images, self.file_names))
        )


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What a folder looks like: a layout's name, and the flags and the path to read it with."""

    name: str
    source: str
    flags: str = ""

    def command(self, dataset: str, *, out: str | None) -> str:
        """Returns the command line; without `out` it only checks the source."""
        last = "--dry_run" if out is None else f"--out={out}"
        words = [f"--dataset={dataset}", *shlex.split(self.flags), f"--source={self.source}", last]
        return shlex.join(["python", "scripts/prepare_data.py", *words])


class Recogniser(Protocol):
    """What `propose` needs of a builder's class."""

    @classmethod
    def recognise(cls, folder: pathlib.Path) -> Iterator[Proposal]:
        """Yields what a folder looks like to this builder."""


def fitting(layouts: Iterable[Layout], folder: pathlib.Path) -> Iterator[Proposal]:
    """Yields a proposal for each of the layouts that a folder has."""
    for layout in layouts:
        if layout.fits(folder):
            yield Proposal(layout.name, os.path.join(folder, layout.source).rstrip("/"), layout.flags)


def propose(source: pathlib.Path, builders: Mapping[str, type[Recogniser]]) -> Iterator[tuple[str, Proposal]]:
    """Yields (data set, proposal) for a folder, then for its subfolders, then for its parent."""
    folder = source if source.is_dir() else source.parent
    inner = [folder / name for name in _names(folder) if (folder / name).is_dir()]
    for place in (folder, *inner[:_SUBFOLDERS], folder.absolute().parent):
        if place.is_dir():
            for name, builder in builders.items():
                yield from ((name, found) for found in builder.recognise(place))


def explain(
    error: MissingSource,
    *,
    dataset: str,
    source: str,
    builders: Mapping[str, type[Recogniser]],
    out: str | None = None,
) -> UserError:
    """Returns the error with what lies in the source instead, and the command that reads it."""
    path = pathlib.Path(source.split(",")[0])
    found, fix = error.found, error.fix
    if path.exists():
        folder = path if path.is_dir() else path.parent
        found = f"{found}{' in ' if found else ''}{folder} with {contents(folder)}"
        for name, proposal in propose(path, builders):
            if (name, proposal.source) != (dataset, str(path)):
                fix = f"{proposal.source} looks like {proposal.name}: {proposal.command(name, out=out)}"
                break
    elif path.parent.is_dir():
        found = f"{path.parent} with {contents(path.parent)}"
        near = nearest(path.name, _names(path.parent), otherwise="")
        fix = f"{near} in --source" if near else fix
    return UserError(error.what, where=error.where, expected=error.expected, found=found, fix=fix)


def contents(folder: pathlib.Path) -> str:
    """Returns the first names in a folder, folders with a slash, and the number of the others."""
    names = _names(folder)
    names = sorted(names, key=lambda name: (not (folder / name).is_dir(), name))
    shown = [f"{listing.shown(name)}{'/' * (folder / name).is_dir()}" for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        shown.append(f"{'at least ' * (len(names) == _LOOKED_AT)}{len(names) - _SHOWN:,} more")
    return ", ".join(shown) or "nothing in it"


def image_names(folder: pathlib.Path) -> list[str]:
    """Returns the names of some images that lie directly in a folder."""
    return [name for name in _names(folder) if pathlib.PurePath(name).suffix.lower() in listing.IMAGES]


def _names(folder: pathlib.Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = (entry.name for entry in entries if not listing.is_hidden(entry.name))
            return sorted(itertools.islice(names, _LOOKED_AT))
    except OSError:
        return []


def _exists(folder: pathlib.Path, paths: str) -> bool:
    return any(next(folder.glob(path), None) is not None for path in paths.split("|"))


def _most_match(folder: pathlib.Path, pattern: str) -> bool:
    names = image_names(folder)
    return 2 * sum(re.match(pattern, name) is not None for name in names) > len(names)
