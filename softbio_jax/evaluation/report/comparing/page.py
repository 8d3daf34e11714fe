"""The page itself: one row per configuration, then differences, cost and settings."""

import datetime
import statistics
from collections.abc import Sequence
from typing import Any

from softbio_jax.evaluation import charts
from softbio_jax.evaluation.metrics.multiplicity import holm
from softbio_jax.evaluation.report import document
from softbio_jax.evaluation.report.comparing import configurations as configuration_lib
from softbio_jax.evaluation.report.comparing.configurations import Configuration
from softbio_jax.evaluation.report.document import (
    NOTHING,
    Block,
    Document,
    Figure,
    Figures,
    Section,
    Table,
    Text,
)
from softbio_jax.evaluation.report.runs import RunResults
from softbio_jax.tasks import TASKS

COSTS = (
    "trainable parameters",
    "GFLOPs per image, encoder",
    "training, images/s",
    "best inference, images/s",
    "peak memory, GiB",
    "training time, (h:)mm:ss",
)


def compose(runs: Sequence[RunResults]) -> Document:
    """Returns the page on at least two runs; the configuration of the first is the reference.

    Accuracies are averaged over the test sets that all configurations share and that none excludes
    from its averages.

    Raises:
      UserError: runs whose predictions on one test set have other examples or labels.
    """
    items = configuration_lib.grouped(runs)
    shared = _shared(items)
    rows = {
        item.name: {task: item.accuracy(pairs) for task, pairs in _columns(shared).items()} for item in items
    }
    blocks: list[Block] = [Text(text=_introduction(items, shared))]
    if shared:
        blocks += [_overview(items, rows), Figures(title="Accuracy and cost", items=_figures(items, rows))]
    sections = [Section(title="Configurations", blocks=tuple(blocks))]
    if tests := _differences(items, shared):
        sections.append(Section(title="Paired differences", blocks=(tests,)))
    if shared:
        tables = (_per_set(items, shared), _robustness(items, shared))
        blocks = [table for table in tables if table is not None]
        sections.append(Section(title="Test sets", blocks=tuple(blocks)))
    sections.append(Section(title="Settings and seeds", blocks=_settings(items)))
    key = list(_columns(shared))[-1] if shared else ""
    highlights = [_highlight(item, rows[item.name][key], key) for item in items[:6]] if key else []
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Document(
        title="Comparison of runs",
        subtitle=f"{len(runs)} runs of {len(items)} configurations. Written {today}.",
        highlights=tuple(highlights),
        sections=tuple(sections),
    )


def _shared(items: Sequence[Configuration]) -> list[tuple[str, str]]:
    common = [pair for pair in items[0].pairs() if all(pair in item.pairs() for item in items)]
    return [
        (test_set, task)
        for test_set, task in common
        if all(test_set in item.first.summary["averaged_sets"].get(task, ()) for item in items)
    ]


