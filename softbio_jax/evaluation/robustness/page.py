"""The page on a run's robustness: examples, curves over strengths, tables and the mean corruption error."""

import datetime
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.console import aligned, percent
from softbio_jax.data.drawing import synthetic
from softbio_jax.evaluation import charts, plots
from softbio_jax.evaluation.report import document, render
from softbio_jax.evaluation.report.document import Block, Document, Figure, Figures, Section, Table, Text
from softbio_jax.evaluation.robustness import corruptions

_ABOUT = (
    "Every test image is corrupted on the device at five strengths: Gaussian blur, JPEG and noise (both as "
    "published by Hendrycks and Dietterich, 2019), exposure reduced by one to five stops, a drawn face mask "
    "and drawn sunglasses where a centred face crop has mouth and eyes, rotation by 5 to 45 degrees to "
    "either side, and a resolution divided by 2 to 8."
)


def write(found: Mapping[str, Any], folder: pathlib.Path, *, name: str) -> None:
    """Writes robustness.html, .md and .tex and their figures to a folder that exists."""
    content = compose(found, name=name)
    (folder / render.FIGURES).mkdir()
    for item in content.figures():
        plots.save_png(item.figure, folder / render.FIGURES / f"{item.stem}.png")
    for form in ("html", "md", "tex"):
        (folder / f"robustness.{form}").write_text(render.document(content, form), encoding="utf-8")


def compose(found: Mapping[str, Any], *, name: str) -> Document:
    """Returns the page on the result of `measure.summarise` for the run `name`."""
    overview = Section(
        title="Mean corruption error",
        blocks=(
            Text(text=_ABOUT),
            _overview(found),
            Figures(title="Corruptions of a drawn face, at strengths 1 to 5", items=(examples(),)),
        ),
    )
    sections = [overview]
    for test_set, tasks in found["datasets"].items():
        blocks: list[Block] = [Figures(title="Accuracy", items=tuple(_curves(test_set, tasks)))]
        blocks += [_table(test_set, task, metrics) for task, metrics in tasks.items()]
        sections.append(Section(title=test_set, blocks=tuple(blocks)))
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Document(
        title="Robustness",
        subtitle=f"{name} under {len(corruptions.CORRUPTIONS)} corruptions. Written {today}.",
        highlights=tuple(_highlights(found)),
        sections=tuple(sections),
    )


def text(found: Mapping[str, Any]) -> str:
    """Returns the table that is printed after a measurement, errors in per cent."""
    rows = [
        (
            test_set,
            task,
            f"{metrics['n']:,}",
            percent(1 - metrics["clean"]["accuracy"]),
            percent(metrics["mean_corruption_error"]),
        )
        for test_set, tasks in found["datasets"].items()
        for task, metrics in tasks.items()
    ]
    return aligned([("test set", "task", "n", "error", "mean corruption error"), *rows])


def examples(side: int = 112) -> Figure:
    """Returns every corruption at every strength on one drawn face."""
    face = jnp.array(synthetic.draw("synthetic_fairface", "test", 0, size=side, seed=7).image)[None]
    index, key = jnp.zeros(1, jnp.int32), jax.random.key(0)
    figure = plots.new_figure(6.2, 6.2 * len(corruptions.CORRUPTIONS) / (corruptions.STRENGTHS + 1.6))
    grid = figure.subplots(len(corruptions.CORRUPTIONS), corruptions.STRENGTHS)
    for row, kind in zip(grid, corruptions.CORRUPTIONS, strict=True):
        for step, axes in enumerate(row):
            axes.imshow(np.asarray(corruptions.corrupt(face, index, jnp.int32(step + 1), key, name=kind)[0]))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(kind, rotation=0, ha="right", va="center", fontsize=8, color=plots.INK)
    caption = "The face is drawn and not of the test sets."
    return Figure(name="corruptions", caption=caption, figure=figure, wide=True)


def _highlights(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    first: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for test_set, tasks in found["datasets"].items():
        for task, metrics in tasks.items():
            first.setdefault(task, (test_set, metrics))
    rows = []
    for task, (test_set, metrics) in first.items():
        low, high = (percent(bound, 1) for bound in metrics["interval"])
        clean = percent(1 - metrics["clean"]["accuracy"], 1)
        rows.append(
            (
                f"{percent(metrics['mean_corruption_error'], 1)} %",
                f"{task}, mean corruption error",
                f"95 % interval {low} to {high}; {clean} % without corruption; {metrics['n']:,} images of "
                f"{test_set}",
            )
        )
    return rows


def _overview(found: Mapping[str, Any]) -> Table:
    reference = found["reference"]
    rows = []
    for test_set, tasks in found["datasets"].items():
        for task, metrics in tasks.items():
            ratio = metrics.get("relative_to")
            rows.append(
                (
                    test_set,
                    task,
                    document.count(metrics["n"]),
                    document.percent(1 - metrics["clean"]["accuracy"]),
                    document.with_bounds(metrics["mean_corruption_error"], metrics["interval"]),
                    f"{100 * metrics['added_error']:+.2f}",
                    document.NOTHING if ratio is None else document.percent(ratio, digits=1),
                )
            )
    return Table(
        title="Errors, %",
        header=(
            "test set",
            "task",
            "n",
            "without corruption",
            "mean corruption error",
            "added, points",
            f"relative to {reference}",
        ),
        rows=tuple(rows),
        notes=(
            "Mean over corruptions of the mean error over strengths, with a 95 % bootstrap interval over "
            "test images. "
            + (
                f"Relative: each corruption's error divided by that of {reference} first (100 is equal)."
                if reference
                else "With --baseline=RUN each corruption's error is divided by that of another run."
            ),
        ),
        text_columns=2,
    ).filled()


def _curves(test_set: str, tasks: Mapping[str, Any]) -> list[Figure]:
    figures = []
    for task, metrics in tasks.items():
        clean = 100 * metrics["clean"]["accuracy"]
        lines = {
            kind: (list(range(len(rows) + 1)), [clean, *(100 * row["accuracy"] for row in rows)])
            for kind, rows in metrics["corruptions"].items()
        }
        figures.append(
            Figure(
                name=f"robustness_{test_set}_{task}",
                caption=f"{task} on {test_set}: accuracy over the strength of each corruption; 0 is without.",
                figure=charts.curves(
                    lines, title=f"{task} on {test_set}", x_label="strength", y_label="accuracy, %"
                ),
            )
        )
    return figures


def _table(test_set: str, task: str, metrics: Mapping[str, Any]) -> Table:
    clean = document.percent_interval(
        {"accuracy": metrics["clean"]["accuracy"], "intervals": {"accuracy": metrics["clean"]["interval"]}},
        "accuracy",
    )
    rows = tuple(
        (
            kind,
            *(document.with_bounds(row["accuracy"], row["interval"]) for row in found),
            document.percent(1 - float(np.mean([row["accuracy"] for row in found]))),
        )
        for kind, found in metrics["corruptions"].items()
    )
    strengths = tuple(str(1 + step) for step in range(corruptions.STRENGTHS))
    return Table(
        title=f"{task} on {test_set}: accuracy by strength, %",
        groups=(("", 1), ("strength", corruptions.STRENGTHS), ("", 1)),
        header=("corruption", *strengths, "mean error"),
        rows=rows,
        notes=(f"Without corruption {clean}; n {metrics['n']:,}. In brackets 95 % Wilson intervals.",),
    )
