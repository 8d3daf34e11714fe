"""Puts the sections together and writes the report whole."""

import csv
import datetime
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from softbio_jax.evaluation import plots
from softbio_jax.evaluation.report import (
    card,
    cost,
    document,
    features,
    groups,
    html,
    latex,
    markdown,
    results,
    training,
    trust,
)
from softbio_jax.evaluation.report.document import Document, Section, file_stem
from softbio_jax.evaluation.report.runs import Run
from softbio_jax.thesis import report

PICTURES = "figures"
CARDS = "cards"
FILES = ("report.html", "report.md", "report.tex", "report.json", "fairness.csv", PICTURES, CARDS)


def compose(runs: Sequence[Run], audits: groups.Audits) -> Document:
    """Returns the report on `runs`; the first is the one that others are compared with."""
    sections: list[Section | None] = [
        results.results(runs),
        report.section(runs),
        results.confusion(runs),
        trust.comparisons(runs),
        trust.calibration(runs),
        groups.section(audits),
        training.section(runs),
        features.section(runs),
        cost.cost(runs),
        cost.provenance(runs),
    ]
    # The run that masters the most tasks, then the most accurate.
    best = max(
        (run for run in runs if not run.external),
        key=lambda run: (len(run.tasks), run.summary["averages"].get("overall", 0)),
    )
    highlights = [
        (f"{document.percent(value)} %", f"{key} accuracy", f"average of {best.name}")
        for key, value in best.summary["averages"].items()
    ]
    model = best.summary["model"]
    if model.get("total_params") and model.get("trainable_params") is not None:
        share = document.percent(model["trainable_params"] / model["total_params"])
        trained = f"{document.count(model['trainable_params'])} parameters"
        highlights.append((f"{share} %", "of the weights trained", trained))
    return Document(
        title="Soft biometrics report",
        subtitle=subtitle(runs),
        highlights=tuple(highlights),
        sections=tuple(section for section in sections if section is not None),
    )


def subtitle(runs: Sequence[Run]) -> str:
    """Returns the tasks that the runs were judged on, their names and today's date."""
    tasks = document.listed(list(dict.fromkeys(task for _, task in results.judged(runs))))
    names = ", ".join(run.name for run in runs)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return f"{tasks.capitalize()} from faces. Runs: {names}. Written {today}."


def write(
    runs: Sequence[Run], out: str | os.PathLike, *, progress: Callable[[str], None] = lambda _: None
) -> pathlib.Path:
    """Writes report.html, .md, .tex and .json, fairness.csv, pictures and cards to `out`.

    Files of other names in `out` are left alone; ours are replaced once all are written.

    Args:
      runs: at least one; the first is the reference of paired tests.
      out: the directory, made if it is missing.
      progress: told in a few words what is being done.

    Returns:
      The path of report.html.
    """
    out = pathlib.Path(out)
    progress("figures by group")
    audits = groups.audits(runs)
    progress("sections")
    document = compose(runs, audits)
    new = out / ".new"
    shutil.rmtree(new, ignore_errors=True)
    (new / PICTURES).mkdir(parents=True)
    figures = document.figures()
    for number, figure in enumerate(figures, start=1):
        progress(f"picture {number} of {len(figures)}")
        plots.save_png(figure.figure, new / PICTURES / f"{figure.stem}.png")
    progress("pages")
    (new / "report.html").write_text(html.render(document), encoding="utf-8")
    (new / "report.md").write_text(markdown.render(document, pictures=PICTURES), encoding="utf-8")
    (new / "report.tex").write_text(latex.render(document, pictures=PICTURES), encoding="utf-8")
    data = json.dumps(as_data(runs, document, audits), indent=1)
    (new / "report.json").write_text(data + "\n", encoding="utf-8")
    _write_groups(new / "fairness.csv", audits)
    (new / CARDS).mkdir()
    for run in (run for run in runs if not run.external):
        card.write(run, audits[run.name], new / CARDS / f"{file_stem(run.name)}.md")
    for name in FILES:
        target = out / name
        if target.is_dir():
            shutil.rmtree(target)
        (new / name).replace(target)
    new.rmdir()
    return out / "report.html"


def as_data(runs: Sequence[Run], document: Document, audits: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the report's content as JSON values: runs with every figure, tables, audits."""
    return {
        "title": document.title,
        "runs": [
            {
                "name": run.name,
                "external": run.external,
                "summary": run.summary,
                "info": run.info,
                "config": run.config,
            }
            for run in runs
        ],
        "tables": [
            {
                "title": table.title,
                "groups": table.groups,
                "header": table.header,
                "rows": table.rows,
                "notes": table.notes,
            }
            for table in document.tables()
        ],
        "fairness": audits,
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
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
