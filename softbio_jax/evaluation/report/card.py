"""A run's result card: a model card in Markdown with the Hub's metadata on top."""

from collections.abc import Mapping
from typing import Any

from softbio_jax import coverage, escaping
from softbio_jax.evaluation import evaluate
from softbio_jax.evaluation.metrics import intervals
from softbio_jax.evaluation.report import cost, document, groups
from softbio_jax.evaluation.report import render as render_lib
from softbio_jax.evaluation.report.document import Table
from softbio_jax.evaluation.report.runs import RunResults

# Beginning of a data set's name -> its terms. The longest match counts.
TERMS: Mapping[str, str] = {
    "synthetic": "rendered by this project; says nothing about people",
    "fairface": "CC BY 4.0",
    "utkface": "non-commercial research only, copyright with the owners of the images",
    "raf": "non-commercial research by request, no redistribution",
    "vggface2": "withdrawn by its hosts; label list CC BY-SA 4.0, images not owned",
    "celeba": "non-commercial research (CelebA-HQ: CC BY-NC 4.0)",
    "lagenda": "images CC BY 2.0 (Open Images); terms of the labels not stated: research only",
    "fer": "research use, no redistribution",
}
MISCALIBRATED = 0.05  # expected calibration error
USE = """\
Research on soft biometrics: comparing adaptation methods, studying errors and biases of face
attribute models, and reproducing published tables.
"""
LIMITS = """\
- Labels are what annotators or models perceived: binary "gender" is not identity, age is
  apparent age, and emotion is the displayed expression, not a felt state.
- Not for access control, hiring, policing, surveillance or age-gating. Age groups at both ends
  and rare expressions rest on few examples; see n and the intervals above.
- Race is used for audits only and no head predicts it.
- EU AI Act (Regulation 2024/1689): inferring emotions at work or in education is prohibited
  (Art. 5(1)(f), with medical and safety exceptions), and so is biometric categorisation by race,
  religion or sexual orientation (Art. 5(1)(g)); emotion recognition and categorisation by
  protected attributes are high-risk where permitted (Annex III(1)), and people exposed to them
  must be informed (Art. 50(3)).
- Faces are personal data under the GDPR; a legal basis and usually an impact assessment are
  needed. This is no legal advice.
"""


def render(run: RunResults, audits: Mapping[str, Any]) -> str:
    """Returns the card of a run with a directory; `audits` (of `fairness.audit`) give the gaps."""
    data = run.info.get("data", {})
    training = [name for name in data if name.startswith("train/")]
    sets = sorted({name.split("/")[-2] for name in data if name.count("/") >= 2})
    return render_lib.template("card.md").render(
        run=run,
        model={"variant": None, "method": None, **run.summary["model"]},
        info={"command": None, **run.info},
        tasks=document.listed(run.tasks),
        metadata=_metadata(run, sorted({name.split("/")[-2] for name in training})),
        results=_results(run),
        gaps=_gaps(audits) if audits else None,
        cost=cost.measured(run),
        training_sets={name.removeprefix("train/"): data[name] for name in training},
        protocol=cost.flat(run.config),
        use=USE.strip(),
        limits="\n".join(
            (*(f"- {escaping.markdown(line)}" for line in found_limits(run, audits)), LIMITS.strip())
        ),
        licences={name: terms(name) for name in sets},
    )


