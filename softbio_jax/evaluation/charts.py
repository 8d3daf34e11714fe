"""Charts of a report: intervals, curves, histograms, reliability, heat maps, scatter plots."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from softbio_jax.evaluation.metrics.fairness import SMALL_CELL
from softbio_jax.evaluation.plots import GRID, INK, MUTED, SERIES, new_figure

STEADY_BIN = 10  # below it, a bin's accuracy is mostly chance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracies(
    rows: Sequence[tuple[str, float]], runs: Mapping[str, Sequence[tuple[float, float, float] | None]]
) -> "Figure":
    """Draws accuracies with their intervals, a line a test set and task.

    Args:
      rows: label and majority floor of each line.
      runs: run -> for each line its accuracy, lower and upper bound, None where it has none.

    Returns:
      A figure with shares on a per cent axis; a grey tick marks the floor.
    """
    figure = new_figure(5.4, 0.9 + len(rows) * (0.2 + 0.13 * len(runs)))
    axes = _axes(figure, grid="x")
    offsets = np.linspace(-0.3, 0.3, len(runs) + 2)[1:-1]
    for line, (_, floor) in enumerate(rows):
        axes.plot([100 * floor] * 2, [line - 0.36, line + 0.36], color="#9aa5b1", linewidth=2)
    for index, (name, values) in enumerate(runs.items()):
        color = SERIES[index % len(SERIES)]
        known = [(line, value) for line, value in enumerate(values) if value is not None]
        y = [line + offsets[index] for line, _ in known]
        point, low, high = (100 * np.array([v[i] for _, v in known]) for i in range(3))
        axes.errorbar(
            point,
            y,
            xerr=[point - low, high - point],
            fmt="o",
            markersize=4.5,
            color=color,
            elinewidth=1.6,
            label=name,
        )
    axes.plot([], [], color="#9aa5b1", linewidth=2, label="majority class")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("accuracy, % (95 % Wilson interval)", color=MUTED, fontsize=8)
    _legend(figure, axes)
    return figure


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str, y_label: str
) -> "Figure":
    """Draws lines over training steps.

    Args:
      series: name -> steps and values; values that are not finite leave a hole.
      title: the figure's heading.
      y_label: what the values are, with the unit.

    Returns:
      A figure.
    """
    figure = new_figure(4.6, 2.9)
    axes = _axes(figure, grid="y")
    for index, (name, (steps, values)) in enumerate(series.items()):
        shown = np.where(np.isfinite(values), values, np.nan)
        axes.plot(
            steps,
            shown,
            color=SERIES[index % len(SERIES)],
            linestyle=("-", "--", ":")[index // len(SERIES) % 3],
            linewidth=1.5,
            marker="o" if len(shown) < 12 else None,
            markersize=3,
            label=name,
        )
    axes.set_title(title, color=INK, fontsize=9.5, fontweight="bold", loc="left")
    axes.set_xlabel("optimizer step", color=MUTED, fontsize=8)
    axes.set_ylabel(y_label, color=MUTED, fontsize=8)
    _legend(figure, axes)
    return figure


def histogram(classes: Sequence[str], series: Mapping[str, Sequence[float]], *, title: str) -> "Figure":
    """Draws the share of each class, a bar a series.

    Args:
      classes: C names.
      series: name -> C shares between 0 and 1.
      title: the figure's heading.

    Returns:
      A figure with per cent on the y axis.
    """
    figure = new_figure(max(3.2, 1.6 + 0.42 * len(classes)), 2.9)
    axes = _axes(figure, grid="y")
    width = 0.8 / len(series)
    for index, (name, shares) in enumerate(series.items()):
        x = np.arange(len(classes)) - 0.4 + width * (index + 0.5)
        color = SERIES[index % len(SERIES)]
        axes.bar(x, 100 * np.array(shares), width * 0.92, color=color, label=name)
    axes.set_xticks(range(len(classes)), classes, rotation=40 if len(classes) > 4 else 0)
    axes.set_title(title, color=INK, fontsize=9.5, fontweight="bold", loc="left")
    axes.set_ylabel("%", color=MUTED, fontsize=8)
    if len(series) > 1:
        _legend(figure, axes)
    return figure


def reliability(
    bins: Sequence[Mapping[str, float]], *, ece: float, scaled_ece: float | None, title: str
) -> "Figure":
    """Draws a reliability diagram: accuracy a confidence bin, its size as a bar below.

    Args:
      bins: `low`, `high`, `n`, `confidence`, `accuracy` of each filled bin.
      ece: the expected calibration error.
      scaled_ece: the same after temperature scaling, None where there is none.
      title: what was evaluated on what.

    Returns:
      A figure; bins of fewer than `STEADY_BIN` examples are hollow and off the line.
    """
    figure = new_figure(2.9, 3.2)
    axes = _axes(figure, grid="both")
    width = bins[0]["high"] - bins[0]["low"]
    middle = [(row["low"] + row["high"]) / 2 for row in bins]
    share = np.array([row["n"] for row in bins]) / sum(row["n"] for row in bins)
    axes.bar(middle, share, width * 0.9, color="#d5dde6", label="share of examples")
    axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, linestyle="--")
    for steady in (True, False):
        chosen = [row for row in bins if (row["n"] >= STEADY_BIN) is steady]
        axes.plot(
            [row["confidence"] for row in chosen],
            [row["accuracy"] for row in chosen],
            color=SERIES[0],
            marker="o",
            markersize=3.5,
            markerfacecolor=SERIES[0] if steady else "white",
            linewidth=1.4 if steady else 0,
            label="accuracy" if steady else None,
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence", color=MUTED, fontsize=8)
    words = f"ECE {100 * ece:.1f} %"
    if scaled_ece is not None:
        words += f", scaled {100 * scaled_ece:.1f} %"
    axes.set_title(f"{title}\n{words}", color=INK, fontsize=8.5, loc="left")
    _legend(figure, axes)
    return figure


def heat_map(
    values: np.ndarray, n: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, title: str
) -> "Figure":
    """Draws accuracies of crossed groups with the size of every cell.

    Args:
      values: (G, H) shares, NaN in an empty cell.
      n: (G, H) sizes.
      rows: G names.
      columns: H names.
      title: the figure's heading.

    Returns:
      A figure; cells with fewer than `SMALL_CELL` examples have no colour and italics.
    """
    figure = new_figure(max(3.4, 1.7 + 0.6 * len(columns)), 1.0 + 0.36 * len(rows))
    axes = figure.add_subplot()
    large = np.where(n >= SMALL_CELL, values, np.nan)
    # Colours span the groups that can be compared; a narrow span is widened to five points.
    known = large[~np.isnan(large)]
    high = known.max() if known.size else 1.0
    low = min(known.min() if known.size else 0.0, high - 0.05)
    axes.imshow(large, cmap="Blues", vmin=low - 0.3 * (high - low), vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        small = n[row, column] < SMALL_CELL
        axes.text(
            column,
            row,
            f"{100 * value:.0f}\n({n[row, column]:,})",
            ha="center",
            va="center",
            fontsize=7,
            linespacing=1.0,
            fontstyle="italic" if small else "normal",
            color=MUTED if small else "white" if value > low + 0.45 * (high - low) else INK,
            in_layout=False,
        )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(np.arange(-0.5, len(columns)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    axes.grid(which="minor", color=GRID, linewidth=0.8)
    axes.tick_params(which="both", length=0, colors=INK, labelsize=7.5)
    axes.spines[:].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=9, fontweight="bold")
    return figure


def scatter(
    points: np.ndarray, labels: np.ndarray, classes: Sequence[str], *, title: str, ordered: bool
) -> "Figure":
    """Draws points in the plane, coloured by class.

    Args:
      points: (n, 2).
      labels: (n,) class index, negative where unknown (drawn grey and small).
      classes: C names.
      title: the figure's heading.
      ordered: whether the classes have an order, which picks a sequential palette.

    Returns:
      A figure without axes, since neither PCA nor t-SNE has units.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba_array

    figure = new_figure(4.2, 3.4)
    axes = figure.add_subplot()
    unknown = labels < 0
    axes.scatter(points[unknown, 0], points[unknown, 1], s=3, color="#cfd6de", linewidths=0)
    steps = np.linspace(0, 1, len(classes)) if ordered else np.arange(len(classes))
    palette = colormaps["viridis"](steps) if ordered else to_rgba_array(list(SERIES))
    colors = palette[np.arange(len(classes)) % len(palette)]
    # In random order, so that no class hides another by being drawn last.
    shown = np.random.default_rng(0).permutation(np.flatnonzero(~unknown))
    axes.scatter(points[shown, 0], points[shown, 1], s=8, c=colors[labels[shown]], linewidths=0)
    for name, color in zip(classes, colors, strict=True):
        axes.scatter([], [], s=8, color=color, label=name, linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(GRID)
    axes.set_title(title, color=INK, fontsize=9.5, fontweight="bold", loc="left")
    legend = figure.legend(loc="outside right center", fontsize=7.5, frameon=False, markerscale=1.8)
    for text in legend.get_texts():
        text.set_color(INK)
    return figure


def _axes(figure: "Figure", *, grid: Any) -> "Axes":
    axes = figure.add_subplot()
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color("#9aa5b1")
    axes.tick_params(length=0, colors=INK, labelsize=8)
    return axes


def _legend(figure: "Figure", axes: "Axes") -> None:
    names = axes.get_legend_handles_labels()[1]
    if names and names != ["total"]:
        longest = max(map(len, names))
        fitting = int(figure.get_figwidth() / (0.45 + 0.075 * longest))
        figure.legend(
            loc="outside lower center",
            ncols=max(1, min(len(names), fitting)),
            fontsize=7.5,
            frameon=False,
            labelcolor=INK,
        )
