"""What a report consists of, whatever it is written as."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any


def percent(value: float | None, *, digits: int = 2) -> str:
    """Returns a share as per cent, or a dash for None."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}"


def with_bounds(value: float | None, bounds: Sequence[float] | None, *, digits: int = 1) -> str:
    """Returns "81.25 [80.1, 82.3]" for a share and its interval, or a dash for None."""
    if value is None or bounds is None:
        return NOTHING
    low, high = (percent(bound, digits=digits) for bound in bounds)
    return f"{percent(value)} [{low}, {high}]"


def percent_interval(figures: Mapping[str, Any], name: str) -> str:
    """Returns a figure in per cent with its interval."""
    return with_bounds(figures[name], figures["intervals"][name])


def plain_interval(figures: Mapping[str, Any], name: str) -> str:
    """Returns "1.23 [1.20, 1.27]" for a figure in its own unit."""
    low, high = figures["intervals"][name]
    return f"{figures[name]:.2f} [{low:.2f}, {high:.2f}]"


def points(value: float, interval: Sequence[float]) -> str:
    """Returns "+1.25 [-0.1, +2.6]" for a difference in percentage points."""
    low, high = (f"{100 * bound:+.1f}" for bound in interval)
    return f"{100 * value:+.2f} [{low}, {high}]"


def p_value(value: float) -> str:
    """Returns a p-value with as many digits as it deserves."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float | None) -> str:
    """Returns an integer with thousands separated, or a dash for None."""
    return NOTHING if value is None else f"{int(value):,}"


def number(value: float | None, *, digits: int = 2) -> str:
    """Returns a figure, or a dash for None."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def listed(names: Sequence[str]) -> str:
    """Returns "age, gender and emotion"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def duration(seconds: float | None) -> str:
    """Returns "1 h 02 min", "3 min 05 s" or "12 s"."""
    if seconds is None:
        return NOTHING
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

NOTHING = "–"  # a cell for which a run has no figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph.

    Args:
      text: plain text.
      warning: whether the reader must not miss it.
    """

    text: str
    warning: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Cells of text with a header.

    Args:
      title: the caption.
      header: one name a column.
      rows: the cells; every row as long as the header.
      groups: a second header line above the first, as (name, number of columns).
      notes: lines below the table.
      text_columns: how many columns from the left hold words; the others hold figures.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    text_columns: int = 1

    def __post_init__(self) -> None:
        width = len(self.header)
        if any(len(row) != width for row in self.rows):
            raise ValueError(f"table {self.title!r}: a row is not {width} cells long")
        if self.groups and sum(span for _, span in self.groups) != width:
            raise ValueError(f"table {self.title!r}: groups do not span {width} columns")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture.

    Args:
      name: unique in a document; `stem` makes its file's name of it.
      caption: what it shows, also for those who cannot see it.
      figure: a matplotlib figure.
      wide: whether it needs the whole width of a page.
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
    """Pictures that are to be seen side by side."""

    title: str
    items: tuple[Figure, ...]


Block = Text | Table | Figures


def file_stem(name: str) -> str:
    """Returns a name that is safe in a path, a link and a LaTeX file, whatever `name` holds."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """The heading as a link target."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower()).strip("-")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """A whole report.

    Args:
      title: the heading.
      subtitle: one line below it.
      highlights: (value, name, remark) of the few figures to be seen first.
      sections: the content.
    """

    title: str
    subtitle: str
    highlights: tuple[tuple[str, str, str], ...]
    sections: tuple[Section, ...]

    def figures(self) -> list[Figure]:
        """All pictures in reading order."""
        return [
            figure
            for section in self.sections
            for block in section.blocks
            if isinstance(block, Figures)
            for figure in block.items
        ]

    def tables(self) -> list[Table]:
        """All tables in reading order."""
        return [b for section in self.sections for b in section.blocks if isinstance(b, Table)]
