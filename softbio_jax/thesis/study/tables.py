"""A study's figures as Markdown tables."""

import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from softbio_jax import files
from softbio_jax.errors import UserError
from softbio_jax.thesis import paper
from softbio_jax.thesis.study import charts
from softbio_jax.thesis.study.charts import Estimate, Figures, Kind

COLUMNS = ("emotion", "age", "gender", "overall")
METHODS = {
    "lp_untrained": "LP, random tower",
    "lp": "LP",
    "ft": "FT",
    "lora": "LoRA",
    "lora_plus": "LoRA+",
    "dora": "DoRA",
    "mtlora": "MTLoRA (base reads shared)",
    "mtlora_task": "MTLoRA (base reads task)",
}
ABLATIONS = {
    "lora": "LoRA as above",
    "lora_fixed": "fixed weights 1, 1, 1",
    "lora_natural": "natural sampling",
    "lora_low_rank": "a quarter of the rank",
    "lora_high_rank": "four times the rank",
}
# first, second, and the rows of the thesis' Table 4.11 that say something about first - second.
COMPARISONS = (
    ("lp", "lp_untrained", ()),
    ("ft", "lp", ("ft4", "lp")),
    ("lora", "ft", ("lora", "ft4")),
    ("lora", "lp", ("lora", "lp")),
    ("mtlora", "ft", ("mtlora", "ft4")),
    ("mtlora", "lora", ("mtlora", "lora")),
    ("mtlora_task", "mtlora", ()),
    ("lora_plus", "lora", ()),
    ("dora", "lora", ()),
    ("lora", "lora_fixed", ()),
    ("lora", "lora_natural", ()),
    ("lora", "lora_low_rank", ()),
    ("lora_high_rank", "lora", ()),
)


def all_tables(figures: Figures) -> dict[str, str]:
    """Returns every table by name."""
    return {
        "state": state(figures),
        "methods": methods(figures),
        "balanced": balanced(figures, METHODS),
        "single": single(figures),
        "comparisons": comparisons(figures),
        "ablations": ablations(figures),
        "balanced-ablations": balanced(figures, ABLATIONS),
        "rates": rates(figures),
    }


def state(figures: Figures) -> str:
    """Returns in a sentence what was run, when and on what."""
    values = figures.values
    cells = values["cells"]
    seconds = sum(run["train_seconds"] for run in values["runs"] if "failed" not in run)
    failed = sum("failed" in run for run in values["runs"])
    steps = sorted({(cell["steps"], cell["batch_size"]) for cell in cells.values()})
    shown = ", ".join(f"{steps:,} steps of {batch}" for steps, batch in steps)
    whole = len(cells) * (len(values["factors"]) + len(values["seeds"]) - 1)
    tower = values["tower"]
    made = (
        ""
        if not tower
        else (
            f" The tower was pretrained for {tower['steps']:,} steps on {tower['images']:,} pictures "
            f"in {tower['seconds'] / 60:.0f} min, to a loss of {tower['loss']:.3f}."
        )
    )
    return (
        f"{len(values['runs'])} of {whole} runs, {failed} of them diverged; {shown} each; "
        f"{seconds / 60:.0f} min of training, {values['jobs']} at a time; {values['date']}, "
        f"{values['machine']}, JAX {values['versions'].get('jax', '?')}.{made}"
    )


def methods(figures: Figures) -> str:
    """Returns the analogue of the thesis' Table 4.11."""
    rows = [["largest class", *_majority(figures), "-", "-"]]
    for cell, label in METHODS.items():
        if figures.has(cell):
            twin = cell if cell in ("lp", "ft") else "lora"
            row = [_figure(figures, cell, task, twin) for task in COLUMNS]
            rows.append([label, *row, *_cost(figures, cell)])
    return _table(["method", *COLUMNS, "trained parameters", "seconds a run"], rows)


def single(figures: Figures) -> str:
    """Returns the single-task twins, and what training all tasks at once changes."""
    rows = []
    for method in ("lp", "ft", "lora"):
        twins = {task: f"{method}_{task}" for task in COLUMNS[:3]}
        if not figures.has(method, *twins.values()):
            continue
        alone = [_figure(figures, cell, task) for task, cell in twins.items()]
        change = [_signed(figures.difference(method, cell, task)) for task, cell in twins.items()]
        mean = figures.against_single_tasks(method)
        rows.append([f"{METHODS[method]}, one model a task", *alone, "-"])
        rows.append([f"{METHODS[method]}, all tasks minus one", *change, _signed(mean) if mean else "-"])
    return _table(["model", *COLUMNS[:3], "mean"], rows)


def comparisons(figures: Figures) -> str:
    """Returns differences between cells beside those of the thesis' Table 4.11."""
    rows = []
    for first, second, published in COMPARISONS:
        if figures.has(first, second):
            changes = [figures.difference(first, second, task) for task in COLUMNS]
            label = f"{_name(first)} - {_name(second)}"
            rows.append([label, *map(_signed, changes), _published(published), _verdict(changes[-1])])
    header = ["difference", *COLUMNS, "overall in the thesis", "overall here"]
    return _table(header, rows)


def ablations(figures: Figures) -> str:
    """Returns LoRA and its variants."""
    rows = [
        [label, *(_figure(figures, cell, task) for task in COLUMNS), *_cost(figures, cell)]
        for cell, label in ABLATIONS.items()
        if figures.has(cell)
    ]
    return _table(["variant", *COLUMNS, "trained parameters", "seconds a run"], rows)


