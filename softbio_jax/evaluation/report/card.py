"""A run's result card: a model card in Markdown with the Hub's metadata on top."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from softbio_jax import files
from softbio_jax.evaluation.report import cost, document, markdown
from softbio_jax.evaluation.report.document import Table
from softbio_jax.evaluation.report.runs import Run

# Data sets by the beginning of their names -> terms. The longest match counts.
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
  must be told (Art. 50(3)).
- Faces are personal data under the GDPR; a legal basis and usually an impact assessment are
  needed. This is no legal advice.
"""


def render(run: Run, audits: Mapping[str, Any]) -> str:
    """Returns the card of one run.

    Args:
      run: a run with a directory.
      audits: its test sets' fairness audits (`fairness.audit`), for the gaps.
    """
    model = run.summary["model"]
    sections = {
        "": f"# {run.name}\n\n"
        f"{model.get('variant', 'A tower')} adapted by {model.get('method', 'training')} to "
        f"{document.listed(run.tasks)} from faces, with softbio_jax.",
        "Results": "\n".join(markdown.table(_results(run))),
        "Fairness": "\n".join(markdown.table(_gaps(audits))) if audits else "No audit columns.",
        "Size and cost": "\n".join(f"- {name}: {value}" for name, value in cost.measured(run).items()),
        "Training data and label masks": _data(run),
        "Protocol": "\n".join(f"- `{k}`: {v}" for k, v in cost.flat(run.config).items())
        or "The run has no config.json.",
        "Intended use": USE.strip(),
        "Limits": LIMITS.strip(),
        "Licences": _licences(run),
        "Command": f"```\n{run.info.get('command', 'not recorded')}\n```",
    }
    parts = [_metadata(run)]
    parts += [f"## {title}\n\n{text}" if title else text for title, text in sections.items()]
    return "\n\n".join(parts) + "\n"


def write(run: Run, audits: Mapping[str, Any], path: str | os.PathLike) -> pathlib.Path:
    """Writes `render`'s card to `path`, whole or not at all."""
    files.write_text(path, render(run, audits))
    return pathlib.Path(path)


def terms(name: str) -> str:
    """Returns the terms of a data set, or says that they are unknown."""
    bare = "".join(c for c in name.lower() if c.isalnum())
    found = [key for key in TERMS if bare.startswith(key)]
    return TERMS[max(found, key=len)] if found else "not known here: check them"


def _metadata(run: Run) -> str:
    """The Hub's YAML; every value is JSON, which YAML includes."""
    results = [
        {
            "task": {"type": "image-classification", "name": task},
            "dataset": {"type": test_set, "name": test_set},
            "metrics": [
                {"type": "accuracy", "value": round(figures["accuracy"], 6)},
                {"type": "f1", "name": "macro-F1", "value": round(figures["macro_f1"], 6)},
            ],
        }
        for test_set, tasks in run.summary["datasets"].items()
        for task, figures in tasks.items()
    ]
    fields = {
        "library_name": "softbio_jax",
        "license": "other",
        "license_name": "see-card",
        "pipeline_tag": "image-classification",
        "tags": ["jax", "flax", "soft-biometrics", "peft", *run.tasks],
        "datasets": sorted({name.split("/")[-2] for name in _training_sets(run)}),
        "metrics": ["accuracy", "f1"],
        "model-index": [{"name": run.name, "results": results}],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _results(run: Run) -> Table:
    rows = tuple(
        (
            test_set,
            task,
            document.count(figures["n"]),
            document.percent_interval(figures, "accuracy"),
            document.percent(figures["majority"]),
            document.percent_interval(figures, "balanced_accuracy"),
            document.percent_interval(figures, "macro_f1"),
            document.percent_interval(figures, "ece"),
        )
        for test_set, tasks in run.summary["datasets"].items()
        for task, figures in tasks.items()
    )
    return Table(
        title="Test sets, % with 95 % intervals",
        header=("test set", "task", "n", "accuracy", "floor", "balanced", "macro-F1", "ECE"),
        rows=rows,
        text_columns=2,
    )


def _gaps(audits: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            test_set,
            task,
            cut.replace(" x ", " × "),
            gap["best"],
            gap["worst"],
            document.points(gap["gap"], gap["interval"]),
            f"{gap['smallest']['group']} ({gap['smallest']['n']:,})",
        )
        for test_set, tasks in audits.items()
        for task, cuts in tasks.items()
        for cut, result in cuts.items()
        if (gap := result["gap"]) is not None
    )
    return Table(
        title="Accuracy gaps between groups of at least 100 examples, percentage points",
        header=("test set", "task", "groups", "best", "worst", "gap", "smallest cell"),
        rows=rows,
        text_columns=5,
    )


def _training_sets(run: Run) -> list[str]:
    """Names such as train/fairface/train."""
    return [name for name in run.info.get("data", {}) if name.startswith("train/")]


def _data(run: Run) -> str:
    lines = []
    for name in _training_sets(run):
        facts = run.info["data"][name]
        labels = facts.get("labels", {})
        known = ", ".join(f"{task} {n:,}" for task, n in labels.items() if n) or "none"
        lines.append(
            f"- {name.removeprefix('train/')}: {facts.get('n', 0):,} examples, labels: {known}; "
            f"fingerprint `{str(facts.get('fingerprint', ''))[:16]}`"
        )
    return "\n".join(lines) or "The run has no record of its data."


def _licences(run: Run) -> str:
    lines = [
        "- code: Apache-2.0",
        "- base weights: the Perception Encoder's terms, where the tower was initialised from it; "
        "check them with the checkpoint",
    ]
    names = {name.split("/")[-2] for name in run.info.get("data", {}) if name.count("/") >= 2}
    lines += [f"- {name}: {terms(name)}" for name in sorted(names)]
    return "\n".join(lines) + "\n\nIn practice a fine-tuned model inherits its data's terms."
