"""The tables and the plot of docs/latency.md."""

import json
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from softbio_jax import files
from softbio_jax.console import markdown, percent
from softbio_jax.evaluation import plots
from softbio_jax.tasks import TASKS

_MARKS = ("<!-- {name}: written by scripts/benchmarks/latency.py -->", "<!-- end of {name} -->")
_MARKERS = {"litert": "o", "onnx": "s"}
# The files of a comparison: its name for it -> runtime and precision.
_FILES = {
    f"{runtime} {precision}{how}": (runtime, precision)
    for runtime in _MARKERS
    for precision, how in (("float32", ""), ("int8", ", calibrated"))
}
Rows = Sequence[Mapping[str, Any]]
# encoder, size, runtime, precision -> task -> accuracy in [0, 1].
Accuracies = Mapping[tuple[str, int, str, str], Mapping[str, float]]


def write_page(page: pathlib.Path, values: Mapping[str, Any], compared: pathlib.Path) -> None:
    """Replaces the tables of a page, and the plot beside it.

    Args:
      page: a Markdown file with the marks of both tables.
      values: what --measure wrote.
      compared: a folder of ENCODER-SIZE.json of export.py --compare, with accuracies of trained models.
    """
    rows, accuracies = values["rows"], _accuracies(compared)
    text = page.read_text()
    exported = sorted(
        (row for row in rows if row["way"] == "multitask"), key=lambda row: (row["parameters"], row["size"])
    )
    tables = {
        "models": _table(exported, accuracies),
        "ways": _ways([row for row in rows if row["way"] != "multitask"]),
        "machine": _machine(values["machine"]),
    }
    for name, table in tables.items():
        start, end = (mark.format(name=name) for mark in _MARKS)
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}\n{table}{end}{after}"
    files.write_text(page, text)
    images = page.parent / "images"
    images.mkdir(exist_ok=True)
    files.write_text(images / "latency.svg", plots.svg(_plot(exported, accuracies)) + "\n")


def _accuracies(compared: pathlib.Path) -> Accuracies:
    found = {}
    for path in sorted(compared.glob("*.json")):
        variant, _, size = path.stem.rpartition("-")
        for row in json.loads(path.read_text())["rows"]:
            if row["name"] in _FILES:
                found[variant, int(size), *_FILES[row["name"]]] = row["accuracy"]
    return found


def _accuracy(row: Mapping[str, Any], accuracies: Accuracies) -> Mapping[str, float]:
    """Returns task -> accuracy of a measured file, empty if it is not known."""
    return accuracies.get((row["variant"], row["size"], row["format"], row["precision"]), {})