def found_limits(run: RunResults, audits: Mapping[str, Any]) -> list[str]:
    """Returns what this run's evaluation shows that the model cannot do, or does not measure, one line each.

    Synthetic test sets, classes without training images or with too few test images, the class with the
    lowest recall, metrics whose interval holds the majority baseline, groups that differ, and
    miscalibration.
    """
    lines = []
    drawn = [name for name in run.summary["datasets"] if name.startswith("synthetic")]
    if drawn:
        lines.append(f"{document.listed(drawn)}: rendered faces, whose metrics say nothing about people.")
    lines += [f"{note}." for note in evaluate.untrained_notes(run.summary)]
    for test_set, task, metrics in run.metrics():
        where = f"{task} on {test_set}"
        classes = metrics["per_class"]
        least = intervals.LEAST_EXAMPLES
        few = [f"{name} ({row['n']})" for name, row in classes.items() if row["n"] < least]
        if few:
            lines.append(
                f"{where}: fewer than {least} test images, so nothing is known, of {document.listed(few)}."
            )
        known = {name: row for name, row in classes.items() if row["n"] >= least}
        if len(known) > 1:
            name, row = min(known.items(), key=lambda item: item[1]["recall"])
            recall = document.with_bounds(row["recall"], row["intervals"]["recall"])
            lines.append(f"{where}: lowest recall {recall} % for {name} (n {row['n']:,}).")
        if metrics["intervals"]["accuracy"][0] <= metrics["majority"]:
            majority = document.percent(metrics["majority"])
            lines.append(f"{where}: accuracy is not shown to exceed the majority class ({majority} %).")
        if metrics["ece"] > MISCALIBRATED:
            ece = document.percent(metrics["ece"], digits=1)
            lines.append(
                f"{where}: probabilities are off by {ece} points on average (ECE); scale them first."
            )
    for test_set, audit in audits.items():
        for task, cuts in audit.items():
            for result in cuts.values():
                gap = result["gap"]
                if gap and gap["p_adjusted"] < groups.SIGNIFICANT and gap["pair"]:
                    best, worst = (gap["pair"][key]["group"] for key in ("best", "worst"))
                    points = document.points(gap["pair"]["gap"], gap["pair"]["interval"])
                    lines.append(f"{task} on {test_set}: {points} points between {best} and {worst}.")
    return lines


def terms(name: str) -> str:
    """Returns the terms of a data set, or states that they are unknown."""
    bare = "".join(c for c in name.lower() if c.isalnum())
    found = [key for key in TERMS if bare.startswith(key)]
    return TERMS[max(found, key=len)] if found else "not known here: check them"


def _metadata(run: RunResults, training_sets: list[str]) -> dict[str, str]:
    """Returns the Hub's YAML as key -> value; every value is JSON, which YAML includes.

    `model-index` has one result per test set and task, with the share of each metric between 0 and 1.
    """
    tests = (name.rpartition("/") for name in run.config.get("data", {}).get("test", ()))
    splits: dict[str, dict[str, Any]] = {name: {"split": split} for name, _, split in tests if name}
    results: list[dict[str, Any]] = [
        {
            "task": {"type": "image-classification", "name": task},
            "dataset": {"type": test_set, "name": test_set, **splits.get(test_set, {})},
            "metrics": [
                {
                    "type": kind,
                    "name": title,
                    "value": round(metrics[key], 6),
                    "args": {
                        "n": metrics["n"],
                        "interval_95": [round(bound, 6) for bound in metrics["intervals"][key]],
                    },
                }
                for kind, title, key in (
                    ("accuracy", "accuracy", "accuracy"),
                    ("recall", "balanced accuracy", "balanced_accuracy"),
                    ("f1", "macro-F1", "macro_f1"),
                )
            ],
        }
        for test_set, task, metrics in run.metrics()
    ]
    fields = {
        "library_name": "softbio_jax",
        "license": "other",
        "license_name": "see-card",
        "pipeline_tag": "image-classification",
        "tags": ["jax", "flax", "soft-biometrics", "peft", *run.tasks],
        "datasets": training_sets,
        "metrics": ["accuracy", "recall", "f1"],
        "model-index": [{"name": run.name, "results": results}],
    }
    return {key: escaping.json_text(value) for key, value in fields.items()}


def _results(run: RunResults) -> Table:
    keys = ("accuracy", "balanced_accuracy", "macro_f1", "ece")
    rows = []
    for test_set, task, metrics in run.metrics():
        first, *others = (document.percent_interval(metrics, key) for key in keys)
        majority = document.percent(metrics["majority"])
        shown = coverage.marked(run.images, task)
        rows.append((test_set, shown, document.count(metrics["n"]), first, majority, *others))
    return Table(
        title="Test sets, % with 95 % intervals",
        header=("test set", "task", "n", "accuracy", "majority", "balanced", "macro-F1", "ECE"),
        rows=tuple(rows),
        notes=tuple(f"{coverage.MARK} {note}." for note in evaluate.untrained_notes(run.summary)),
        text_columns=2,
    )


def _gaps(audits: Mapping[str, Any]) -> Table:
    return Table(
        title="Accuracy gaps between groups, %",
        header=groups.GAP_COLUMNS,
        rows=tuple(groups.gap_rows(audits)),
        notes=groups.GAP_NOTES,
        text_columns=3,
    )
