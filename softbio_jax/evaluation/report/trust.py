"""The sections on how reliable the metrics are: calibration and paired tests between runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from softbio_jax.evaluation import charts
from softbio_jax.evaluation.metrics import comparison
from softbio_jax.evaluation.metrics.multiplicity import holm
from softbio_jax.evaluation.report import document
from softbio_jax.evaluation.report.document import NOTHING, Block, Figure, Figures, Section, Table, Text
from softbio_jax.evaluation.report.results import judged
from softbio_jax.evaluation.report.runs import RunResults

PAIRED_COLUMNS = ("accuracy", "balanced", "macro-F1", "only this right : only other", "g", "p", "p adjusted")
PAIRED_NOTES = (
    "In brackets paired 95 % intervals, one at a time. p: McNemar's exact two-sided test of accuracy; "
    "adjusted by Holm over all rows. g: Cohen's, the share of the disagreements that this run gets right, "
    "minus one half; 0.05 is a small effect, 0.15 a medium one.",
)


def calibration(runs: Sequence[RunResults]) -> Section:
    """Returns proper scores and reliability diagrams, before and after temperature scaling."""
    blocks: list[Block] = []
    for run in runs:
        items = tuple(
            Figure(
                name=f"reliability_{test_set}_{task}_{run.name}",
                caption=f"{run.name}, {task} on {test_set}: accuracy against confidence, "
                f"ECE {document.percent(metrics['ece'], digits=1)} %.",
                figure=charts.reliability(
                    metrics["reliability"],
                    ece=metrics["ece"],
                    scaled_ece=metrics.get("temperature", {}).get("ece"),
                    title=f"{task} on {test_set}",
                ),
            )
            for test_set, task, metrics in run.metrics()
        )
        blocks += [_calibration_table(run), Figures(title=f"{run.name}: reliability", items=items)]
        if not run.summary["temperatures"]:
            blocks.append(Text(text=f"{run.name}: no validation predictions, so no temperature."))
    return Section(title="Calibration", blocks=tuple(blocks))


def _calibration_table(run: RunResults) -> Table:
    rows = []
    for test_set, task, metrics in run.metrics():
        scaled = metrics.get("temperature")
        after = [document.number(scaled["value"]), *_scores(scaled)] if scaled else [NOTHING] * 4
        rows.append((test_set, task, *_scores(metrics), *after))
    return Table(
        title=f"{run.name}: calibration",
        groups=(("", 2), ("as trained", 3), ("temperature fitted on validation", 4)),
        header=("test set", "task", "NLL, nats", "Brier", "ECE, %", "T", "NLL", "Brier", "ECE, %"),
        rows=tuple(rows),
        notes=(
            "ECE over 15 equal bins of the top probability; Brier summed over classes (0 to 2).",
            "Few examples per bin bias ECE upwards, and its bootstrap draws even more, so an "
            "interval can lie above its estimate.",
        ),
        text_columns=2,
    ).filled()


def _scores(metrics: Mapping[str, Any]) -> list[str]:
    plain = [document.plain_interval(metrics, name) for name in ("nll", "brier")]
    return [*plain, document.percent_interval(metrics, "ece")]


def comparisons(runs: Sequence[RunResults]) -> Section | None:
    """Returns paired tests of each run against the first; None with a single run."""
    first, *others = runs
    found = [
        (
            run.name,
            test_set,
            task,
            comparison.compare(run.predictions[test_set], first.predictions[test_set], task),
        )
        for run in others
        for test_set, task in judged([run])
        if first.find(test_set, task) is not None
    ]
    if not found:
        return None
    adjusted = holm([row["p_value"] for *_, row in found])
    rows = tuple(
        (run, test_set, task, document.count(row["n"]), *paired_cells(row, corrected))
        for (run, test_set, task, row), corrected in zip(found, adjusted, strict=True)
    )
    table = Table(
        title=f"Difference to {first.name} on the same examples, percentage points",
        header=("run", "test set", "task", "n", *PAIRED_COLUMNS),
        rows=rows,
        notes=PAIRED_NOTES,
        text_columns=3,
    )
    return Section(title="Paired comparisons", blocks=(table,))


def paired_cells(row: Mapping[str, Any], adjusted: float) -> list[str]:
    """Returns the cells of `PAIRED_COLUMNS` for a result of `comparison.compare` and its adjusted p-value."""
    changes = row["differences"]
    cells = [
        document.points(changes[name]["difference"], changes[name]["interval"])
        for name in ("accuracy", "balanced_accuracy", "macro_f1")
    ]
    return [
        *cells,
        f"{row['first_only']} : {row['second_only']}",
        f"{row['g']:+.2f}",
        document.p_value(row["p_value"]),
        document.p_value(adjusted),
    ]
