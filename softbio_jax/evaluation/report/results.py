"""The sections on what a model gets right: results and confusion matrices."""

from collections.abc import Sequence

from softbio_jax import coverage
from softbio_jax.evaluation import charts, evaluate, plots
from softbio_jax.evaluation.metrics import intervals as interval_lib
from softbio_jax.evaluation.report import document
from softbio_jax.evaluation.report.document import Block, Figure, Figures, Section, Table, Text
from softbio_jax.evaluation.report.runs import RunResults
from softbio_jax.tasks import TASKS


def results(runs: Sequence[RunResults]) -> Section:
    """Returns every test set and task of every run, with intervals and majority baselines."""
    pairs = judged(runs)
    intervals: dict[str, list[tuple[float, float, float] | None]] = {run.name: [] for run in runs}
    lines = []
    for test_set, task in pairs:
        known = [(run, run.find(test_set, task)) for run in runs]
        for run, m in known:
            intervals[run.name].append((m["accuracy"], *m["intervals"]["accuracy"]) if m else None)
        shown = marked_by(runs, task)
        lines.append((f"{test_set} · {shown}", next(m["majority"] for _, m in known if m)))
    overview = Figure(
        name="accuracies",
        caption="Accuracy of every run on every test set, with 95 % Wilson intervals; the grey "
        "tick is the accuracy of always predicting the most frequent class.",
        figure=charts.accuracies(lines, intervals),
        wide=True,
    )
    return Section(
        title="Results",
        blocks=(
            *_synthetic(pairs),
            Figures(title="Accuracy at a glance", items=(overview,)),
            _averages(runs),
            *untrained(runs),
            *(_table(run, explained=run is runs[0]) for run in runs),
        ),
    )


def marked_by(runs: Sequence[RunResults], task: str, name: str | None = None) -> str:
    """Returns a task or one of its classes, marked if it has no training images in any of the runs."""
    shown = task if name is None else name
    found = (coverage.marked(run.images, task, name) for run in runs)
    return next((text for text in found if text != shown), shown)


def untrained(runs: Sequence[RunResults]) -> list[Text]:
    """Returns a warning per run and task with classes without training images."""
    return [
        Text(text=f"{coverage.MARK} {run.name}: {note}.", warning=True)
        for run in runs
        for note in evaluate.untrained_notes(run.summary)
    ]


def judged(runs: Sequence[RunResults]) -> list[tuple[str, str]]:
    """Returns the (test set, task) pairs of any run, by task in the vocabulary's order."""
    found = {(name, task) for run in runs for name, task, _ in run.metrics()}
    order = list(dict.fromkeys(name for run in runs for name in run.summary["datasets"]))
    return sorted(found, key=lambda pair: (list(TASKS).index(pair[1]), order.index(pair[0])))


def _synthetic(pairs: Sequence[tuple[str, str]]) -> list[Text]:
    names = sorted({name for name, _ in pairs if name.startswith("synthetic")})
    text = f"Synthetic faces, not photographs: metrics on {', '.join(names)} say nothing about people."
    return [Text(text=text, warning=True)] if names else []


def _averages(runs: Sequence[RunResults]) -> Table:
    keys = average_keys(runs)
    rows = []
    for run in runs:
        values, bounds = run.summary["averages"], run.summary["average_intervals"]
        rows.append((run.name, *(document.with_bounds(values.get(key), bounds.get(key)) for key in keys)))
    sets = [_sets(run) for run in runs]
    notes = [
        "A task's average is the unweighted mean over its test sets with labels made by people "
        f"({sets[0]})" + ("; overall is the mean of the task averages." if "overall" in keys else ".")
    ]
    notes += [
        f"{run.name} is averaged over other test sets ({found}): not comparable with the rest."
        for run, found in zip(runs, sets, strict=True)
        if found != sets[0]
    ]
    return Table(title="Average accuracy, %", header=("run", *keys), rows=tuple(rows), notes=tuple(notes))


def average_keys(runs: Sequence[RunResults]) -> list[str]:
    """Returns the tasks with an average in any run, and "overall" if there are several."""
    tasks = [task for task in TASKS if any(task in run.summary["averages"] for run in runs)]
    return [*tasks, "overall"] if len(tasks) > 1 else tasks


def _sets(run: RunResults) -> str:
    sets = run.summary["averaged_sets"].items()
    return "; ".join(f"{task}: {', '.join(names)}" for task, names in sets)


