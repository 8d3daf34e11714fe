"""Measures the tables that predict.py wrote, beside those of runs, and writes docs/public_models.md's.

    python scripts/public_models/table.py --predictions=DIR --runs=LoRA:runs/lora \\
        --out=docs/public_models.json --page=docs/public_models.md

DIR holds MODEL/VARIANT/SET.csv. A run's table is read from RUN/eval/predictions/SET.csv; tables of a run
in DIR, under its NAME, show its sensitivity to preprocessing. With --add, rows that --out has and that these
tables do not give again are kept, so that a later run needs no older one.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from softbio_jax import command, files
from softbio_jax.console import markdown, percent
from softbio_jax.errors import UserError

_PREDICTIONS = flags.DEFINE_string("predictions", None, "The folder of MODEL/VARIANT/SET.csv.", required=True)
_RUNS = flags.DEFINE_list("runs", [], "Runs beside them, NAME:FOLDER.")
_OUT = flags.DEFINE_string("out", "docs/public_models.json", "Where the figures are written.")
_PAGE = flags.DEFINE_string("page", None, "The page whose tables are replaced.")
_ADD = flags.DEFINE_bool("add", False, "Keep what --out has of other models, runs and variants.")

_WHOLE = "whole"
_METRICS = ("accuracy", "balanced_accuracy")
_OTHER = {"emotion": "neutral"}  # a class that a test set may lack although the models know it
# By what the rows of each table are told apart.
_KEYS = {
    "models": ("model", "set"),
    "variants": ("model", "variant", "set", "task"),
    "pairs": ("run", "model", "task"),
}


def main(argv: Sequence[str]) -> None:
    del argv
    tables = dict(_tables(pathlib.Path(_PREDICTIONS.value)))
    if not tables:
        where, expected = _PREDICTIONS.value, "MODEL/VARIANT/SET.csv"
        raise UserError("no predictions", where=where, expected=expected, fix="run predict.py first")
    runs = dict(_of_runs(_RUNS.value, sets={name for _, _, name in tables}))
    own = {name for name, _ in runs}  # whose tables in the folder are for their variants alone
    whole = {
        (model, name): p
        for (model, variant, name), p in tables.items()
        if variant == _WHOLE and model not in own
    }
    found = {
        "models": [_row(model, p) for (model, _), p in (whole | runs).items()],
        "variants": list(_variants(tables)),
        "pairs": _pairs(whole, runs),
    }
    if _ADD.value:
        found = joined(_read(pathlib.Path(_OUT.value)), found)
    found["pairs"] = adjusted(found["pairs"])
    files.write_text(pathlib.Path(_OUT.value), json.dumps(found, indent=1) + "\n")
    if _PAGE.value:
        from softbio_jax.thesis.study import tables as pages

        pages.fill(pathlib.Path(_PAGE.value), page_tables(found))
    print(f"wrote {_OUT.value}: {len(found['models'])} tables of predictions")


def _tables(folder: pathlib.Path) -> Iterator[tuple[tuple[str, str, str], Any]]:
    from softbio_jax.evaluation import predictions_csv

    for path in sorted(folder.glob("*/*/*.csv")):
        model, variant = path.parts[-3:-1]
        yield (model, variant, path.stem), predictions_csv.load(path)


def _of_runs(given: Sequence[str], sets: set[str]) -> Iterator[tuple[tuple[str, str], Any]]:
    from softbio_jax.evaluation import predictions_csv

    for item in given:
        name, _, folder = item.partition(":")
        paths = [pathlib.Path(folder) / "eval" / "predictions" / f"{one}.csv" for one in sorted(sets)]
        present = [path for path in paths if path.exists()]
        if not present:
            expected = " or ".join(path.name for path in paths)
            raise UserError("no predictions of the run", where=item, expected=expected, fix="evaluate it")
        for path in present:
            yield (name, path.stem), predictions_csv.load(path)


def _row(model: str, predictions: Any) -> dict[str, Any]:
    """Returns a model's metrics on one test set, and how they differ between the groups of race."""
    from softbio_jax.evaluation.metrics import fairness
    from softbio_jax.evaluation.metrics.per_task import task_metrics

    tasks = {}
    for task in predictions.tasks():
        metrics = task_metrics(predictions, task)
        tasks[task] = {
            "n": int(metrics["n"]),
            **{name: [metrics[name], *metrics["intervals"][name]] for name in _METRICS},
            **_without_other(predictions, task),
        }
        if "race" in predictions.audit:
            tasks[task]["race"] = fairness.gap(fairness.by_group(predictions, task, ("race",)), ("race",))
    return {"model": model, "set": predictions.name, "tasks": tasks}


