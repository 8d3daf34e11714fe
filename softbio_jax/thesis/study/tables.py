"""The collected results of a study as Markdown tables."""

import pathlib
import re
from collections.abc import Mapping, Sequence

from softbio_jax import files
from softbio_jax.console import markdown
from softbio_jax.errors import UserError
from softbio_jax.thesis import paper
from softbio_jax.thesis.study import claims, collected, kept, recovered
from softbio_jax.thesis.study.collected import Collected, Estimate, Metric

COLUMNS = (*collected.TASKS, "overall")
METHODS = {
    "lp_untrained": "LP, random encoder",
    "lp": "LP",
    "ap": "AP",
    "ft": "FT",
    "lora": "LoRA",
    "lora_long": "LoRA, three times the labels",
    "lora_plus": "LoRA+",
    "dora": "DoRA",
    "mtlora": "MTLoRA (base reads shared)",
    "mtlora_task": "MTLoRA (base reads task)",
    "full": "all weights",
    "b6_labels": "6 blocks, labels",
    "b6_distilled": "6 blocks, distilled",
    "b6_feature": "6 blocks, distilled with the feature",
    "t16_labels": "T16, labels",
    "t16_distilled": "T16, distilled",
}
ABLATIONS = {
    "lora": "LoRA as above",
    "lora_fixed": "fixed weights 1, 1, 1",
    "lora_natural": "natural sampling",
    "lora_low_rank": "a quarter of the rank",
    "lora_high_rank": "four times the rank",
}
# first, second, and the two rows of the thesis' Table 4.11 with the same difference.
COMPARISONS = (
    ("lp", "lp_untrained", ()),
    ("ap", "lp", ()),
    ("ft", "lp", ("ft4", "lp")),
    ("lora", "ft", ("lora", "ft4")),
    ("lora", "lp", ("lora", "lp")),
    ("mtlora", "ft", ("mtlora", "ft4")),
    ("mtlora", "lora", ("mtlora", "lora")),
    ("mtlora_task", "mtlora", ()),
    ("lora_plus", "lora", ()),
    ("dora", "lora", ()),
    ("full", "lora", ()),
    ("lora_long", "lora", ()),
    ("lora", "lora_fixed", ()),
    ("lora", "lora_natural", ()),
    ("lora", "lora_low_rank", ()),
    ("lora_high_rank", "lora", ()),
    ("b6_distilled", "b6_labels", ()),
    ("b6_feature", "b6_distilled", ()),
    ("t16_distilled", "t16_labels", ()),
)


def all_tables(study: Collected, teacher: Mapping[str, float] | None = None) -> dict[str, str]:
    """Returns every table by name; that of what students keep needs the teacher's accuracies by task."""
    coarsened = any(cell.endswith("_partial") for cell in study.values["cells"])
    found = {
        "state": state(study),
        "methods": methods(study),
        "balanced": balanced(study, METHODS),
        "single": single(study),
        "comparisons": comparisons(study),
        "ablations": ablations(study),
        "balanced-ablations": balanced(study, ABLATIONS),
        "rates": rates(study),
        "claims": markdown(claims.HEADER, claims.rows(study)),
    }
    if coarsened:
        found["recovered"] = markdown(recovered.HEADER, recovered.rows(study))
    if teacher is not None:
        found["kept"] = markdown(kept.HEADER, kept.rows(study, teacher, METHODS))
    return found


def state(study: Collected) -> str:
    """Returns the sentence about what was run, when, on what and for how long."""
    values, encoder = study.values, study.values["tower"]
    cells, runs = values["cells"], values["runs"]
    finished = [run for run in runs if "failed" not in run]
    steps = sorted({(cell["steps"], cell["batch_size"]) for cell in cells.values()})
    shown = ", ".join(f"{steps:,} steps of {batch}" for steps, batch in steps)
    total = values.get("size", len(cells) * (len(values["factors"]) + len(values["seeds"]) - 1))
    text = (
        f"{len(runs)} of {total} runs, {len(runs) - len(finished)} of them diverged; {shown} each; "
        f"{sum(run['train_seconds'] for run in finished) / 60:.0f} min of training"
        f"{', ' + str(values['jobs']) + ' at a time' if values['jobs'] else ''}; {values['date']}, "
        f"{values['machine']}, JAX {values['versions'].get('jax', '?')}."
    )
    if encoder:
        text += (
            f" The encoder was pretrained for {encoder['steps']:,} steps on {encoder['images']:,} images "
            f"in {encoder['seconds'] / 60:.0f} min, to a loss of {encoder['loss']:.3f}."
        )
    return text


