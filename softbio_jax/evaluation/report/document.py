"""The parts of a report, independent of the format it is written in, and the text of its cells."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from softbio_jax import console

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

NOTHING = "–"  # a cell without a value
TOO_FEW = "[too few]"  # in place of an interval


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph of plain text, set apart if it is a warning."""

    text: str
    warning: bool = False
    kind: ClassVar[str] = "text"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Cells of text below a header.

    Args:
      rows: the cells; every row as long as the header.
      groups: a second header line above the first, as (name, number of columns).
      notes: lines below the table.
      text_columns: number of columns, from the left, that hold words; the others hold numbers.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    text_columns: int = 1
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        width = len(self.header)
        if any(len(row) != width for row in self.rows):
            raise ValueError(f"table {self.title!r}: a row is not {width} cells long")
        if self.groups and sum(span for _, span in self.groups) != width:
            raise ValueError(f"table {self.title!r}: groups do not span {width} columns")

    def filled(self) -> "Table":
        """Returns the table without the columns of numbers in which no row has a value."""
        columns = list(zip(*self.rows, strict=True))
        kept = [
            index
            for index, cells in enumerate(columns)
            if index < self.text_columns or not set(cells) <= {"", NOTHING}
        ]
        if len(kept) == len(columns):
            return self
        over = [number for number, (_, span) in enumerate(self.groups) for _ in range(span)]
        spans = [sum(over[index] == number for index in kept) for number in range(len(self.groups))]
        return dataclasses.replace(
            self,
            header=tuple(self.header[index] for index in kept),
            rows=tuple(tuple(row[index] for index in kept) for row in self.rows),
            groups=tuple((name, span) for (name, _), span in zip(self.groups, spans, strict=True) if span),
        )

    @property
    def labels(self) -> list[str]:
        """The name of each column, below that of its group."""
        over = [name for name, span in self.groups or (("", len(self.header)),) for _ in range(span)]
        return [f"{group}, {name}" if group else name for group, name in zip(over, self.header, strict=True)]

    @property
    def widths(self) -> list[int]:
        """Number of characters of the longest cell of each column."""
        return [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A matplotlib figure with its caption.

    Args:
      name: unique in a document; `stem` derives its file's name.
      caption: also the alternative text.
      wide: whether it needs the full width of a page.
    """

    name: str
    caption: str
    figure: "MatplotlibFigure"
    wide: bool = False

    @property
    def stem(self) -> str:
        """The name of its file, without the ending."""
        return file_stem(self.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures shown side by side."""

    title: str
    items: tuple[Figure, ...]
    kind: ClassVar[str] = "figures"


Block = Text | Table | Figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """The heading as a link target."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower()).strip("-")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """A complete report; `highlights` are the (value, name, remark) of the metrics shown first."""

    title: str
    subtitle: str
    highlights: tuple[tuple[str, str, str], ...]
    sections: tuple[Section, ...]

    def figures(self) -> list[Figure]:
        """All figures in reading order."""
        figures = [b for section in self.sections for b in section.blocks if isinstance(b, Figures)]
        return [figure for block in figures for figure in block.items]

    def tables(self) -> list[Table]:
        """All tables in reading order."""
        return [b for section in self.sections for b in section.blocks if isinstance(b, Table)]


def file_stem(name: str) -> str:
    """Returns a name with only characters that are safe in a path, a link and a LaTeX file."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)


def percent(value: float | None, *, digits: int = 2) -> str:
    """Returns a share as a percentage, or a dash for None."""
    return NOTHING if value is None else console.percent(value, digits)


def with_bounds(value: float | None, bounds: Sequence[float] | None) -> str:
    """Returns "81.25 [80.1, 82.3]" for a share and its interval, or a dash for None.

    A share without an interval rests on too few examples for one and is followed by `TOO_FEW`.
    """
    if value is None:
        return NOTHING
    if bounds is None:
        return f"{percent(value)} {TOO_FEW}"
    low, high = (percent(bound, digits=1) for bound in bounds)
    return f"{percent(value)} [{low}, {high}]"


def percent_interval(metrics: Mapping[str, Any], name: str) -> str:
    """Returns a metric between 0 and 1 as a percentage with its interval."""
    return with_bounds(metrics[name], metrics["intervals"][name])


def plain_interval(metrics: Mapping[str, Any], name: str) -> str:
    """Returns "1.23 [1.20, 1.27]" for a metric in its own unit."""
    low, high = metrics["intervals"][name]
    return f"{metrics[name]:.2f} [{low:.2f}, {high:.2f}]"


def points(value: float, interval: Sequence[float]) -> str:
    """Returns "+1.25 [-0.1, +2.6]" for a difference in percentage points."""
    low, high = (f"{100 * bound:+.1f}" for bound in interval)
    return f"{100 * value:+.2f} [{low}, {high}]"


def p_value(value: float) -> str:
    """Returns a p-value with three decimals, or "< 0.001"."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float | None) -> str:
    """Returns an integer with thousands separated, or a dash for None."""
    return NOTHING if value is None else f"{int(value):,}"


def number(value: float | None, *, digits: int = 2) -> str:
    """Returns a number with thousands separated, or a dash for None."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def listed(names: Sequence[str]) -> str:
    """Returns "age, gender and emotion"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