def _table(run: RunResults, *, explained: bool) -> Table:
    rows = []
    for test_set, task, metrics in run.metrics():
        star = " *" if task in run.summary["synthetic_labels"].get(test_set, ()) else ""
        first, *others = (
            document.percent_interval(metrics, key) if key in metrics else ""
            for key in ("accuracy", "balanced_accuracy", "macro_f1", "one_off_accuracy")
        )
        majority = document.percent(metrics["majority"])
        years = document.plain_interval(metrics, "expected_age_mae") if task == "age" else ""
        shown = coverage.marked(run.images, task) + star
        rows.append((test_set, shown, document.count(metrics["n"]), first, majority, *others, years))
    explanation = (
        "In brackets 95 % intervals: Wilson for accuracies, score intervals at fixed class sizes for "
        "balanced accuracy and macro-F1, bootstrap percentiles for the rest. "
        "Majority: the accuracy of always predicting the most frequent class."
    )
    if "age" in dict.fromkeys(task for _, task, _ in run.metrics()):
        explanation += (
            " One-off: at most one age group away. MAE: expected age against the middle of the true group "
            "(75 for 70+), or the true age where known, years."
        )
    notes = [explanation] if explained else []
    if any("*" in row[1] for row in rows):
        notes.append("* labels are a model's output: not in the averages.")
    notes += [f"{coverage.MARK} {note}." for note in evaluate.untrained_notes(run.summary)]
    shares = ("accuracy", "majority", "balanced", "macro-F1", "one-off")
    return Table(
        title=f"{run.name}: metrics per test set and task, %",
        header=("test set", "task", "n", *shares, "MAE, years"),
        rows=tuple(rows),
        notes=tuple(notes),
        text_columns=2,
    ).filled()


def confusion(runs: Sequence[RunResults]) -> Section:
    """Returns the confusion matrices, those of one test set and task side by side."""
    blocks: list[Block] = []
    for task in TASKS:
        sets = [name for name, judged_task in judged(runs) if judged_task == task]
        items = tuple(
            Figure(
                name=f"confusion_{test_set}_{task}_{run.name}",
                caption=f"{run.name}, {task} on {test_set}: accuracy "
                f"{document.percent(metrics['accuracy'])} %, balanced "
                f"{document.percent(metrics['balanced_accuracy'])} %."
                + "".join(f" {coverage.MARK} {note}." for note in coverage.notes(run.images, [task])),
                figure=plots.confusion_matrix(
                    metrics["confusion"],
                    coverage.marked_classes(run.images, task),
                    title=f"{task} on {test_set}: {run.name}",
                ),
            )
            for test_set in sets
            for run in runs
            if (metrics := run.find(test_set, task))
        )
        if items:
            blocks.append(Figures(title=task.capitalize(), items=items))
    blocks.append(_per_class(runs))
    return Section(title="Confusion matrices", blocks=tuple(blocks))


def _per_class(runs: Sequence[RunResults]) -> Table:
    keys = ("precision", "recall", "f1")
    rows = []
    for test_set, task in judged(runs):
        found = [run.find(test_set, task) for run in runs]
        for name in TASKS[task].classes:
            known = [metrics["per_class"][name] if metrics else {} for metrics in found]
            n = next(row["n"] for row in known if row)
            if len(runs) == 1:
                bounds = known[0]["intervals"]
                cells = [document.with_bounds(known[0][key], bounds.get(key)) for key in keys]
            else:
                cells = [document.percent(row.get(key)) for row in known for key in keys]
            rows.append((test_set, task, marked_by(runs, task, name), document.count(n), *cells))
    if len(runs) > 1:
        notes = ["Intervals are in report.json."]
    elif any(document.TOO_FEW in cell for row in rows for cell in row):
        least = interval_lib.LEAST_EXAMPLES
        notes = [f"{document.TOO_FEW}: fewer than {least} images of or taken for the class: no interval."]
    else:
        notes = []
    notes += [f"{coverage.MARK} {run.name}: {n}." for run in runs for n in coverage.notes(run.images)]
    return Table(
        title="Every class, %",
        groups=(("", 4), *((run.name, 3) for run in runs)),
        header=("test set", "task", "class", "n", *("precision", "recall", "F1") * len(runs)),
        rows=tuple(rows),
        notes=tuple(notes),
        text_columns=3,
    )