def balanced(figures: Figures, labels: dict[str, str]) -> str:
    """Returns balanced accuracies, and macro-F1 of the two tasks with rare classes."""
    rows = []
    for cell, label in labels.items():
        if figures.has(cell):
            kinds: list[tuple[str, Kind]] = [(task, "balanced_accuracy") for task in COLUMNS]
            kinds += [("emotion", "macro_f1"), ("age", "macro_f1")]
            found = [figures.over_seeds(cell, task, kind) for task, kind in kinds]
            rows.append([label, *map(_plain, found)])
    return _table(["balanced accuracy", *COLUMNS, "emotion macro-F1", "age macro-F1"], rows)


def rates(figures: Figures) -> str:
    """Returns the validation loss of every factor of the search; the chosen one is bold."""
    factors, first = figures.values["factors"], figures.values["seeds"][0]
    rows = []
    for cell in figures.values["cells"]:
        searched = {run["factor"]: run for run in figures.all_runs(cell) if run["seed"] == first}
        shown = []
        for factor in factors:
            run = searched.get(factor)
            if run is None or run["validation_loss"] is None:
                shown.append("-" if run is None else "diverged")
                continue
            text = f"{run['validation_loss']:.4f}"
            shown.append(f"**{text}**" if run["chosen"] else text)
        rate = next((f"{run['rate']:g}" for run in figures.runs(cell)), "-")
        rows.append([f"`{cell}`", *shown, rate])
    header = [f"factor {factor:g}" for factor in factors]
    return _table(["cell", *header, "chosen rate of the heads"], rows)


def _figure(figures: Figures, cell: str, task: str, twin: str = "") -> str:
    """Returns mean, half the interval over seeds, the interval over examples, and the arrow."""
    low, high = figures.over_examples(cell, task)
    text = f"{_plain(figures.over_seeds(cell, task))} [{low:.1f}, {high:.1f}]"
    alone = f"{twin}_{task}"
    if not twin or cell == "lp_untrained" or not figures.has(alone):
        return text
    change = figures.difference(cell, alone, task)
    arrow = "↑" if change.mean > 0 else "↓"
    return f"{text} {arrow if change.excludes_zero else f'({arrow})'}"


def _plain(estimate: Estimate) -> str:
    half = "" if estimate.n < 2 else f" ± {estimate.half:.1f}"
    return f"{estimate.mean:.1f}{half}"


def _signed(estimate: Estimate) -> str:
    half = "" if estimate.n < 2 else f" ± {estimate.half:.1f}"
    text = f"{estimate.mean:+.1f}{half}"
    return f"**{text}**" if estimate.excludes_zero else text


def _verdict(estimate: Estimate) -> str:
    if not estimate.excludes_zero:
        return "not decided"
    return "higher" if estimate.mean > 0 else "lower"


def _cost(figures: Figures, cell: str) -> tuple[str, str]:
    runs = [run for run in figures.all_runs(cell) if "failed" not in run]
    seconds = sorted(run["train_seconds"] for run in runs)
    return f"{runs[0]['trainable_params']:,}", f"{seconds[len(seconds) // 2]:.0f}"


def _majority(figures: Figures) -> list[str]:
    """Returns the share of the largest class of each task, over the test sets that judge it."""
    found: dict[str, list[float]] = {}
    for run in figures.values["runs"]:
        for tasks in run["datasets"].values() if "datasets" in run else ():
            for task, values in tasks.items():
                found.setdefault(task, []).append(100 * values["majority"])
    means = {task: sum(values) / len(values) for task, values in found.items()}
    tasks = [task for task in COLUMNS if task in means]
    whole = sum(means[task] for task in tasks) / max(len(tasks), 1)
    return [f"{means[task]:.1f}" if task in means else "-" for task in COLUMNS[:3]] + [f"{whole:.1f}"]


def _published(rows: Sequence[str]) -> str:
    if not rows:
        return "-"
    first, second = (paper.AVERAGES[row]["overall"] for row in rows)
    return f"{first - second:+.2f}"


def _name(cell: str) -> str:
    return METHODS.get(cell) or f"LoRA, {ABLATIONS[cell]}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


_BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables_of(source: pathlib.Path) -> dict[str, str]:
    """Returns the tables of a file of collected figures, by name.

    Raises:
      UserError: no such file, or another content.
    """
    return all_tables(charts.read(source))


def text(tables: Mapping[str, str]) -> str:
    """Returns all tables, each under its name."""
    return "\n\n".join(f"## {name}\n\n{table}" for name, table in tables.items())


def filled(page: str, tables: Mapping[str, str]) -> str:
    """Returns a page with the tables between its markers, `<!-- table: NAME -->` and
    `<!-- end -->`.

    Raises:
      UserError: no marker, or one of a table that does not exist.
    """
    names = [match["name"] for match in _BLOCK.finditer(page)]
    unknown = [name for name in names if name not in tables]
    if not names or unknown:
        raise UserError(
            "nowhere to put the tables",
            expected=f"<!-- table: NAME --> with a name of {', '.join(tables)}, then <!-- end -->",
            found=unknown[0] if unknown else "no marker",
            fix="correct the page",
        )
    return _BLOCK.sub(lambda match: f"{match[1]}\n{tables[match['name']]}\n\n{match[3]}", page)


def fill(path: pathlib.Path, tables: Mapping[str, str]) -> None:
    """Writes the tables into a page; it is whole at any time."""
    files.write_text(path, filled(path.read_text(), tables))
