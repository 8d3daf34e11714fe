"""The outcomes of a source's rows that a builder yields: a labelled image, a rejection or a skip."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

from softbio_jax import files
from softbio_jax.data.labels import OLDEST
from softbio_jax.errors import UserError
from softbio_jax.escaping import one_line, printable

# Columns that name a person or a photograph, which must not be on both sides of a split.
IDENTITY_COLUMNS = ("identity", "user", "photograph")

_BIRTHS = (1850, 2100)  # a number between them in a column of ages is a year


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One labelled image.

    Args:
      id: identifies the image in every version of the data, mostly its path inside the source.
      image: the encoded image, its file, or a function that makes it.
      labels: task name -> label; a task that is absent has no label.
      columns: values kept for audits (race, identity, ...), never for training.
      masked: task name -> why a label of the source was not used.
      box: (x0, y0, x1, y1) in pixels to cut out first; may reach over the border.
      where: the label file and its row, for rejections; empty without a file.
    """

    id: str
    image: bytes | pathlib.Path | Callable[[], bytes]
    labels: Mapping[str, int]
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    masked: Mapping[str, str] = dataclasses.field(default_factory=dict)
    box: tuple[float, float, float, float] | None = None
    where: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", printable(self.id))
        object.__setattr__(self, "columns", {name: printable(v) for name, v in self.columns.items()})

    def read(self) -> bytes:
        """Returns the encoded image; raises OSError where its file cannot be read."""
        if isinstance(self.image, bytes):
            return self.image
        return files.read_bytes(self.image) if isinstance(self.image, pathlib.Path) else self.image()


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A row that should be an example but cannot be used.

    `path` is its id, `reason` the same for all rows with the same mistake, the rest as in `UserError`.
    """

    path: str
    reason: str
    where: str = ""
    expected: str = ""
    found: str = ""
    fix: str = ""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            object.__setattr__(self, name, one_line(printable(value)))

    def __str__(self) -> str:
        what = f"{self.path}: {self.reason}"
        return str(UserError(what, where=self.where, expected=self.expected, found=self.found, fix=self.fix))

    def to_json(self) -> dict[str, str]:
        """Returns the fields that are not empty."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}


@dataclasses.dataclass(frozen=True)
class Skip:
    """A row that the protocol omits (no label, gender unsure, contempt): counted.

    `path` is set for a file of the source that is no example, and is listed.
    """

    reason: str
    path: str = ""


Outcome = Row | Rejection | Skip


def impossible_age(path: str, years: float, *, where: str = "") -> Rejection | None:
    """Returns the rejection of a row whose age in years cannot be right, None for a possible age.

    Args:
      path: the row's id.
      years: the age; possible are 0 to `labels.OLDEST`.
      where: the label file and its row.
    """
    if 0 <= years <= OLDEST:
        return None
    fix = "correct or delete the row"
    if _BIRTHS[0] <= years <= _BIRTHS[1]:
        fix = "write the age at the time of the image, not a year"
    expected, found = f"0 to {OLDEST} years", f"{years:g}"
    return Rejection(path, "an impossible age", where=where, expected=expected, found=found, fix=fix)
