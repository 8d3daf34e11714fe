"""Where a data set's files are in a copy of it: in any case, and inside folders around them.

A builder lists the layouts that it reads as `Layout`s, the preferred ones first; `find` looks for
them in the source and in the folders inside, and never chooses between two places.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence

from softbio_jax.data import listing
from softbio_jax.data.prepare.tables import IMAGE_SUFFIXES, MissingSource, inside
from softbio_jax.errors import UserError

_VOWELS = "AEIO"
_DEPTH = 3  # folders around a data set
_HEADER = 10_000  # characters of a line
_MOST_MATCHES = 200  # folders that one part of a pattern goes into
_MOST_FOLDERS = 2000  # that are looked into
_LISTED = 6  # names in a message
IMAGE = "{image}"  # in a pattern: any file that is named like an image
SPLITS = {
    "train": ("train", "training", "train_set", "trainset"),
    "val": ("val", "valid", "validation", "val_set", "valid_set", "dev", "publictest"),
    "test": ("test", "testing", "test_set", "testset", "privatetest"),
}
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}

Fits = Callable[[pathlib.Path], bool]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way in which copies of a data set are arranged.

    Args:
      name: its name in reports.
      shown: what is there, as messages and the documentation write it: `{train,test}/{1..7}/`.
      fits: whether a folder is arranged like this.
      flags: the flags that read it, besides --dataset and --source.
      distinct: whether other sets are not arranged like this, so that a message may propose it.
    """

    name: str
    shown: str
    fits: Fits
    flags: str = ""
    distinct: bool = True


@dataclasses.dataclass(frozen=True)
class Place:
    """The layout of a copy and the folder that it starts at."""

    layout: Layout
    root: pathlib.Path

    def path(self, *patterns: str) -> pathlib.Path:
        """Returns what the first of these patterns matches, as `matches` does; the first one if none does.

        Raises:
          UserError: a pattern matches two.
        """
        for pattern in patterns:
            found = list(matches(self.root, pattern))
            if len(found) > 1:
                both = " and ".join(path.relative_to(self.root).as_posix() for path in found[:2])
                fix = "move one of them away"
                raise UserError("two copies of the data", where=str(self.root), found=both, fix=fix)
            if found:
                return found[0]
        return self.root / patterns[0]


def find(source: pathlib.Path, layouts: Sequence[Layout], *, what: str) -> Place:
    """Returns the place of the first layout that fits the source or a folder around the data in it.

    Args:
      source: the folder that was given, or one up to three folders above the data.
      layouts: the preferred ones first; of two that fit one folder the first is taken.
      what: the data set's name, for messages.

    Raises:
      UserError: no folder, nothing fits, or two folders beside each other fit.
    """
    place = look(source, layouts)
    if place is None:
        raise MissingSource(
            f"not {'an' if what[:1] in _VOWELS else 'a'} {what} folder",
            where=str(source),
            expected="; or ".join(dict.fromkeys(layout.shown for layout in layouts)),
            fix="check --source",
        )
    return place


def look(source: pathlib.Path, layouts: Sequence[Layout]) -> Place | None:
    """Returns what `find` does, None where nothing fits."""
    if not source.is_dir():
        found = "a file" if source.exists() else "nothing"
        raise MissingSource(
            "no such folder", where=str(source), expected="a folder", found=found, fix="check --source"
        )
    folders = [source]
    for _ in range(_DEPTH + 1):
        places = [
            next((Place(layout, folder) for layout in layouts if layout.fits(folder)), None)
            for folder in folders
        ]
        fitting = [place for place in places if place is not None]
        if len(fitting) > 1:
            first, second = (place.root.relative_to(source).as_posix() for place in fitting[:2])
            fix = f"give one of them: --source={fitting[0].root}"
            raise UserError(
                "two copies of the data", where=str(source), found=f"{first}/ and {second}/", fix=fix
            )
        if fitting:
            return fitting[0]
        folders = [inner for folder in folders for inner in subfolders(folder)]
        if len(folders) > _MOST_FOLDERS:
            break
    return None


