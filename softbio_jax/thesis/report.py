"""What the thesis adds to a report: its tables with Paper and Reproduced columns, its training set."""

from collections.abc import Mapping, Sequence

from softbio_jax.evaluation.metrics import intervals
from softbio_jax.evaluation.report import document
from softbio_jax.evaluation.report.document import NOTHING, Section, Table, Text
from softbio_jax.evaluation.report.runs import RunResults
from softbio_jax.evaluation.report.training import TrainingSet
from softbio_jax.tasks import TASKS
from softbio_jax.thesis import composite, paper, protocol

OTHER_SET = "‡"


def training_set() -> TrainingSet:
    """Returns the thesis' composite training set, to be shown beside those of the runs."""
    return TrainingSet(name="Paper", counts=composite.class_counts(), drawn=composite.DRAWN)


def sections(runs: Sequence[RunResults]) -> list[Section]:
    """Returns Tables 4.1 to 4.3, 4.11 and 4.12; empty where no test set is one of theirs."""
    names = {name for run in runs for name in run.summary["datasets"]}
    if not any(map(paper.test_set_key, names)):
        return []
    own = [run for run in runs if not run.external]
    rows_of = {method: multitask_run(own, method) for method in paper.METHODS}
    shown = [run for run in rows_of.values() if run is not None]
    warning = _other_sets([*shown, *(run for run in runs if run.external)])
    intro = "Accuracies in percent. Paper: as printed. Reproduced: this report's runs, by training method."
    blocks = (
        Text(text=intro),
        *((Text(text=warning, warning=True),) if warning else ()),
        zero_shot(rows_of["zs"]),
        zero_shot_averages(rows_of["zs"]),
        zero_shot_cost(rows_of["zs"]),
        method_averages(rows_of, own),
        state_of_the_art(rows_of, runs),
        balanced_emotion(rows_of, runs),
    )
    return [Section(title="The thesis' tables", blocks=blocks)]


def multitask_run(runs: Sequence[RunResults], method: str) -> RunResults | None:
    """Returns the first run of `method` with the most tasks, for a table's row."""
    found = [run for run in runs if run.method == method]
    return max(found, key=lambda run: len(run.tasks), default=None)


def accuracy(run: RunResults | None, test_set: str, task: str, *, metric: str = "accuracy") -> str:
    """Returns a run's metric on one of the thesis' test sets, marked if the selection differs."""
    for name, tasks in (run.summary["datasets"] if run else {}).items():
        if paper.test_set_key(name) == test_set and task in tasks:
            mark = "" if tasks[task]["n"] == paper.TEST_SETS[test_set][1] else f" {OTHER_SET}"
            return document.percent(tasks[task][metric]) + mark
    return NOTHING


def zero_shot(run: RunResults | None) -> Table:
    """Returns Table 4.1."""
    rows = tuple(
        (paper.TEST_SETS[test_set][0], task, f"{value:.2f}", accuracy(run, test_set, task))
        for test_set, tasks in paper.ZERO_SHOT.items()
        for task, value in tasks.items()
    )
    return Table(
        title="Table 4.1: zero-shot accuracy",
        header=("test set", "task", "Paper", "Reproduced"),
        rows=rows,
        notes=("VGGFace2's ages are another model's output.",),
        text_columns=2,
    )


def zero_shot_averages(run: RunResults | None) -> Table:
    """Returns Table 4.2."""
    excluded = intervals.excluded_tasks(protocol.SYNTHETIC_LABELS, protocol.NOT_AVERAGED)
    by_rule = intervals.task_averages(paper.ZERO_SHOT, excluded)
    rows = tuple(
        (key, f"{printed:.2f}", f"{by_rule[key]:.3f}", _average(run, key))
        for key, printed in paper.ZERO_SHOT_AVERAGES.items()
    )
    return Table(
        title="Table 4.2: zero-shot averages",
        header=("average", "Paper", "Paper, by the rule from 4.1", "Reproduced"),
        rows=rows,
        notes=(
            "The thesis cuts to two decimals (47.365 becomes 47.36).",
            paper.INCONSISTENT["zs", "overall"],
        ),
    )


def zero_shot_cost(run: RunResults | None) -> Table:
    """Returns Table 4.3."""
    names = {
        "text_encoder": "text encoder, parameters",
        "visual_encoder": "visual encoder, parameters",
        "total": "total, parameters",
        "gflops": "GFLOPs",
    }
    parameters = run.info.get("params", {}) if run else {}
    found = {**parameters, "gflops": run.info.get("gflops") if run else None}
    rows = []
    for key, name in names.items():
        text = document.number if key == "gflops" else document.count
        rows.append((name, f"{paper.ZERO_SHOT_COST[key]:,}", text(found.get(key))))
    return Table(
        title="Table 4.3: zero-shot cost",
        header=("", "Paper", "Reproduced"),
        rows=tuple(rows),
        notes=(
            "The printed parts add up to 672,198,667: the printed total holds a visual encoder of "
            "317,151,232, without the age head and log-variance of the printed one.",
        ),
    )


