"""The section on fairness: gaps between groups, and every cell with its size."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.evaluation import charts
from softbio_jax.evaluation.metrics import fairness
from softbio_jax.evaluation.report import document
from softbio_jax.evaluation.report.document import Block, Figure, Figures, Section, Table, Text
from softbio_jax.evaluation.report.runs import RunResults
from softbio_jax.tasks import TASKS

Audits = Mapping[str, Mapping[str, Any]]  # run -> test set -> what `fairness.audit` returns

INTRODUCTION = (
    "Race is an audit column: no model predicts it. Gender and age group are the labels. In cells "
    f"with fewer than {fairness.SMALL_CELL} examples (marked †, without colour in the maps) one image is "
    "more than a percentage point."
)
SIGNIFICANT = 0.05
GAP_COLUMNS = (
    "test set",
    "task",
    "grouped by (groups)",
    "n per group",
    "accuracy",
    "p",
    "p adjusted",
    "V",
    "surest difference (n): points",
)
GAP_NOTES = (
    "All groups count, however small. p: chi-square test that all are equally accurate (random tables "
    "where an expected count is below 5); adjusted by Benjamini and Hochberg over all rows of a run. V: "
    "Cramer's V without bias; 0.1 is a small effect, 0.3 a medium one.",
    "A pair of groups is named only if the adjusted p is below 0.05 and its 95 % interval, simultaneous "
    "for all pairs (Bonferroni, Newcombe), is above 0; of those, the one with the greatest lower bound.",
)


def audits(runs: Sequence[RunResults]) -> Audits:
    """Returns the fairness audit of every run and test set that has factors."""
    return {
        run.name: fairness.adjusted(
            {name: found for name, item in run.predictions.items() if (found := fairness.audit(item))}
        )
        for run in runs
    }


def section(found: Audits) -> Section:
    """Returns gaps, maps and tables of all audits."""
    blocks: list[Block] = [Text(text=INTRODUCTION)]
    if any(found.values()):
        blocks.append(_gaps(found))
    else:
        blocks.append(Text(text="No test set has race, gender or age labels."))
    for run, sets in found.items():
        judged = [(name, task, cuts) for name, audit in sets.items() for task, cuts in audit.items()]
        maps = tuple(figure for name, task, cuts in judged for figure in _maps(run, name, task, cuts))
        if maps:
            blocks.append(Figures(title=f"{run}: accuracy by group, %", items=maps))
        blocks += [_cells(run, name, task, cuts) for name, task, cuts in judged]
    return Section(title="Fairness", blocks=tuple(blocks))


def gap_rows(sets: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yields the gaps of one run (test set -> audit, see `audits`) as cells of `GAP_COLUMNS`."""
    for test_set, audit in sets.items():
        for task, cuts in audit.items():
            for cut, result in cuts.items():
                if gap := result["gap"]:
                    sizes = f"{gap['smallest']['n']:,} to {gap['largest']['n']:,}"
                    low, high = (gap[key]["accuracy"] for key in ("lowest", "highest"))
                    ends = f"{document.percent(low, digits=1)} to {document.percent(high, digits=1)}"
                    tests = [document.p_value(gap[key]) for key in ("p_value", "p_adjusted")]
                    effect, by = f"{gap['effect']:.2f}", f"{_shown(cut)} ({gap['groups']})"
                    yield test_set, task, by, sizes, ends, *tests, effect, _surest(gap)


def _surest(gap: Mapping[str, Any]) -> str:
    """Returns the pair of groups that differs, with n and points, or that none is shown to."""
    pair = gap["pair"]
    if not pair or gap["p_adjusted"] >= SIGNIFICANT:
        return "none shown"
    both = (f"{pair[key]['group']} ({pair[key]['n']:,})" for key in ("best", "worst"))
    return f"{' > '.join(both)}: {document.points(pair['gap'], pair['interval'])}"


def _gaps(found: Audits) -> Table:
    named = len(found) > 1
    return Table(
        title="Accuracy gaps between groups, %",
        header=(*(("run",) if named else ()), *GAP_COLUMNS),
        rows=tuple(((run, *row) if named else row) for run, sets in found.items() for row in gap_rows(sets)),
        notes=GAP_NOTES,
        text_columns=3 + named,
    ).filled()


def _maps(run: str, test_set: str, task: str, cuts: Mapping[str, Any]) -> list[Figure]:
    figures = []
    for cut in ("race x gender", "race x age", "gender x age"):
        rows = cuts[cut]["rows"] if cut in cuts else ()
        if all(row["small"] for row in rows):
            continue  # nothing in the map would be comparable
        first, second = cut.split(" x ")
        across, down = _in_order(rows, second), _in_order(rows, first)
        values = np.full((len(down), len(across)), np.nan)
        n = np.zeros(values.shape, np.int64)
        for row in rows:
            cell = down.index(row[first]), across.index(row[second])
            values[cell], n[cell] = row["accuracy"], row["n"]
        title = f"{task} on {test_set}, {_shown(cut)}"
        figures.append(
            Figure(
                name=f"groups_{test_set}_{task}_{first}_{second}_{run}",
                caption=f"{run}: {task} accuracy on {test_set} by {first} and {second}, with n.",
                figure=charts.heat_map(values, n, down, across, title=title),
                wide=True,
            )
        )
    return figures


def _cells(run: str, test_set: str, task: str, cuts: Mapping[str, Any]) -> Table:
    """Returns the finest cut without age, or age: the full product is in the data files."""
    cut = next(c for c in ("race x gender", "race", "gender", "age") if c in cuts)
    names = {"balanced_accuracy": "balanced", "macro_f1": "macro-F1", "one_off_accuracy": "one-off"}
    shares = {key: name for key, name in names.items() if key in cuts[cut]["rows"][0]}
    years = ("MAE, years",) if task == "age" else ()
    rows = tuple(
        (
            fairness.group_name(row, cut.split(" x ")) + (" †" if row["small"] else ""),
            document.count(row["n"]),
            document.with_bounds(row["accuracy"], row["interval"]),
            *(document.percent(row[key]) for key in shares),
            *(document.number(row["expected_age_mae"]) for _ in years),
            f"{row['nll']:.3f}",
            f"{row['brier']:.3f}",
            document.percent(row["ece"], digits=1),
        )
        for row in cuts[cut]["rows"]
    )
    return Table(
        title=f"{run}: {task} on {test_set} by {_shown(cut)}, %",
        header=("group", "n", "accuracy", *shares.values(), *years, "NLL", "Brier", "ECE"),
        rows=rows,
        notes=("All cuts, down to race × gender × age group, are in fairness.csv beside this report.",),
    )


def _shown(cut: str) -> str:
    return cut.replace(" x ", " × ")


def _in_order(rows: Sequence[Mapping[str, Any]], factor: str) -> list[str]:
    present = list(dict.fromkeys(row[factor] for row in rows))
    order = TASKS[factor].classes if factor in TASKS else sorted(present)
    return [value for value in order if value in present]
