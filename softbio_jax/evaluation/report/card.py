"""A run's result card: a model card in Markdown with the Hub's metadata on top."""

from collections.abc import Mapping
from typing import Any

from softbio_jax import coverage, escaping
from softbio_jax.evaluation import evaluate
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
        limits=LIMITS.strip(),
        licences={name: terms(name) for name in sets},
    )


def terms(name: str) -> str:
    """Returns the terms of a data set, or states that they are unknown."""
    bare = "".join(c for c in name.lower() if c.isalnum())
    found = [key for key in TERMS if bare.startswith(key)]
    return TERMS[max(found, key=len)] if found else "not known here: check them"


def _metadata(run: RunResults, training_sets: list[str]) -> dict[str, str]:
    """Returns the Hub's YAML as key -> value; every value is JSON, which YAML includes."""
    results = [
        {
            "task": {"type": "image-classification", "name": task},
            "dataset": {"type": test_set, "name": test_set},
            "metrics": [
                {"type": "accuracy", "value": round(metrics["accuracy"], 6)},
                {"type": "f1", "name": "macro-F1", "value": round(metrics["macro_f1"], 6)},
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
        "metrics": ["accuracy", "f1"],
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
