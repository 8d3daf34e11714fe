"""The sections on how far figures can be trusted: calibration and paired tests between runs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from softbio_jax.evaluation import charts
from softbio_jax.evaluation.metrics import comparison
from softbio_jax.evaluation.report import document
from softbio_jax.evaluation.report.document import NOTHING, Block, Figure, Figures, Section, Table, Text
from softbio_jax.evaluation.report.results import judged
from softbio_jax.evaluation.report.runs import Run


def calibration(runs: Sequence[Run]) -> Section:
    """Returns proper scores and reliability diagrams, before and after temperature scaling."""
    blocks: list[Block] = []
    for run in runs:
        blocks.append(_calibration_table(run))
        items = []
        for test_set, tasks in run.summary["datasets"].items():
            for task, figures in tasks.items():
                scaled = figures.get("temperature", {}).get("ece")
                items.append(
                    Figure(
                        name=f"reliability_{test_set}_{task}_{run.name}",
                        caption=f"{run.name}, {task} on {test_set}: accuracy against confidence, "
                        f"ECE {document.percent(figures['ece'], digits=1)} %.",
                        figure=charts.reliability(
                            figures["reliability"],
                            ece=figures["ece"],
                            scaled_ece=scaled,
                            title=f"{task} on {test_set}",
                        ),
                    )
                )
        blocks.append(Figures(title=f"{run.name}: reliability", items=tuple(items)))
        if not run.summary["temperatures"]:
            blocks.append(Text(text=f"{run.name}: no validation predictions, so no temperature."))
    return Section(title="Calibration", blocks=tuple(blocks))


def _calibration_table(run: Run) -> Table:
    rows = []
    for test_set, tasks in run.summary["datasets"].items():
        for task, figures in tasks.items():
            scaled = figures.get("temperature")
            after = [NOTHING] * 4
            if scaled:
                after = [document.number(scaled["value"]), *_scores(scaled)]
            rows.append((test_set, task, *_scores(figures), *after))
    return Table(
        title=f"{run.name}: calibration",
        groups=(("", 2), ("as trained", 3), ("temperature fitted on validation", 4)),
        header=("test set", "task", "NLL, nats", "Brier", "ECE, %", "T", "NLL", "Brier", "ECE, %"),
        rows=tuple(rows),
        notes=(
            "ECE over 15 equal bins of the top probability; Brier summed over classes (0 to 2).",
            "Few examples a bin make ECE too large, and bootstrap draws of them larger still, so "
            "that an interval can lie above its figure.",
        ),
        text_columns=2,
    )


def _scores(figures: Mapping[str, Any]) -> list[str]:
    return [
        document.plain_interval(figures, "nll"),
        document.plain_interval(figures, "brier"),
        document.percent_interval(figures, "ece"),
    ]


def comparisons(runs: Sequence[Run]) -> Section | None:
    """Returns paired tests of each run against the first; None with a single run."""
    rows = tuple(_compared(runs))
    if not rows:
        return None
    table = Table(
        title=f"Difference to {runs[0].name} on the same examples, percentage points",
        header=(
            "run",
            "test set",
            "task",
            "n",
            "accuracy",
            "balanced",
            "macro-F1",
            "right alone : other alone",
            "McNemar p",
        ),
        rows=rows,
        notes=(
            "In brackets paired bootstrap 95 % intervals. McNemar's test is exact and two-sided "
            "and not corrected for the number of rows.",
        ),
        text_columns=3,
    )
    return Section(title="Paired comparisons", blocks=(table,))


def _compared(runs: Sequence[Run]) -> Iterator[tuple[str, ...]]:
    first, *others = runs
    for run in others:
        for test_set, task in judged([run]):
            reference = first.predictions.get(test_set)
            if reference is None or task not in first.summary["datasets"][test_set]:
                continue
            found = comparison.compare(run.predictions[test_set], reference, task)
            changes = found["differences"]
            yield (
                run.name,
                test_set,
                task,
                document.count(found["n"]),
                *(
                    document.points(changes[name]["difference"], changes[name]["interval"])
                    for name in ("accuracy", "balanced_accuracy", "macro_f1")
                ),
                f"{found['first_only']} : {found['second_only']}",
                document.p_value(found["p_value"]),
            )
