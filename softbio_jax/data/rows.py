"""What a builder yields: one labelled picture, or the reason why there is none."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

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
    """

    id: str
    image: Image
    labels: Mapping[str, int]
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    masked: Mapping[str, str] = dataclasses.field(default_factory=dict)
    box: tuple[float, float, float, float] | None = None

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
    """A row that should be an example and cannot: its path and what is wrong with it."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Skip:
    """A row that the protocol leaves out (no label, gender unsure, contempt): only counted."""

    reason: str


Outcome = Row | Rejection | Skip