def _without_other(predictions: Any, task: str) -> dict[str, Any]:
    """Returns the accuracy among the classes that the test set has, where it lacks one."""
    from softbio_jax.evaluation.metrics import intervals
    from softbio_jax.tasks import TASKS

    labels, probabilities = predictions.labelled(task)
    classes = TASKS[task].classes
    if task not in _OTHER or classes.index(_OTHER[task]) in labels:
        return {}
    kept = [number for number, name in enumerate(classes) if name != _OTHER[task]]
    hits = int(np.sum(np.array(kept)[probabilities[:, kept].argmax(axis=1)] == labels))
    share = hits / len(labels)
    return {f"accuracy_without_{_OTHER[task]}": [share, *intervals.wilson(hits, len(labels))]}


def _variants(tables: Mapping[tuple[str, str, str], Any]) -> Iterator[dict[str, Any]]:
    """Yields what every kind of preprocessing changes, paired by image."""
    from softbio_jax.evaluation.metrics import comparison

    for (model, variant, name), changed in tables.items():
        if variant == _WHOLE or (model, _WHOLE, name) not in tables:
            continue
        plain = tables[model, _WHOLE, name]
        for task in plain.tasks():
            found = comparison.compare(changed, plain, task)["differences"]["accuracy"]
            difference = [found["difference"], *found["interval"]]
            yield {"model": model, "variant": variant, "set": name, "task": task, "difference": difference}


def _pairs(
    public: Mapping[tuple[str, str], Any], runs: Mapping[tuple[str, str], Any]
) -> list[dict[str, Any]]:
    """Returns every run beside every public model on the same images."""
    from softbio_jax.evaluation.metrics import comparison

    found = []
    for (run, name), ours in runs.items():
        for (model, other), theirs in public.items():
            for task in ours.tasks() if other == name else ():
                if task not in theirs.tasks():
                    continue
                pair = comparison.compare(ours, theirs, task)
                accuracy = pair["differences"]["accuracy"]
                difference = [accuracy["difference"], *accuracy["interval"]]
                kept = {key: pair[key] for key in ("n", "first_only", "second_only", "p_value")}
                found.append({"run": run, "model": model, "task": task, "difference": difference, **kept})
    return found


def adjusted(pairs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the pairs with Holm's p-values over all of them."""
    from softbio_jax.evaluation.metrics import multiplicity

    p_values = multiplicity.holm([pair["p_value"] for pair in pairs]) if pairs else []
    return [dict(pair) | {"p_adjusted": float(p)} for pair, p in zip(pairs, p_values, strict=True)]


def joined(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the rows of both, in the order of the first; where both have a row, it is the second's."""
    rows: dict[str, Any] = {}
    for table, names in _KEYS.items():
        keyed = {tuple(row[name] for name in names): row for row in (*before[table], *now[table])}
        rows[table] = list(keyed.values())
    return rows


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            "nothing to add to", where=str(path), found="no such file", fix="drop --add"
        ) from error
    return found


def page_tables(found: Mapping[str, Any]) -> dict[str, str]:
    """Returns the page's tables: {name: Markdown}."""
    models, races = [], []
    for row in found["models"]:
        for task, metrics in row["tasks"].items():
            other = next((v for k, v in metrics.items() if k.startswith("accuracy_without")), None)
            cells = [_bounded(metrics[name]) for name in _METRICS]
            models.append([row["model"], task, f"{metrics['n']:,}", *cells, _bounded(other) if other else ""])
            if gap := metrics.get("race"):
                ends = [
                    f"{gap[end]['group']} {percent(gap[end]['accuracy'])}" for end in ("lowest", "highest")
                ]
                races.append([row["model"], task, *ends, f"{gap['p_value']:.2g}", f"{gap['effect']:.2f}"])
    kinds = list(dict.fromkeys(v["variant"] for v in found["variants"]))
    by_model: dict[tuple[str, str], dict[str, str]] = {}
    for v in found["variants"]:
        by_model.setdefault((v["model"], v["task"]), {})[v["variant"]] = _bounded(
            v["difference"], signed=True
        )
    variants = [[*key, *(row.get(kind, "") for kind in kinds)] for key, row in by_model.items()]
    pairs = [
        [
            *(p["run"], p["model"], p["task"], _bounded(p["difference"], signed=True)),
            f"{p['first_only']:,} / {p['second_only']:,}",
            f"{p['p_adjusted']:.2g}",
        ]
        for p in found["pairs"]
    ]
    return {
        "models": markdown(
            ["model", "task", "n", "accuracy", "balanced accuracy", "without neutral"], models
        ),
        "race": markdown(["model", "task", "lowest", "highest", "p", "Cramer's V"], races),
        "variants": markdown(["model", "task", *kinds], variants),
        "pairs": markdown(
            ["run", "model", "task", "difference of accuracy", "right alone: run / model", "p (Holm)"], pairs
        ),
    }


def _bounded(values: Sequence[float], *, signed: bool = False) -> str:
    middle, low, high = (f"{100 * value:{'+' if signed else ''}.1f}" for value in values)
    return f"{middle} [{low}, {high}]"


if __name__ == "__main__":
    command.run(main)
