"""The sections on what a model gets right: results and confusion matrices."""

from collections.abc import Sequence

from softbio_jax.evaluation import charts, plots
from softbio_jax.evaluation.report import document
from softbio_jax.evaluation.report.document import Block, Figure, Figures, Section, Table, Text
from softbio_jax.evaluation.report.runs import Run
from softbio_jax.tasks import TASKS


def results(runs: Sequence[Run]) -> Section:
    """Returns every test set and task of every run, with intervals and floors."""
    pairs = judged(runs)
    intervals: dict[str, list[tuple[float, float, float] | None]] = {run.name: [] for run in runs}
    lines = []
    for test_set, task in pairs:
        known = [(run, run.summary["datasets"].get(test_set, {}).get(task)) for run in runs]
        for run, figures in known:
            intervals[run.name].append(
                (figures["accuracy"], *figures["intervals"]["accuracy"]) if figures else None
            )
        lines.append((f"{test_set} · {task}", next(f["majority"] for _, f in known if f)))
    overview = Figure(
        name="accuracies",
        caption="Accuracy of every run on every test set, with 95 % Wilson intervals; the grey "
        "tick is the accuracy of always saying the commonest class.",
        figure=charts.accuracies(lines, intervals),
        wide=True,
    )
    return Section(
        title="Results",
        blocks=(
            *_rendered(pairs),
            Figures(title="Accuracy at a glance", items=(overview,)),
            _averages(runs),
            *(_table(run, explained=run is runs[0]) for run in runs),
        ),
    )


def judged(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Returns the (test set, task) pairs of any run, tasks together, in the vocabulary's order."""
    found = {(name, task) for run in runs for name, row in run.summary["datasets"].items() for task in row}
    order = list(dict.fromkeys(name for run in runs for name in run.summary["datasets"]))
    return sorted(found, key=lambda pair: (list(TASKS).index(pair[1]), order.index(pair[0])))


def _rendered(pairs: Sequence[tuple[str, str]]) -> list[Text]:
    names = sorted({name for name, _ in pairs if name.startswith("synthetic")})
    if not names:
        return []
    text = f"Rendered faces, not photographs: figures on {', '.join(names)} say nothing about people."
    return [Text(text=text, warning=True)]


def _averages(runs: Sequence[Run]) -> Table:
    keys = (*TASKS, "overall")
    rows = tuple(
        (
            run.name,
            *(
                document.with_bounds(
                    run.summary["averages"].get(key), run.summary["average_intervals"].get(key)
                )
                for key in keys
            ),
        )
        for run in runs
    )
    sets = [_sets(run) for run in runs]
    notes = [
        "A task's average is the unweighted mean over its test sets with labels made by people "
        f"({sets[0]}); overall is the mean of the task averages."
    ]
    notes += [
        f"{run.name} is averaged over other test sets ({found}): not comparable with the rest."
        for run, found in zip(runs, sets, strict=True)
        if found != sets[0]
    ]
    return Table(title="Average accuracy, %", header=("run", *keys), rows=rows, notes=tuple(notes))


def _sets(run: Run) -> str:
    sets = run.summary["averaged_sets"].items()
    return "; ".join(f"{task}: {', '.join(names)}" for task, names in sets)


def _table(run: Run, *, explained: bool) -> Table:
    rows = []
    for test_set, tasks in run.summary["datasets"].items():
        for task, figures in tasks.items():
            star = " *" if task in run.summary["synthetic_labels"].get(test_set, ()) else ""
            rows.append(
                (
                    test_set,
                    task + star,
                    document.count(figures["n"]),
                    document.percent_interval(figures, "accuracy"),
                    document.percent(figures["majority"]),
                    document.percent_interval(figures, "balanced_accuracy"),
                    document.percent_interval(figures, "macro_f1"),
                    document.percent_interval(figures, "one_off_accuracy") if task == "age" else "",
                    document.plain_interval(figures, "expected_age_mae") if task == "age" else "",
                )
            )
    explanation = (
        "In brackets 95 % intervals: Wilson for shares, 1,000 bootstrap draws for the rest. The "
        "floor is the commonest class. One-off: at most one age group away. MAE: expected age "
        "against the middle of the true group (75 for 70+), or the true age where known, years."
    )
    notes = [explanation] if explained else []
    if any("*" in row[1] for row in rows):
        notes.append("* labels are a model's output: not in the averages.")
    return Table(
        title=f"{run.name}: figures a test set and task, %",
        header=(
            "test set",
            "task",
            "n",
            "accuracy",
            "floor",
            "balanced",
            "macro-F1",
            "one-off",
            "MAE, years",
        ),
        rows=tuple(rows),
        notes=tuple(notes),
        text_columns=2,
    )


def confusion(runs: Sequence[Run]) -> Section:
    """Returns the confusion matrices, those of one test set and task side by side."""
    blocks: list[Block] = []
    for task in TASKS:
        items = []
        for test_set, run in [(s, run) for s, t in judged(runs) if t == task for run in runs]:
            figures = run.summary["datasets"].get(test_set, {}).get(task)
            if figures is None:
                continue
            picture = plots.confusion_matrix(
                figures["confusion"], TASKS[task].classes, title=f"{task} on {test_set}: {run.name}"
            )
            items.append(
                Figure(
                    name=f"confusion_{test_set}_{task}_{run.name}",
                    caption=f"{run.name}, {task} on {test_set}: accuracy "
                    f"{document.percent(figures['accuracy'])} %, balanced "
                    f"{document.percent(figures['balanced_accuracy'])} %.",
                    figure=picture,
                )
            )
        if items:
            blocks.append(Figures(title=task.capitalize(), items=tuple(items)))
    blocks.append(_per_class(runs))
    return Section(title="Confusion matrices", blocks=tuple(blocks))


def _per_class(runs: Sequence[Run]) -> Table:
    measures = ("precision", "recall", "f1")
    rows = []
    for test_set, task in judged(runs):
        found = [run.summary["datasets"].get(test_set, {}).get(task) for run in runs]
        for name in TASKS[task].classes:
            known = [figures["per_class"][name] if figures else {} for figures in found]
            n = next(row["n"] for row in known if row)
            if len(runs) == 1:
                bounds = known[0]["intervals"]
                cells = [document.with_bounds(known[0][key], bounds.get(key)) for key in measures]
            else:
                cells = [document.percent(row.get(key)) for row in known for key in measures]
            rows.append((test_set, task, name, document.count(n), *cells))
    several = ("Intervals are in report.json.",) if len(runs) > 1 else ()
    return Table(
        title="Every class, %",
        groups=(("", 4), *((run.name, 3) for run in runs)),
        header=("test set", "task", "class", "n", *("precision", "recall", "F1") * len(runs)),
        rows=tuple(rows),
        notes=several,
        text_columns=3,
    )
