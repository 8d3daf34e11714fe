"""What a builder yields: one labelled picture, or the reason why there is none."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

from softbio_jax.errors import UserError

Image = bytes | pathlib.Path | Callable[[], bytes]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One labelled picture of a data set.

    Args:
      id: a string that names the picture for good, mostly its path inside the data set.
      image: the encoded picture, the file that holds it, or a function that makes it.
      labels: task name -> label; a task that is absent has no label.
      columns: values kept for audits (race, identity, ...), never for training.
      masked: task name -> why a label that the data set has was not used.
      box: (x0, y0, x1, y1) in pixels, cut out before anything else; may reach over the border.
      where: the label file and the row that tell of it, for rejections; empty where no file does.
    """

    id: str
    image: Image
    labels: Mapping[str, int]
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    masked: Mapping[str, str] = dataclasses.field(default_factory=dict)
    box: tuple[float, float, float, float] | None = None
    where: str = ""

    def read(self) -> bytes:
        """Reads the encoded picture.

        Raises:
          OSError: the file cannot be read.
        """
        if isinstance(self.image, bytes):
            return self.image
        if isinstance(self.image, pathlib.Path):
            return self.image.read_bytes()
        return self.image()


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A row that should be an example and cannot: its path and what is wrong with it.

    Args:
      path: the row's id.
      reason: what is wrong, in words that are the same for all rows with that mistake.
      where: the label file and the row.
      expected: what would have been right.
      found: what was there.
      fix: what to do about it.
    """

    path: str
    reason: str
    where: str = ""
    expected: str = ""
    found: str = ""
    fix: str = ""

    def __str__(self) -> str:
        told = UserError(
            f"{self.path}: {self.reason}",
            where=self.where,
            expected=self.expected,
            found=self.found,
            fix=self.fix,
        )
        return str(told)

    def to_json(self) -> dict[str, str]:
        """Writes what is known, for reports."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}


@dataclasses.dataclass(frozen=True)
class Skip:
    """A row that the protocol leaves out (no label, gender unsure, contempt): only counted."""

    reason: str


Outcome = Row | Rejection | Skip
