"""Puts the sections together and writes the complete report."""

import datetime
import json
import os
import pathlib
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from softbio_jax import files
from softbio_jax.console import QUIET, Console
from softbio_jax.escaping import csv_line
from softbio_jax.evaluation import label_section, plots
from softbio_jax.evaluation.report import (
    card,
    comparing,
    cost,
    features,
    groups,
    render,
    results,
    training,
    trust,
)
from softbio_jax.evaluation.report.document import Document, Section, count, file_stem, listed, percent
from softbio_jax.evaluation.report.runs import RunResults
from softbio_jax.evaluation.report.training import TrainingSet

CARDS = "cards"
PAGES = ("html", "md", "tex")
FILES = (*(f"report.{form}" for form in PAGES), "report.json", "fairness.csv", render.FIGURES, CARDS)
COMPARISON = "comparison"  # the page of several runs


def write(
    runs: Sequence[RunResults],
    out: str | os.PathLike,
    *,
    extra: Sequence[Section] = (),
    published: TrainingSet | None = None,
    console: Console = QUIET,
) -> pathlib.Path:
    """Writes report.html, .md, .tex and .json, fairness.csv, figures and cards to `out`.

    With several runs, also comparison.html, .md and .tex. Other files in `out` are kept; files of these
    names are replaced once all are written.

    Args:
      runs: at least one; the first is the reference of paired tests.
      out: the directory, created if it is missing.
      extra: sections of the caller, shown below the results.
      published: a training set whose classes are shown beside those of the runs.

    Returns:
      The path of report.html.

    Raises:
      UserError: `out` is in an object store.
    """
    out = files.local(out, what="a report")
    console.show("metrics per group", 0, 1)
    audits = groups.audits(runs)
    console.show("sections", 0, 1)
    pages = {"report": compose(runs, audits, extra=extra, published=published)}
    if len(runs) > 1:
        pages[COMPARISON] = comparing.compose(runs)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".report-") as scratch:
        new = pathlib.Path(scratch)
        for folder in (render.FIGURES, CARDS):
            (new / folder).mkdir()
        figures = [item for content in pages.values() for item in content.figures()]
        meter = console.meter("report", len(figures), unit="figures")
        for item in figures:
            console.check()
            plots.save_png(item.figure, new / render.FIGURES / f"{item.stem}.png")
            meter.add()
        texts = {
            f"{name}.{form}": render.document(content, form)
            for name, content in pages.items()
            for form in PAGES
        }
        texts["report.json"] = json.dumps(as_data(runs, pages, audits), indent=1) + "\n"
        for run in (run for run in runs if not run.external):
            texts[f"{CARDS}/{file_stem(run.name)}.md"] = card.render(run, audits[run.name])
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8")
        _write_groups(new / "fairness.csv", audits)
        for name in (*FILES, *(f"{COMPARISON}.{form}" for form in PAGES)):
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            if (new / name).exists():
                (new / name).replace(out / name)
            else:  # of an earlier report on several runs
                (out / name).unlink(missing_ok=True)
    console.close()
    return out / "report.html"


def compose(
    runs: Sequence[RunResults],
    audits: groups.Audits,
    *,
    extra: Sequence[Section] = (),
    published: TrainingSet | None = None,
) -> Document:
    """Returns the report on `runs`; the first is the one that others are compared with."""
    sections: list[Section | None] = [
        results.results(runs),
        *extra,
        results.confusion(runs),
        trust.comparisons(runs),
        trust.calibration(runs),
        trust.unsure(runs),
        groups.section(audits),
        label_section.section(runs),
        training.section(runs, published=published),
        features.section(runs),
        cost.cost(runs),
        cost.provenance(runs),
    ]
    # The run with the most tasks, then the most accurate.
    best = max(
        (run for run in runs if not run.external),
        key=lambda run: (len(run.tasks), run.summary["averages"].get("overall", 0)),
    )
    highlights = [_highlight(best, key) for key in results.average_keys([best])]
    model = best.summary["model"]
    if model.get("total_params") and model.get("trainable_params") is not None:
        share = percent(model["trainable_params"] / model["total_params"])
        trained = f"{count(model['trainable_params'])} parameters"
        highlights.append((f"{share} %", "of the weights trained", trained))
    return Document(
        title="Soft biometrics report",
        subtitle=subtitle(runs),
        highlights=tuple(highlights),
        sections=tuple(section for section in sections if section is not None),
    )


def _highlight(run: RunResults, key: str) -> tuple[str, str, str]:
    """Returns an average accuracy with its interval, majority baseline and number of examples."""
    low, high = run.summary["average_intervals"][key]
    averaged = run.summary["averaged_sets"]
    tasks = list(averaged) if key == "overall" else [key]
    found = [[run.summary["datasets"][name][task] for name in averaged[task]] for task in tasks]
    baseline = statistics.fmean(statistics.fmean(m["majority"] for m in metrics) for metrics in found)
    n = count(sum(m["n"] for metrics in found for m in metrics))
    sets = len({name for task in tasks for name in averaged[task]})
    where = f"{sets} test sets" if sets > 1 else averaged[tasks[0]][0]
    labels = "labels" if key == "overall" else "images"
    remark = (
        f"95 % interval {percent(low, digits=1)} to {percent(high, digits=1)}; majority class "
        f"{percent(baseline, digits=1)}; {n} {labels} of {where}; {run.name}"
    )
    return f"{percent(run.summary['averages'][key], digits=1)} %", f"{key} accuracy", remark


def subtitle(runs: Sequence[RunResults]) -> str:
    """Returns the tasks that the runs were evaluated on, their names and today's date."""
    tasks = listed(list(dict.fromkeys(task for _, task in results.judged(runs))))
    names = ", ".join(run.name for run in runs)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return f"{tasks.capitalize()} from faces. Runs: {names}. Written {today}."


def as_data(
    runs: Sequence[RunResults], pages: Mapping[str, Document], audits: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the content of pages as JSON values: runs with every metric, tables of each page, audits."""
    of_run = ("name", "external", "summary", "info", "config")
    of_table = ("title", "groups", "header", "rows", "notes")
    tables = {
        name: [{field: getattr(table, field) for field in of_table} for table in content.tables()]
        for name, content in pages.items()
    }
    return {
        "title": pages["report"].title,
        "runs": [{field: getattr(run, field) for field in of_run} for run in runs],
        "tables": tables["report"],
        "fairness": audits,
        **({COMPARISON: tables[COMPARISON]} if COMPARISON in tables else {}),
    }


def _write_groups(path: pathlib.Path, audits: groups.Audits) -> None:
    rows = [
        {"run": run, "test_set": test_set, "task": task, "groups": cut, **row}
        for run, sets in audits.items()
        for test_set, audit in sets.items()
        for task, cuts in audit.items()
        for cut, result in cuts.items()
        for row in result["rows"]
    ]
    first = ("run", "test_set", "task", "groups", "race", "gender", "age", "n", "accuracy")
    names = [*first, *sorted({key for row in rows for key in row} - set(first))]
    with path.open("w", newline="", encoding="utf-8") as file:
        file.writelines(map(csv_line, [names, *([row.get(name) for name in names] for row in rows)]))
