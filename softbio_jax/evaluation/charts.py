"""Charts of a report: intervals, curves, histograms, reliability, heat maps, scatter plots."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from softbio_jax.evaluation.metrics.fairness import SMALL_CELL
from softbio_jax.evaluation.plots import GRID, INK, MUTED, SERIES, logarithmic, new_figure, separate_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEADY_BIN = 10  # below it, a bin's accuracy is mostly chance
_LINE = "#9aa5b1"  # axes and reference lines
# Beside the colours, so that series differ in grey print as well; more markers than colours, so that the
# eighth series is not the first again.
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")


def accuracies(
    rows: Sequence[tuple[str, float]], runs: Mapping[str, Sequence[tuple[float, float, float] | None]]
) -> "Figure":
    """Draws accuracies with their intervals, one line per test set and task.

    Args:
      rows: label and majority baseline of each line; a grey tick marks the baseline.
      runs: run -> for each line its accuracy, lower and upper bound, or None.
    """
    figure = new_figure(5.4, 0.9 + len(rows) * (0.2 + 0.13 * len(runs)))
    axes = _axes(figure, grid="x", x_label="accuracy, % (95 % interval)")
    offsets = np.linspace(-0.3, 0.3, len(runs) + 2)[1:-1]
    for line, (_, majority) in enumerate(rows):
        axes.plot([100 * majority] * 2, [line - 0.36, line + 0.36], color=_LINE, linewidth=2)
    for index, (name, values) in enumerate(runs.items()):
        known = [(line, value) for line, value in enumerate(values) if value is not None]
        point, low, high = (100 * np.array([v[i] for _, v in known]) for i in range(3))
        axes.errorbar(
            point,
            [line + offsets[index] for line, _ in known],
            xerr=[point - low, high - point],
            fmt=MARKERS[index % len(MARKERS)],
            markersize=4.5,
            color=SERIES[index % len(SERIES)],
            elinewidth=1.6,
            label=name,
        )
    axes.plot([], [], color=_LINE, linewidth=2, label="majority class")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    bounds = [100 * x for values in runs.values() for value in values if value for x in value]
    _from_zero(axes, "x", [*bounds, *(100 * majority for _, majority in rows)])
    _legend(figure, axes)
    return figure


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    y_label: str,
    x_label: str = "optimizer step",
) -> "Figure":
    """Draws lines, by default over training steps: name -> x and y; y that are not finite leave a gap."""
    figure = new_figure(4.6, 2.9)
    axes = _axes(figure, grid="y", title=title, x_label=x_label, y_label=y_label)
    for index, (name, (steps, values)) in enumerate(series.items()):
        axes.plot(
            steps,
            np.where(np.isfinite(values), values, np.nan),
            color=SERIES[index % len(SERIES)],
            linestyle=LINES[index % len(LINES)],
            linewidth=1.5,
            marker=MARKERS[index % len(MARKERS)] if len(values) < 12 else None,
            markersize=3,
            label=name,
        )
    finite = [v for _, values in series.values() for v in values if np.isfinite(v)]
    _from_zero(axes, "y", finite)
    _legend(figure, axes)
    return figure


def histogram(classes: Sequence[str], series: Mapping[str, Sequence[float]], *, title: str) -> "Figure":
    """Draws the share of each of C classes, one bar per series: name -> C shares between 0 and 1."""
    figure = new_figure(max(3.2, 1.6 + 0.42 * len(classes)), 2.9)
    axes = _axes(figure, grid="y", title=title, y_label="%")
    width = 0.8 / len(series)
    for index, (name, shares) in enumerate(series.items()):
        x = np.arange(len(classes)) - 0.4 + width * (index + 0.5)
        color = SERIES[index % len(SERIES)]
        hatch = HATCHES[index % len(HATCHES)]
        axes.bar(
            x,
            100 * np.array(shares),
            width * 0.92,
            color=color,
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
            label=name,
        )
    axes.set_xticks(range(len(classes)), classes, rotation=40 if len(classes) > 4 else 0)
    if len(series) > 1:
        _legend(figure, axes)
    return figure


def against_cost(
    points: Mapping[str, tuple[float, float, float, float]], *, x_label: str, y_label: str
) -> "Figure":
    """Draws accuracies with their intervals against a cost on a logarithmic axis.

    Args:
      points: name -> cost, accuracy, lower and upper bound.
    """
    figure = new_figure(5.8, 3.4)
    axes = _axes(figure, grid="both", x_label=x_label, y_label=y_label)
    for index, (name, (cost, *values)) in enumerate(points.items()):
        point, low, high = (100 * value for value in values)
        axes.errorbar(
            cost,
            point,
            yerr=[[point - low], [high - point]],
            fmt=MARKERS[index % len(MARKERS)],
            markersize=5.5,
            color=SERIES[index % len(SERIES)],
            elinewidth=1.4,
            label=name,
        )
    logarithmic(axes, "x", [cost for cost, *_ in points.values()], prefixes=True)
    axes.margins(x=0.15)
    _from_zero(axes, "y", [100 * value for _, *values in points.values() for value in values])
    _legend(figure, axes)
    return figure


def reliability(
    bins: Sequence[Mapping[str, float]], *, ece: float, scaled_ece: float | None, title: str
) -> "Figure":
    """Draws a reliability diagram: accuracy per confidence bin, with the bin's size as a bar.

    Bins (see `Reliability.filled_bins`) of fewer than `STEADY_BIN` examples are hollow and not
    connected. `scaled_ece` is the calibration error after temperature scaling, if there is one.
    """
    figure = new_figure(2.9, 3.2)
    axes = _axes(figure, grid="both", x_label="confidence")
    width = bins[0]["high"] - bins[0]["low"]
    middle = [(row["low"] + row["high"]) / 2 for row in bins]
    share = np.array([row["n"] for row in bins]) / sum(row["n"] for row in bins)
    axes.bar(middle, share, width * 0.9, color="#d5dde6", label="share of examples")
    axes.plot([0, 1], [0, 1], color=_LINE, linewidth=1, linestyle="--")
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
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    scaled = "" if scaled_ece is None else f", scaled {100 * scaled_ece:.1f} %"
    axes.set_title(f"{title}\nECE {100 * ece:.1f} %{scaled}", color=INK, fontsize=8.5, loc="left")
    _legend(figure, axes)
    return figure


def risk_coverage(
    series: Mapping[str, tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]], *, title: str
) -> "Figure":
    """Draws errors over answers, the most confident first: name -> their shares in [0, 1]."""
    figure = new_figure(2.9, 2.9)
    axes = _axes(figure, grid="both", title=title, x_label="answered, %", y_label="errors, %")
    for index, (name, (coverage, risk)) in enumerate(series.items()):
        x, y = 100 * np.asarray(coverage), 100 * np.asarray(risk)
        axes.plot(x, y, color=SERIES[index % len(SERIES)], linewidth=1.4, label=name)
    axes.set(xlim=(0, 100), ylim=(0, None))
    _legend(figure, axes)
    return figure


def heat_map(
    values: np.ndarray, n: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, title: str
) -> "Figure":
    """Draws accuracies of crossed groups with the size of every cell.

    Cells with fewer than `SMALL_CELL` examples have no colour and italics.

    Args:
      values: (G, H) shares, NaN in an empty cell; G named by `rows`, H by `columns`.
      n: (G, H) sizes.
    """
    figure = new_figure(max(3.4, 1.7 + 0.6 * len(columns)), 1.0 + 0.36 * len(rows))
    axes = figure.add_subplot()
    large = np.where(n >= SMALL_CELL, values, np.nan)
    # Colours span the comparable groups; a narrow span is widened to five points.
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
    separate_cells(axes, values.shape, color=GRID, linewidth=0.8)
    axes.tick_params(which="both", length=0, colors=INK, labelsize=7.5)
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=9, fontweight="bold")
    return figure


def scatter(
    points: np.ndarray, labels: np.ndarray, classes: Sequence[str], *, title: str, ordered: bool
) -> "Figure":
    """Draws points in the plane, coloured by class, without axes: PCA and t-SNE have no units.

    Args:
      points: (n, 2).
      labels: (n,) class index, negative where unknown (drawn grey and small).
      ordered: whether the classes have an order, which selects a sequential palette.
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
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(GRID)
    _title(axes, title)
    figure.legend(loc="outside right center", fontsize=7.5, frameon=False, markerscale=1.8, labelcolor=INK)
    return figure