def _pairs(rows: Rows) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yields the rows of one core and of two of each file, in the order of the first."""
    names = ("variant", "size", "way", "format", "precision")
    twos = {tuple(row[name] for name in names): row for row in rows if row["threads"] == 2}
    for row in rows:
        if row["threads"] == 1 and (two := twos.get(tuple(row[name] for name in names))):
            yield row, two


def _table(rows: Rows, accuracies: Accuracies) -> str:
    header = [
        "encoder",
        "pixels",
        "runtime",
        "precision",
        "1 core: median, 95 % ms",
        "2 cores: median, 95 % ms",
    ]
    header += ["of float32, 1 core", "file MB", "peak MB", "M parameters", "GFLOPs"]
    header += [f"{task} %" for task in TASKS]
    exact = {
        (row["variant"], row["size"], row["format"]): row["median_ms"]
        for row in rows
        if row["threads"] == 1 and row["precision"] == "float32"
    }
    lines = []
    for one, two in _pairs(rows):
        ratio = one["median_ms"] / exact[one["variant"], one["size"], one["format"]]
        cells = [one["variant"], str(one["size"]), one["format"], one["precision"], _times(one), _times(two)]
        cells += [f"{ratio:.2f}", f"{one['file_mb']:.2f}", f"{one['peak_mb']:.0f}"]
        cells += [f"{one['parameters'] / 1e6:.2f}", f"{one['gflops']:.2f}"]
        known = _accuracy(one, accuracies)
        cells += [percent(known[task]) if task in known else "" for task in TASKS]
        lines.append(cells)
    return f"{markdown(header, lines)}\n"


def _ways(rows: Rows) -> str:
    header = ["encoder", "pixels", "way", "1 core: median, 95 % ms", "2 cores: median, 95 % ms"]
    header += ["of one multitask, 1 core", "file MB", "peak MB", "M parameters", "GFLOPs"]
    least = {
        (row["variant"], row["size"]): row["median_ms"]
        for row in rows
        if row["threads"] == 1 and row["way"] == "one multitask"
    }
    lines = []
    for one, two in _pairs(rows):
        base = least.get((one["variant"], one["size"]))
        ratio = f"{one['median_ms'] / base:.2f}" if base else ""
        cells = [one["variant"], str(one["size"]), one["way"], _times(one), _times(two), ratio]
        cells += [f"{one['file_mb']:.1f}", f"{one['peak_mb']:.0f}"]
        lines.append([*cells, f"{one['parameters'] / 1e6:.2f}", f"{one['gflops']:.2f}"])
    return f"{markdown(header, lines)}\n"


def _machine(machine: Mapping[str, Any]) -> str:
    name = f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"
    text = f"{name}; load {machine['load']:.1f} before"
    busy = (
        ", so other work had the cores as well: times are upper bounds, and ratios rough"
        if machine["load"] > 0.5
        else ""
    )
    return f"{text}{busy}.\n"


def _times(row: Mapping[str, Any]) -> str:
    return f"{row['median_ms']:.1f}, {row['p95_ms']:.1f}"


def _plot(rows: Rows, accuracies: Accuracies) -> Any:
    """Draws latency against the size of the file, and against accuracy where it is known, with the fronts."""
    ones = [row for row in rows if row["threads"] == 1]
    known = [(row, 100 * statistics.mean(of.values())) for row in ones if (of := _accuracy(row, accuracies))]
    panels: list[tuple[str, list[tuple[Mapping[str, Any], float]], int]] = [
        ("file, MB", [(row, row["file_mb"]) for row in ones], 1)
    ]
    if known:
        panels.append(("mean accuracy, %", known, -1))
    figure = plots.new_figure(5.2 * len(panels), 3.8)
    for number, (label, points, sign) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), number)
        variants = list(dict.fromkeys(row["variant"] for row in ones))
        for row, y in points:
            colour = plots.SERIES[variants.index(row["variant"])]
            filled = colour if row["precision"] == "int8" else "white"
            axes.scatter(
                row["median_ms"], y, s=26, marker=_MARKERS[row["format"]], color=filled, edgecolor=colour
            )
            if row["format"] == "litert":  # the ONNX file of the same model is close by
                place = {"xytext": (4, 3), "textcoords": "offset points"}
                axes.annotate(str(row["size"]), (row["median_ms"], y), fontsize=6, color=plots.MUTED, **place)
        front = pareto([(row["median_ms"], sign * y) for row, y in points])
        axes.plot(
            [x for x, _ in front], [sign * y for _, y in front], color=plots.MUTED, linewidth=0.8, zorder=0
        )
        if number == 1:
            for variant, colour in zip(variants, plots.SERIES, strict=False):
                axes.scatter([], [], s=26, color=colour, label=variant)
        axes.set(xlabel="median ms of an image, one core", ylabel=label)
        plots.logarithmic(axes, "x", [row["median_ms"] for row, _ in points], prefixes=False)
        if sign == 1:
            plots.logarithmic(axes, "y", [y for _, y in points], prefixes=False)
        axes.grid(color=plots.GRID, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    title = "circle LiteRT, square ONNX; filled int8; line: the Pareto front"
    figure.legend(
        loc="outside lower center", ncols=5, fontsize=7, frameon=False, title=title, title_fontsize=7
    )
    return figure


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points of which no other is at most as large in both, from left to right."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front
