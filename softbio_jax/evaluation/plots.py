"""The confusion matrix, and what every matplotlib figure here shares: colours, size, files.

Figures are drawn without pyplot and so without global state.
"""

import io
import math
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from softbio_jax import files
from softbio_jax.escaping import visible
from softbio_jax.evaluation.metrics import classification

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1c2733"
MUTED = "#5b6875"
GRID = "#dfe4ea"
# Okabe-Ito order without yellow: distinct for colour-blind readers and in grey print.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")


def confusion_matrix(counts: np.ndarray, classes: Sequence[str], *, title: str) -> "Figure":
    """Draws a confusion matrix: colour by share of the true class, percentage and count as text.

    Args:
      counts: (C, C) counts, rows are the true class.
      classes: C names.
      title: of the figure; n, accuracy and balanced accuracy are written below it.
    """
    counts = np.asarray(counts)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = len(classes)
    cell = 0.56 if side > 4 else 1.0
    width = max(1.3 + cell * side, 3.8)  # inches
    figure = new_figure(width, 1.4 + cell * side)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    for (row, column), count in np.ndenumerate(counts):
        centred: Any = {"ha": "center", "va": "center", "in_layout": False}
        if not count:
            axes.text(column, row, "·", color=MUTED, fontsize=8, **centred)
            continue
        ink = "white" if shares[row, column] > 0.55 else INK
        weight = "bold" if row == column else "normal"
        for text, offset, size, bold in (
            (f"{100 * shares[row, column]:.1f}%", 4.5, 8.5, weight),
            (f"{count:,}", -7, 6.5, "normal"),
        ):
            axes.annotate(
                text,
                (column, row),
                xytext=(0, offset),
                textcoords="offset points",
                color=ink,
                fontsize=size,
                fontweight=bold,
                **centred,
            )
    axes.set_xticks(range(side), classes, rotation=40 if side > 4 else 0, ha="center")
    names = [f"{name}\nn={n:,}" for name, n in zip(classes, totals[:, 0].tolist(), strict=True)]
    axes.set_yticks(range(side), names)
    separate_cells(axes, counts.shape, color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0, colors=INK, labelsize=8)
    axes.set_xlabel("predicted", color=MUTED, fontsize=9)
    axes.set_ylabel("true", color=MUTED, fontsize=9)
    subtitle = (
        f"n = {counts.sum():,} · accuracy {100 * classification.accuracy(counts):.2f} % · "
        f"balanced {100 * classification.balanced_accuracy(counts):.2f} %"
    )
    axes.set_title(subtitle, color=MUTED, fontsize=8 if side > 2 else 7, pad=8)
    axes.annotate(
        title,
        (0.5, 1),
        xycoords="axes fraction",
        xytext=(0, 24),
        textcoords="offset points",
        ha="center",
        color=INK,
        fontsize=11 * min(1, 8.5 * width / len(title)),  # no wider than the figure
        fontweight="bold",
    )
    return figure


def separate_cells(axes: "Axes", shape: Sequence[int], *, color: str, linewidth: float) -> None:
    """Draws lines between the cells of a matrix plot, and no frame."""
    axes.set_xticks(np.arange(-0.5, shape[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, shape[0]), minor=True)
    axes.grid(which="minor", color=color, linewidth=linewidth)
    axes.spines[:].set_visible(False)


def logarithmic(axes: "Axes", name: str, values: Sequence[float], *, prefixes: bool) -> None:
    """Makes an axis logarithmic, with ticks as plain numbers: matplotlib's own are formulas.

    Args:
      axes: of the plot.
      name: x or y.
      values: all above 0, what the axis shows.
      prefixes: whether ticks have SI prefixes, as 2M, or all their digits.
    """
    from matplotlib import ticker

    getattr(axes, f"set_{name}scale")("log")
    axis = getattr(axes, f"{name}axis")
    decades = math.log10(max(values) / min(values))
    axis.set_major_formatter(ticker.EngFormatter(sep="") if prefixes else ticker.StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())
    if decades < 1:  # a power of ten may not be among them
        axis.set_major_locator(ticker.MaxNLocator(5))
        axis.set_minor_locator(ticker.NullLocator())
    elif decades < 3:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=20))


def new_figure(width: float, height: float) -> "Figure":
    """Returns an empty figure, its size in inches, with a layout that cuts nothing off."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: "Figure", path: str | os.PathLike) -> pathlib.Path:
    """Writes a figure to a PNG file at 160 dots per inch."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _lay_out_once(figure)
    with files.atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)
    return path


def svg(figure: "Figure") -> str:
    """Returns a figure as an SVG element; equal figures give equal text."""
    import matplotlib

    buffer = io.StringIO()
    # "none" writes text as text.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "softbio_jax", "font.family": "sans-serif"}
    _lay_out_once(figure)
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return visible(text[text.index("<svg") :])


def _lay_out_once(figure: "Figure") -> None:
    _show_as_it_is(figure)
    # The layout takes half of the drawing time and would be repeated for every format.
    engine = figure.get_layout_engine()
    if engine is not None and figure.axes:
        engine.execute(figure)
        figure.set_layout_engine(None)  # matplotlib draws twice where there is one, even "none"


def _show_as_it_is(figure: "Figure") -> None:
    """Makes names text: a dollar sign begins no formula, and control characters are written out."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, FixedFormatter):  # it writes the labels again whenever it is drawn
                formatter.seq = [visible(name) for name in formatter.seq]
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(visible(text.get_text()))