def method_averages(rows_of: Mapping[str, RunResults | None], runs: Sequence[RunResults]) -> Table:
    """Returns Table 4.11, its arrows against the single-task run of the same method."""
    keys = ("emotion", "age", "gender", "overall")
    rows = []
    for method in (m for m in paper.METHODS if m in paper.AVERAGES or rows_of[m] is not None):
        printed, arrows = paper.AVERAGES.get(method, {}), paper.ARROWS.get(method, {})
        run = rows_of[method]
        cells = [f"{printed[key]:.2f} {arrows.get(key, '')}".strip() if printed else NOTHING for key in keys]
        cells += [f"{_average(run, key)} {_arrow(run, key, runs)}".strip() for key in keys]
        rows.append((paper.METHODS[method], *cells))
    return Table(
        title="Table 4.11: average performance",
        groups=(("", 1), ("Paper", 4), ("Reproduced", 4)),
        header=("model", *keys * 2),
        rows=tuple(rows),
        notes=(
            "Arrows: against the single-task model of the same method; none where this report "
            "has no such run.",
            *paper.INCONSISTENT.values(),
        ),
    )


def state_of_the_art(rows_of: Mapping[str, RunResults | None], runs: Sequence[RunResults]) -> Table:
    """Returns Table 4.12, with third parties' recomputed predictions below the quoted rows."""
    by_name = {paper.METHODS[m]: rows_of[m] for m in ("mtlora", "lora")}
    external = {run.name: run for run in runs if run.external}
    rows = []
    for name, cells in paper.SOTA.items():
        run = by_name.get(name) or external.pop(name, None)
        rows.append((name, *_pairs(cells, run)))
    for name, run in external.items():
        rows.append((f"{name} (given)", *_pairs(("",) * len(paper.SOTA_COLUMNS), run)))
    names = [f"{paper.TEST_SETS[s][0]} {task}" for s, task in paper.SOTA_COLUMNS]
    return Table(
        title="Table 4.12: against the state of the art",
        groups=(("", 1), *((name, 2) for name in names)),
        header=("method", *("Paper", "Reproduced") * len(names)),
        rows=tuple(rows),
        notes=(
            *paper.SOTA_NOTES,
            "Rows of other models are quoted; those with a Reproduced value were recomputed "
            "from the predictions given with --predictions.",
        ),
    )


def balanced_emotion(rows_of: Mapping[str, RunResults | None], runs: Sequence[RunResults]) -> Table:
    """Returns the accuracies printed beside the thesis' confusion matrices on RAF-DB."""
    rows = []
    for key, (printed, balanced) in paper.RAF_DB_BALANCED.items():
        given = next((run for run in runs if run.external and run.name == key), None)
        run = rows_of.get(key) or given
        found = [accuracy(run, "raf_db", "emotion", metric=m) for m in ("accuracy", "balanced_accuracy")]
        name = paper.METHODS.get(key, key)
        rows.append((name, f"{printed:.2f}", found[0], f"{balanced:.2f}", found[1]))
    return Table(
        title="Emotion on RAF-DB: accuracy and balanced accuracy",
        groups=(("", 1), ("accuracy", 2), ("balanced accuracy", 2)),
        header=("method", *("Paper", "Reproduced") * 2),
        rows=tuple(rows),
    )


def _pairs(cells: Sequence[str], run: RunResults | None) -> list[str]:
    found = []
    for cell, (test_set, task) in zip(cells, paper.SOTA_COLUMNS, strict=True):
        found += [cell or NOTHING, accuracy(run, test_set, task)]
    return found


def _average(run: RunResults | None, key: str) -> str:
    value = run.summary["averages"].get(key) if run else None
    if run is None or value is None:
        return NOTHING
    return document.percent(value) + (f" {OTHER_SET}" if _other_sets([run]) else "")


def _arrow(run: RunResults | None, key: str, runs: Sequence[RunResults]) -> str:
    if run is None or key not in TASKS or len(run.tasks) < 2 or key not in run.tasks:
        return ""
    single = next((r for r in runs if r.method == run.method and r.tasks == [key]), None)
    if single is None:
        return ""
    change = run.summary["averages"][key] - single.summary["averages"][key]
    return "↑" if change > 0 else "↓" if change < 0 else "="


def _other_sets(runs: Sequence[RunResults]) -> str:
    """Returns a sentence naming the test sets that differ from the thesis' ones, or ""."""
    found: dict[str, None] = {}
    for run in runs:
        for name, tasks in run.summary["datasets"].items():
            key = paper.test_set_key(name)
            n = max((metrics["n"] for metrics in tasks.values()), default=0)
            if key is None:
                found[f"{name} is none of the thesis' test sets"] = None
            elif n != paper.TEST_SETS[key][1]:
                printed, expected = paper.TEST_SETS[key]
                found[f"{name} has {n:,} examples, the thesis' {printed} {expected:,}"] = None
    return f"{OTHER_SET} Not the thesis' test sets: {'; '.join(found)}." if found else ""
