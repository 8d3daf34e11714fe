"""A data set as people have it, in miniature: what lies there, the command, and what comes in."""

import dataclasses
import pathlib
from collections.abc import Callable

from tests.data.trees import write_image

Classes = dict[str, dict[str, dict[str, int]]]  # split -> task -> class -> rows
BOTH = "train+test"  # a split: those that --split makes, together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
    """One row of the table in docs/data.md, and one test.

    Args:
      name: of the row and the test: `{data set}_{layout}`.
      layout: what lies in the source, as the table says it; the rows of a data set may share one.
      flags: the flags, --dataset first, without --source.
      make: writes the tree below an empty folder.
      classes: split -> task -> class -> number of rows that are labelled so, none left out. With
        --split, only the sum of the parts is known: the split BOTH.
      source: the path below that folder to give as --source; several with commas.
      rejected: number of rows that will be rejected, in all splits.
      skipped: number of rows that are left out, in all splits.
      proposed: whether the error of another data set proposes exactly this command.
    """

    name: str
    layout: str
    flags: str
    make: Callable[[pathlib.Path], object]
    classes: Classes
    source: str = ""
    rejected: int = 0
    skipped: int = 0
    proposed: bool = False

    @property
    def data_set(self) -> str:
        return self.flags.split()[0].removeprefix("--dataset=")


def images(root: pathlib.Path, *names: str, mode: str = "RGB") -> None:
    """Writes different images of these names, in colour ("RGB") or grey ("L")."""
    for number, name in enumerate(names):
        write_image(root / name, number, kind="PNG" if name.endswith(".png") else "JPEG", mode=mode)
