"""What a folder looks like when a file of the named data set is missing, and the command that reads it.

A builder raises `tables.MissingSource` (as `tables.require_folder`, `tables.existing_splits` and
`locate.find` do) where a file or folder of its layout is missing. `prepare` and `survey` add what lies
there instead, and the command of the first data set that recognises the folder, a folder in it or, of
the folder of a split, the one around it. A builder recognises its `LAYOUTS`; a reader of any data overrides
`FaceBuilder.recognise`, which yields the `Proposal`s for one folder. Data sets are asked in the order
of their registration, the general readers last.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
from collections.abc import Iterator, Mapping
from typing import Protocol

from softbio_jax.data.prepare import locate
from softbio_jax.data.prepare.tables import MissingSource
from softbio_jax.errors import UserError, nearest

_TRIED, _DEPTH = 12, 4  # folders beside each other, and in each other
_GENERAL = ("parquet", "csv", "folder")


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What a folder looks like: a description, and the path and the flags to read it with."""

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


def propose(source: pathlib.Path, builders: Mapping[str, type[Recogniser]]) -> Iterator[tuple[str, Proposal]]:
    """Yields (data set, proposal) for a folder, those in it, and the one around the folder of a split."""
    folder = source if source.is_dir() else source.parent
    names = [*(name for name in builders if name not in _GENERAL), *_GENERAL]
    around = [folder.parent] if folder.name.lower() in locate.SPLIT_OF else []
    for place in (*_below(folder), *around):
        for name in names:
            if name in builders:
                yield from ((name, found) for found in builders[name].recognise(place))


def _below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a folder and some of those in it, the outer ones first."""
    level = [folder]
    for _ in range(_DEPTH):
        yield from level
        level = [inner for outer in level for inner in locate.subfolders(outer)[:_TRIED]][:_TRIED]


def explain(
    error: MissingSource,
    *,
    dataset: str,
    source: str,
    builders: Mapping[str, type[Recogniser]],
    task: str = "",
    out: str | None = None,
) -> UserError:
    """Returns the error with what lies in the source instead, and the command that reads it.

    Args:
      error: the error of the builder.
      dataset: its name.
      source: the file or folder, or several with commas between them.
      builders: all builders by name.
      task: the task of class folders.
      out: the folder to write; None only checks the source.
    """
    path = pathlib.Path(source.split(",")[0])
    found, fix = error.found, error.fix
    if path.exists():
        folder = path if path.is_dir() else path.parent
        if found in ("", "nothing", "none"):
            found = f"{locate.lying(folder)} in {folder}"
        for name, proposal in propose(path, builders):
            if not _is_asked(proposal, path, task=task, same_reader=name == dataset):
                looks = f"{proposal.source} looks like {proposal.name}: {proposal.command(name, out=out)}"
                fix = looks if fix.startswith("check") else f"{fix}; or, as {looks}"
                break
    elif path.parent.is_dir():
        found = f"{locate.lying(path.parent)} in {path.parent}"
        near = nearest(path.name, (other.name for other in path.parent.iterdir()), otherwise="")
        fix = f"{near} at the end of --source" if near else fix
    return UserError(error.what, where=error.where, expected=error.expected, found=found, fix=fix)


def _is_asked(proposal: Proposal, path: pathlib.Path, *, task: str, same_reader: bool) -> bool:
    """Returns whether a proposal is the command that failed, apart from the classes of numbers."""
    flags = proposal.flags.split()
    if not same_reader or proposal.source != str(path):
        return False
    return f"--task={task}" in flags or "=CLASS" in proposal.flags if task else not flags