def _axes(figure: "Figure", *, grid: Any, title: str = "", x_label: str = "", y_label: str = "") -> "Axes":
    axes = figure.add_subplot()
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(_LINE)
    axes.tick_params(length=0, colors=INK, labelsize=8)
    axes.set_xlabel(x_label, color=MUTED, fontsize=8)
    axes.set_ylabel(y_label, color=MUTED, fontsize=8)
    _title(axes, title)
    return axes


def _from_zero(axes: "Axes", which: str, values: Sequence[float]) -> None:
    """Starts an axis at zero, or, where that would hide the differences, breaks it visibly."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    horizontal = which == "x"
    limits, now = (axes.set_xlim, axes.get_xlim()) if horizontal else (axes.set_ylim, axes.get_ylim())
    start = min(0.0, now[0]) if low < 0 else 0.0
    if high > low > 0.7 * high:
        step = 10 ** np.floor(np.log10(high)) / 2
        start = step * np.floor((low - 0.1 * (high - low)) / step)
    limits(start, max(now[1], 0.0))
    if start > 0:
        x, y, turn = (0.03, 0.0, 0) if horizontal else (0.0, 0.05, 90)
        axes.text(
            x,
            y,
            "//",
            transform=axes.transAxes,
            rotation=turn,
            ha="center",
            va="center",
            fontsize=9,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
        label = axes.xaxis.label if horizontal else axes.yaxis.label
        label.set_text(f"{label.get_text()}; the axis begins at {start:g}")


def _title(axes: "Axes", title: str) -> None:
    axes.set_title(title, color=INK, fontsize=9.5, fontweight="bold", loc="left")


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