def entry(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns the file or folder of a relative path, whatever the case of its letters.

    Raises:
      UserError: there are two, such as train/ and Train/.
    """
    for part in name.split("/"):
        found = [path for path in _entries(folder) if path.name.lower() == part.lower()]
        if len(found) > 1:
            both = " and ".join(path.name for path in found[:2])
            raise UserError(f"two of the name {part!r}", where=str(folder), found=both, fix="move one away")
        if not found:
            return None
        folder = found[0]
    return folder


def matches(folder: pathlib.Path, pattern: str) -> Iterator[pathlib.Path]:
    """Yields what matches a relative pattern with *, ? and {image}, in any case and by name."""
    first, _, rest = pattern.partition("/")
    if first == IMAGE:
        found = (path for path in _entries(folder) if path.suffix.lower() in IMAGE_SUFFIXES)
    else:
        named = re.compile(fnmatch.translate(first), re.IGNORECASE).match
        found = (path for path in _entries(folder) if named(path.name))
    if not rest:
        yield from sorted(found)
        return
    # Folders around data are few; those of identities are thousands.
    for path in itertools.islice(sorted(path for path in found if path.is_dir()), _MOST_MATCHES):
        yield from matches(path, rest)


def has(*patterns: str) -> Fits:
    """Fits a folder with something for each of these patterns."""
    return lambda folder: all(next(matches(folder, pattern), None) is not None for pattern in patterns)


def with_columns(pattern: str, *names: str) -> Fits:
    """Fits a folder with a table for this pattern whose first line has these columns."""

    def test(folder: pathlib.Path) -> bool:
        for path in matches(folder, pattern):
            if path.is_file():
                with path.open(encoding="utf-8-sig", errors="replace") as file:
                    header = file.readline(_HEADER)
                if set(names) <= {name.strip().strip('"') for name in header.split(",")}:
                    return True
        return False

    return test


def either(*choices: Fits) -> Fits:
    """Fits a folder that one of these fits."""
    return lambda folder: any(fits(folder) for fits in choices)


class Images:
    """The images that label files name, each folder listed once.

    Args:
      root: the folder that the names start at.
    """

    def __init__(self, root: pathlib.Path):
        self.root = root
        self._folders: dict[pathlib.Path, dict[str, list[str]]] = {}

    def path(self, name: str, *, where: str) -> pathlib.Path:
        """Returns the image of a relative name: in any case, and with another image suffix if it is there.

        Raises:
          UserError: the name leaves the folder, or fits two images.
        """
        path = inside(self.root, name, where=where)
        if path.parent not in self._folders:
            self._folders[path.parent] = self._names(path.parent)
        names = self._folders[path.parent]
        for key in (path.name, path.name.lower(), path.stem.lower()):
            found = names.get(key, [])
            if len(found) > 1:
                both, fix = " and ".join(sorted(found)[:2]), "move one away"
                raise UserError(f"two images of the name {name!r}", where=where, found=both, fix=fix)
            if found:
                return self.root / found[0]
        return path

    def first(self, names: Sequence[str], *, where: str) -> pathlib.Path:
        """Returns the path of the first of some names that exists, that of the last one if none does."""
        paths = [self.path(name, where=where) for name in names]
        return next((path for path in paths if path.exists()), paths[-1])

    def _names(self, folder: pathlib.Path) -> dict[str, list[str]]:
        """Returns name, lower-case name and lower-case stem -> the paths in the root."""
        known = entry(self.root, folder.relative_to(self.root).as_posix()) if folder != self.root else folder
        names: dict[str, list[str]] = {}
        for path in _entries(known) if known else ():
            if path.suffix.lower() in IMAGE_SUFFIXES:
                for key in {path.name, path.name.lower(), path.stem.lower()}:
                    names.setdefault(key, []).append(path.relative_to(self.root).as_posix())
        return names


def split_of(name: str) -> str:
    """Returns the split that a folder or file is named after, "" for another name."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), "")


def split_folders(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns train, val and test -> the folder of that split; raises UserError for two of one split."""
    found: dict[str, pathlib.Path] = {}
    for split, names in SPLITS.items():
        folders = [inner for inner in subfolders(root) if inner.name.lower() in names]
        if len(folders) > 1:
            both = f"{folders[0].name}/ and {folders[1].name}/"
            what, fix = f"two folders of the split {split!r}", "move one away"
            raise UserError(what, where=str(root), found=both, fix=fix)
        if folders:
            found[split] = folders[0]
    return found


def in_splits(fits: Callable[[Collection[str]], bool]) -> Fits:
    """Fits a folder with train, val or test of which one has inner folders, by lower-case names, that fit."""
    return lambda folder: any(
        fits({inner.name.lower() for inner in subfolders(path)}) for path in split_folders(folder).values()
    )


def subfolders(path: pathlib.Path) -> list[pathlib.Path]:
    """Lists the folders in a folder by name, without hidden ones and macOS' `__MACOSX`."""
    return sorted(inner for inner in _entries(path) if inner.is_dir())


def lying(folder: pathlib.Path) -> str:
    """Returns what is in a folder, for a message: the first names and how many more."""
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in _entries(folder))
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(map(listing.shown, names[:_LISTED])) + more if names else "an empty folder"


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as found:
        return [folder / one.name for one in found if not listing.is_hidden(one.name)]
