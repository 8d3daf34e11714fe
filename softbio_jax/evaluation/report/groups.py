"""The section on fairness: gaps between groups, and every cell with its size."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.evaluation import charts
from softbio_jax.evaluation.metrics import fairness
from softbio_jax.evaluation.report import document
from softbio_jax.evaluation.report.document import Block, Figure, Figures, Section, Table, Text
from softbio_jax.evaluation.report.runs import Run
from softbio_jax.tasks import TASKS

Audits = Mapping[str, Mapping[str, Any]]  # run -> test set -> what `fairness.audit` returns

INTRODUCTION = (
    "Race is an audit column: no model predicts it. Gender and age group are the labels. Cells "
    f"with fewer than {fairness.SMALL_CELL} examples (marked †, without colour in the maps) are "
    "shown and left out of the gaps: one picture there is more than a percentage point."
)


def audits(runs: Sequence[Run]) -> Audits:
    """Returns the fairness audit of every run and test set that has factors."""
    found = {}
    for run in runs:
        sets = {name: fairness.audit(item) for name, item in run.predictions.items()}
        found[run.name] = {name: audit for name, audit in sets.items() if audit}
    return found


def section(found: Audits) -> Section:
    """Returns gaps, maps and tables of all audits."""
    blocks: list[Block] = [Text(text=INTRODUCTION)]
    if not any(found.values()):
        blocks.append(Text(text="No test set has race, gender or age labels."))
    else:
        blocks.append(_gaps(found))
    for run, sets in found.items():
        maps = tuple(
            figure
            for test_set, audit in sets.items()
            for task, cuts in audit.items()
            for figure in _maps(run, test_set, task, cuts)
        )
        if maps:
            blocks.append(Figures(title=f"{run}: accuracy by group, %", items=maps))
        blocks.extend(
            _cells(run, test_set, task, cuts)
            for test_set, audit in sets.items()
            for task, cuts in audit.items()
        )
    return Section(title="Fairness", blocks=tuple(blocks))


def _gaps(found: Audits) -> Table:
    rows = []
    for run, sets in found.items():
        for test_set, audit in sets.items():
            for task, cuts in audit.items():
                for cut, result in cuts.items():
                    gap = result["gap"]
                    if gap is None:
                        continue
                    rows.append(
                        (
                            run,
                            test_set,
                            task,
                            cut.replace(" x ", " × "),
                            gap["best"],
                            gap["worst"],
                            document.points(gap["gap"], gap["interval"]),
                            document.p_value(gap["p_value"]),
                            f"{gap['smallest']['group']} ({gap['smallest']['n']:,})",
                        )
                    )
    return Table(
        title="Accuracy gaps between groups, percentage points",
        header=(
            "run",
            "test set",
            "task",
            "groups",
            "best",
            "worst",
            "gap",
            "p, all groups equal",
            "smallest cell",
        ),
        rows=tuple(rows),
        notes=(
            "In brackets Newcombe's 95 % interval for these two groups, which were picked for "
            "being extreme; whether groups differ at all is the chi-square p-value.",
        ),
        text_columns=6,
    )


def _maps(run: str, test_set: str, task: str, cuts: Mapping[str, Any]) -> list[Figure]:
    figures = []
    for cut in ("race x gender", "race x age", "gender x age"):
        if cut not in cuts:
            continue
        first, second = cut.split(" x ")
        rows = cuts[cut]["rows"]
        if all(row["small"] for row in rows):
            continue  # nothing in the map would be comparable
        across, down = _in_order(rows, second), _in_order(rows, first)
        values = np.full((len(down), len(across)), np.nan)
        n = np.zeros(values.shape, np.int64)
        for row in rows:
            cell = down.index(row[first]), across.index(row[second])
            values[cell], n[cell] = row["accuracy"], row["n"]
        figures.append(
            Figure(
                name=f"groups_{test_set}_{task}_{first}_{second}_{run}",
                caption=f"{run}: {task} accuracy on {test_set} by {first} and {second}, with n.",
                figure=charts.heat_map(
                    values, n, down, across, title=f"{task} on {test_set}, {first} × {second}"
                ),
                wide=True,
            )
        )
    return figures


def _cells(run: str, test_set: str, task: str, cuts: Mapping[str, Any]) -> Table:
    """The finest cut without age, or age alone: the full product is in the data files."""
    cut = next(c for c in ("race x gender", "race", "gender", "age") if c in cuts)
    factors = cut.split(" x ")
    shares = [
        (name, key)
        for name, key in (
            ("balanced", "balanced_accuracy"),
            ("macro-F1", "macro_f1"),
            ("one-off", "one_off_accuracy"),
        )
        if key in cuts[cut]["rows"][0]
    ]
    rows = []
    for row in cuts[cut]["rows"]:
        low, high = row["interval"]
        rows.append(
            (
                fairness.group_name(row, factors) + (" †" if row["small"] else ""),
                document.count(row["n"]),
                f"{document.percent(row['accuracy'])} [{100 * low:.1f}, {100 * high:.1f}]",
                *(document.percent(row[key]) for _, key in shares),
                *((document.number(row["expected_age_mae"]),) if task == "age" else ()),
                f"{row['nll']:.3f}",
                f"{row['brier']:.3f}",
                document.percent(row["ece"], digits=1),
            )
        )
    return Table(
        title=f"{run}: {task} on {test_set} by {cut.replace(' x ', ' × ')}, %",
        header=(
            "group",
            "n",
            "accuracy",
            *(name for name, _ in shares),
            *(("MAE, years",) if task == "age" else ()),
            "NLL",
            "Brier",
            "ECE",
        ),
        rows=tuple(rows),
        notes=("All cuts, down to race × gender × age group, are in fairness.csv beside this report.",),
    )


def _in_order(rows: Sequence[Mapping[str, Any]], factor: str) -> list[str]:
    present = list(dict.fromkeys(row[factor] for row in rows))
    order = TASKS[factor].classes if factor in TASKS else tuple(sorted(present))
    return [value for value in order if value in present]