def _columns(shared: Sequence[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    tasks = [task for task in TASKS if any(task == other for _, other in shared)]
    found = {task: [pair for pair in shared if pair[1] == task] for task in tasks}
    return found | ({"all": list(shared)} if len(tasks) > 1 else {})


def _introduction(items: Sequence[Configuration], shared: Sequence[tuple[str, str]]) -> str:
    if not shared:
        return "The configurations share no test set and task, so their accuracies are not compared."
    named = "; ".join(
        f"{task}: {', '.join(test_set for test_set, other in shared if other == task)}"
        for task in TASKS
        if any(other == task for _, other in shared)
    )
    text = f"Accuracies over the test sets that all configurations share ({named})."
    if any(len(item.runs) > 1 for item in items):
        text += (
            " Runs that differ only in the seed are one configuration: the mean over its seeds, with the "
            "interval over test examples for these seeds; ± is the standard deviation over seeds."
        )
    return text


def _overview(items: Sequence[Configuration], rows: Any) -> Table:
    keys = list(rows[items[0].name])
    measured = {item.name: configuration_lib.costs(item) for item in items}
    return Table(
        title="Accuracy, %, beside cost",
        header=("configuration", "method", "backbone", "seeds", *keys, *COSTS),
        rows=tuple(
            (
                item.name,
                measured[item.name]["method"],
                measured[item.name]["variant"],
                str(len(item.runs)),
                *(_accuracy(rows[item.name][key]) for key in keys),
                *(measured[item.name].get(name, NOTHING) for name in COSTS),
            )
            for item in items
        ),
        notes=(
            "In brackets 95 % intervals. Cost is that of the first seed. Intervals that overlap do not "
            "show that two configurations are equal: see the paired differences.",
        ),
        text_columns=3,
    ).filled()


def _accuracy(found: Any) -> str:
    spread = "" if found["spread"] is None else f" ± {100 * found['spread']:.2f}"
    return document.with_bounds(found["accuracy"], found["interval"]) + spread


def _figures(items: Sequence[Configuration], rows: Any) -> tuple[Figure, ...]:
    key = list(rows[items[0].name])[-1]
    points = {
        item.name: (
            item.first.summary["model"].get("trainable_params"),
            rows[item.name][key]["accuracy"],
            *rows[item.name][key]["interval"],
        )
        for item in items
    }
    known = {name: values for name, values in points.items() if values[0]}
    if not known:
        return ()
    name = "mean accuracy" if key == "all" else f"{key} accuracy"
    return (
        Figure(
            name="comparison_cost",
            caption=f"{name.capitalize()} with 95 % intervals against trainable parameters.",
            figure=charts.against_cost(known, x_label="trainable parameters", y_label=f"{name}, %"),
            wide=True,
        ),
    )


def _differences(items: Sequence[Configuration], shared: Sequence[tuple[str, str]]) -> Table | None:
    first, *others = items
    found = [
        (item.name, *pair, configuration_lib.difference(item, first, *pair))
        for item in others
        for pair in shared
    ]
    if not found:
        return None
    adjusted = holm([row["p_value"] for *_, row in found])
    return Table(
        title=f"Accuracy minus that of {first.name}, percentage points",
        header=("configuration", "test set", "task", "n", "difference", "effect d", "p", "p adjusted"),
        rows=tuple(
            (
                name,
                test_set,
                task,
                document.count(row["n"]),
                document.points(row["difference"], row["interval"]),
                f"{row['effect']:+.2f}",
                document.p_value(row["p_value"]),
                document.p_value(corrected),
            )
            for (name, test_set, task, row), corrected in zip(found, adjusted, strict=True)
        ),
        notes=(
            "Paired by example, averaged over the seeds of each configuration; the interval and the test "
            "are over examples, for these seeds. p: sign-flip test, for one seed each McNemar's exact "
            "test; adjusted by Holm over all rows. d: mean difference per example in its standard "
            "deviations; 0.2 is a small effect, 0.5 a medium one.",
        ),
        text_columns=3,
    )


def _per_set(items: Sequence[Configuration], shared: Sequence[tuple[str, str]]) -> Table:
    rows = []
    for test_set, task in shared:
        metrics = items[0].first.find(test_set, task) or {}
        cells = [_accuracy(item.accuracy([(test_set, task)])) for item in items]
        rows.append(
            (test_set, task, document.count(metrics["n"]), document.percent(metrics["majority"]), *cells)
        )
    return Table(
        title="Accuracy per test set and task, %",
        header=("test set", "task", "n", "majority", *(item.name for item in items)),
        rows=tuple(rows),
        text_columns=2,
    )


def _robustness(items: Sequence[Configuration], shared: Sequence[tuple[str, str]]) -> Table | None:
    rows = []
    for test_set, task in shared:
        measured = [
            [run.robustness[test_set][task] for run in item.runs if task in run.robustness.get(test_set, {})]
            for item in items
        ]
        if any(measured):
            n = max(found["n"] for seeds in measured for found in seeds)
            rows.append((test_set, task, document.count(n), *map(_corruption_error, measured)))
    if not rows:
        return None
    return Table(
        title="Mean corruption error per test set and task, %",
        header=("test set", "task", "n", *(item.name for item in items)),
        rows=tuple(rows),
        notes=(
            "Over kinds and strengths of corruption, of the seeds that scripts/evaluate.py --robustness "
            "measured: for one its 95 % interval, for several their mean and, after ±, standard deviation.",
        ),
        text_columns=2,
    )


def _corruption_error(seeds: Sequence[Any]) -> str:
    errors = [found["mean_corruption_error"] for found in seeds]
    if not errors:
        return NOTHING
    if len(errors) == 1:
        return document.with_bounds(errors[0], seeds[0]["interval"])
    return f"{document.percent(statistics.mean(errors))} ± {100 * statistics.stdev(errors):.2f}"


def _settings(items: Sequence[Configuration]) -> tuple[Block, ...]:
    seeds = Table(
        title="Runs of each configuration",
        header=("configuration", "run", "seed"),
        rows=tuple(
            (item.name, run.name, str(run.config.get("seed", NOTHING))) for item in items for run in item.runs
        ),
        text_columns=3,
    )
    found = configuration_lib.differing(items)
    if not found:
        return (seeds,)
    table = Table(
        title="Settings that differ",
        header=("setting", *(item.name for item in items)),
        rows=tuple((key, *values) for key, values in found.items()),
        text_columns=1 + len(items),
    )
    return table, seeds


def _highlight(item: Configuration, found: Any, key: str) -> tuple[str, str, str]:
    low, high = (document.percent(bound, digits=1) for bound in found["interval"])
    what = "mean accuracy" if key == "all" else f"{key} accuracy"
    seeds = f"; {len(item.runs)} seeds" if len(item.runs) > 1 else ""
    remark = f"{what}; 95 % interval {low} to {high}; n {found['n']:,}{seeds}"
    return f"{document.percent(found['accuracy'], digits=1)} %", item.name, remark
