"""The sections on how reliable answers and metrics are: calibration, unsure answers, paired tests."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.evaluation import charts
from softbio_jax.evaluation.metrics import comparison, selective
from softbio_jax.evaluation.metrics.calibration import with_temperature
from softbio_jax.evaluation.metrics.multiplicity import holm
from softbio_jax.evaluation.predictions import Predictions
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
_RISKS = (0.05, 0.1, 0.2)  # of `selective.RISKS`


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


def unsure(runs: Sequence[RunResults]) -> Section:
    """Returns risk-coverage curves of every test set, and what thresholds chosen on validation give there."""
    blocks: list[Block] = []
    for run in runs:
        curves: dict[str, dict[str, selective.Curve]] = {}
        plain: list[tuple[str, ...]] = []
        answered: list[list[list[str]]] = []  # of each row and risk
        thresholds = _thresholds(run)
        for test_set, task, _ in run.metrics():
            labels, probabilities = _scaled(run, run.predictions[test_set], task)
            found = selective.curve(labels, probabilities)
            curves.setdefault(task, {})[test_set] = found
            plain.append(
                (test_set, task, document.percent(found.risk[-1]), document.number(100 * found.area))
            )
            chosen = thresholds.get(task, {})
            answered.append([_answered(found, chosen.get(f"{risk:g}")) for risk in _RISKS])
        # A risk that no threshold of the run reaches is left out.
        reached = [n for n in range(len(_RISKS)) if any(NOTHING not in row[n] for row in answered)]
        rows = tuple(
            (*row, *(cell for n in reached for cell in cells[n]))
            for row, cells in zip(plain, answered, strict=True)
        )
        above = [(f"risk of at most {100 * _RISKS[n]:g} %", 2) for n in reached]
        blocks.append(
            Table(
                title=f"{run.name}: unsure answers",
                groups=(("", 4), *above) if above else (),
                header=(
                    "test set",
                    "task",
                    "error, %",
                    "area, %",
                    *("answered, %", "error, %") * len(reached),
                ),
                rows=rows,
                notes=(
                    "Area under the risk-coverage curve: the mean error over all shares of answers, the most"
                    " confident first. A threshold is chosen on validation rows so that, with probability"
                    " 95 %, at most the given share of answers above it is wrong (Geifman and El-Yaniv 2017);"
                    " a dash: none is. A risk that no task reaches has no column. Valid for such images.",
                ),
                text_columns=2,
            )
        )
        items = tuple(
            Figure(
                name=f"risk_coverage_{task}_{run.name}",
                caption=f"{run.name}, {task}: share of errors among the most confident answers.",
                figure=charts.risk_coverage(
                    {name: (found.coverage, found.risk) for name, found in sets.items()}, title=task
                ),
            )
            for task, sets in curves.items()
        )
        blocks.append(Figures(title=f"{run.name}: risk and coverage", items=items))
    return Section(title="Unsure answers", blocks=tuple(blocks))


def _scaled(run: RunResults, rows: Predictions, task: str) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = rows.labelled(task)
    return labels, with_temperature(probabilities, run.summary["temperatures"].get(task, 1.0))


def _thresholds(run: RunResults) -> Mapping[str, Mapping[str, float | None]]:
    """Returns task -> risk -> threshold on the validation rows; empty without these."""
    validation = run.validation
    if validation is None:
        return {}
    return {task: selective.thresholds(*_scaled(run, validation, task)) for task in validation.tasks()}


def _answered(curve: selective.Curve, threshold: float | None) -> list[str]:
    """Returns the coverage of a threshold and the errors among its answers."""
    if threshold is None:
        return [NOTHING, NOTHING]
    answered = int((curve.threshold >= threshold).sum())  # thresholds descend
    if not answered:
        return [document.percent(0.0), NOTHING]
    return [document.percent(curve.coverage[answered - 1]), document.percent(curve.risk[answered - 1])]


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
