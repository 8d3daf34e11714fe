"""Pictures of an evaluation, drawn without pyplot and so without global state."""

import io
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from softbio_jax import files
from softbio_jax.evaluation.metrics import classification

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1c2733"
MUTED = "#5b6875"
GRID = "#dfe4ea"
# Okabe-Ito order without yellow: distinct for colour-blind readers and in grey print.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")


def confusion_matrix(counts: np.ndarray, classes: Sequence[str], *, title: str) -> "Figure":
    """Draws a confusion matrix: colour by share of the true class, count and per cent in words.

    Args:
      counts: (C, C) counts, rows are the true class.
      classes: C names.
      title: what was evaluated on what; n, accuracy and balanced accuracy stand below it.

    Returns:
      A matplotlib figure, to be passed to `save_png` or `svg`.
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
        ink = "white" if shares[row, column] > 0.55 else INK
        if not count:
            axes.text(column, row, "·", ha="center", va="center", color=MUTED, fontsize=8, in_layout=False)
            continue
        axes.annotate(
            f"{100 * shares[row, column]:.1f}%",
            (column, row),
            xytext=(0, 4.5),
            textcoords="offset points",
            ha="center",
            va="center",
            color=ink,
            fontsize=8.5,
            fontweight="bold" if row == column else "normal",
            in_layout=False,
        )
        axes.annotate(
            f"{count:,}",
            (column, row),
            xytext=(0, -7),
            textcoords="offset points",
            ha="center",
            va="center",
            color=ink,
            fontsize=6.5,
            in_layout=False,
        )
    axes.set_xticks(range(side), classes, rotation=40 if side > 4 else 0, ha="center")
    names = [f"{name}\nn={n:,}" for name, n in zip(classes, totals[:, 0].tolist(), strict=True)]
    axes.set_yticks(range(side), names)
    axes.set_xticks(np.arange(-0.5, side), minor=True)
    axes.set_yticks(np.arange(-0.5, side), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0, colors=INK, labelsize=8)
    axes.spines[:].set_visible(False)
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
        fontsize=11 * min(1, 8.5 * width / len(title)),  # no wider than the picture
        fontweight="bold",
    )
    return figure


def new_figure(width: float, height: float) -> "Figure":
    """Returns an empty figure of that size in inches, laid out so that nothing is cut off."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: "Figure", path: str | os.PathLike) -> pathlib.Path:
    """Writes `figure` to the PNG file `path` at 160 dots an inch."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _lay_out_once(figure)
    with files.atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)
    return path


def svg(figure: "Figure") -> str:
    """Returns `figure` as an SVG element that stands inside an HTML page, its text as text."""
    import matplotlib

    buffer = io.StringIO()
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "softbio_jax",  # the same picture twice is the same text
        "font.family": "sans-serif",
    }
    _lay_out_once(figure)
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _lay_out_once(figure: "Figure") -> None:
    # The layout takes half of a drawing's time and would be repeated for every format.
    engine = figure.get_layout_engine()
    if engine is not None and figure.axes:
        engine.execute(figure)
        figure.set_layout_engine("none")