# Whose single-task models a row is compared with, LoRA's if it is not here. Other probes than LP, and
# another number of labels, have none.
_TWINS = {"lp": "lp", "ft": "ft", "ap": "", "lp_untrained": "", "lora_long": ""}


def methods(study: Collected) -> str:
    """Returns the analogue of the thesis' Table 4.11."""
    rows = [["majority", *_majority(study), "-", "-"]]
    for cell, label in METHODS.items():
        if study.has(cell):
            row = [_estimate(study, cell, task, _TWINS.get(cell, "lora")) for task in COLUMNS]
            rows.append([label, *row, *_cost(study, cell)])
    return markdown(["method", *COLUMNS, "trained parameters", "seconds per run"], rows)


def single(study: Collected) -> str:
    """Returns the single-task models, and their differences from the multitask ones."""
    rows = []
    for method in ("lp", "ft", "lora"):
        twins = {task: f"{method}_{task}" for task in collected.TASKS}
        if not study.has(method, *twins.values()):
            continue
        single = [_estimate(study, cell, task) for task, cell in twins.items()]
        change = [_signed(study.difference(method, cell, task)) for task, cell in twins.items()]
        mean = study.against_single_tasks(method)
        rows.append([f"{METHODS[method]}, one model per task", *single, "-"])
        rows.append([f"{METHODS[method]}, all tasks minus one", *change, _signed(mean) if mean else "-"])
    return markdown(["model", *collected.TASKS, "mean"], rows)


def comparisons(study: Collected) -> str:
    """Returns differences between cells beside those of the thesis' Table 4.11."""
    rows = []
    for first, second, published in COMPARISONS:
        if study.has(first, second):
            changes = [study.difference(first, second, task) for task in COLUMNS]
            label = f"{_name(first)} - {_name(second)}"
            rows.append([label, *map(_signed, changes), _published(published), _verdict(changes[-1])])
    header = ["difference", *COLUMNS, "overall in the thesis", "overall here"]
    return markdown(header, rows)


def ablations(study: Collected) -> str:
    """Returns LoRA and its variants."""
    rows = [
        [label, *(_estimate(study, cell, task) for task in COLUMNS), *_cost(study, cell)]
        for cell, label in ABLATIONS.items()
        if study.has(cell)
    ]
    return markdown(["variant", *COLUMNS, "trained parameters", "seconds per run"], rows)


def balanced(study: Collected, labels: dict[str, str]) -> str:
    """Returns balanced accuracies, and macro-F1 of the two tasks with rare classes."""
    columns: list[tuple[str, Metric]] = [(task, "balanced_accuracy") for task in COLUMNS]
    columns += [("emotion", "macro_f1"), ("age", "macro_f1")]
    rows = [
        [label, *(str(study.over_seeds(cell, task, metric)) for task, metric in columns)]
        for cell, label in labels.items()
        if study.has(cell)
    ]
    return markdown(["balanced accuracy", *COLUMNS, "emotion macro-F1", "age macro-F1"], rows)


def rates(study: Collected) -> str:
    """Returns the validation loss of every factor of the search; the chosen one is bold."""
    factors, first = study.values["factors"], study.values["seeds"][0]
    rows, shorter = [], any(run.get("share", 1.0) < 1.0 for run in study.values["runs"])
    for cell in study.values["cells"]:
        runs = study.all_runs(cell)
        share = min((run.get("share", 1.0) for run in runs), default=1.0)  # the search's runs may be shorter
        if runs and shorter and share == 1.0:  # it takes the factor of another cell
            continue
        searched = {
            run["factor"]: run for run in runs if run["seed"] == first and run.get("share", 1.0) == share
        }
        chosen = {run["factor"] for run in study.chosen(cell)}
        shown = []
        for factor in factors:
            run = searched.get(factor)
            if run is None or run["validation_loss"] is None:
                shown.append("-" if run is None else "diverged")
                continue
            text = f"{run['validation_loss']:.4f}"
            shown.append(f"**{text}**" if run["factor"] in chosen else text)
        rate = next((f"{run['rate']:g}" for run in study.chosen(cell)), "-")
        rows.append([f"`{cell}`", *shown, rate])
    header = [f"factor {factor:g}" for factor in factors]
    return markdown(["cell", *header, "chosen rate of the heads"], rows)


def _estimate(study: Collected, cell: str, task: str, twin: str = "") -> str:
    """Returns the mean -+ half the interval over seeds [interval over examples] and an arrow.

    The arrow shows the change against the single-task twin, in brackets if it may be zero.
    """
    low, high = study.over_examples(cell, task)
    text = f"{study.over_seeds(cell, task)} [{low:.1f}, {high:.1f}]"
    single_task = f"{twin}_{task}"
    if not twin or not study.has(single_task):
        return text
    change = study.difference(cell, single_task, task)
    arrow = "↑" if change.mean > 0 else "↓"
    return f"{text} {arrow if change.excludes_zero else f'({arrow})'}"


def _signed(estimate: Estimate) -> str:
    text = f"{estimate.mean:+.1f}{estimate.interval}"
    return f"**{text}**" if estimate.excludes_zero else text


def _verdict(estimate: Estimate) -> str:
    if not estimate.excludes_zero:
        return "not decided"
    return "higher" if estimate.mean > 0 else "lower"


def _cost(study: Collected, cell: str) -> tuple[str, str]:
    runs = study.chosen(cell)  # those of the search may be shorter
    seconds = sorted(run["train_seconds"] for run in runs)
    return f"{runs[0]['trainable_params']:,}", f"{seconds[len(seconds) // 2]:.0f}"


def _majority(study: Collected) -> list[str]:
    """Returns the share of the largest class of each task, averaged over its test sets."""
    shares: dict[str, list[float]] = {task: [] for task in COLUMNS}
    for run in study.values["runs"]:
        for tasks in run.get("datasets", {}).values():
            for task, metrics in tasks.items():
                shares[task].append(100 * metrics["majority"])
    means = {task: sum(values) / len(values) for task, values in shares.items() if values}
    overall = sum(means.values()) / max(len(means), 1)
    return [f"{means[task]:.1f}" if task in means else "-" for task in collected.TASKS] + [f"{overall:.1f}"]


def _published(rows: Sequence[str]) -> str:
    if not rows:
        return "-"
    first, second = (paper.AVERAGES[row]["overall"] for row in rows)
    return f"{first - second:+.2f}"


def _name(cell: str) -> str:
    return METHODS.get(cell) or f"LoRA, {ABLATIONS[cell]}"


_BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables_of(source: pathlib.Path, teacher: Mapping[str, float] | None = None) -> dict[str, str]:
    """Returns the tables of a file of collected results, by name; see `collected.read` for errors."""
    return all_tables(collected.read(source), teacher)


def text(tables: Mapping[str, str]) -> str:
    """Returns all tables, each under its name."""
    return "\n\n".join(f"## {name}\n\n{table}" for name, table in tables.items())


def filled(page: str, tables: Mapping[str, str]) -> str:
    """Returns a page with tables between its markers `<!-- table: NAME -->` and `<!-- end -->`.

    Raises:
      UserError: no marker, or one of a table that does not exist.
    """
    names = [match["name"] for match in _BLOCK.finditer(page)]
    unknown = [name for name in names if name not in tables]
    if not names or unknown:
        found = unknown[0] if unknown else "no marker"
        fix = f"write <!-- table: NAME --> with a name of {', '.join(tables)}, then <!-- end -->"
        raise UserError("no place for the tables", found=found, fix=fix)
    return _BLOCK.sub(lambda match: f"{match[1]}\n{tables[match['name']]}\n\n{match[3]}", page)


def fill(path: pathlib.Path, tables: Mapping[str, str]) -> None:
    """Writes the tables into a page, which is complete at any time."""
    files.write_text(path, filled(path.read_text(), tables))
