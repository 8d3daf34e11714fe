"""What the web page says about one face, as HTML: the answer, its distributions, the map's scale."""

from __future__ import annotations

import html
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from softbio_jax import coverage
from softbio_jax.console import percent
from softbio_jax.errors import UserError
from softbio_jax.escaping import visible
from softbio_jax.inference.occlusion import AGAINST, EVIDENCE
from softbio_jax.inference.predictor import Prediction
from softbio_jax.safety import untrusted
from softbio_jax.tasks import TaskSpec

NOT_MEASURED = "accuracy not measured"
# Colours are those of the page's theme, light or dark.
STYLE = """
.answer {display: grid; gap: 14px}
.answer p {margin: 0; line-height: 1.35; color: var(--body-text-color)}
.answer .task, .distributions h3 {font-size: 15px; font-weight: 600; color: var(--body-text-color); margin: 0}
.answer .class {font-size: 26px; font-weight: 650; margin-right: 8px}
.answer .share {font-size: 20px}
.answer .measured, .legend p {font-size: 15px; color: var(--body-text-color); opacity: .8}
.distributions {display: grid; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); gap: 20px 32px}
.distributions p {display: grid; grid-template-columns: 5.6em 1fr 3.6em; gap: 8px; align-items: center;
  margin: 0; font-size: 16px; line-height: 1.6; color: var(--body-text-color)}
.distributions span:last-child {text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums}
.distributions i {height: 12px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden}
.distributions b {display: block; height: 100%; background: var(--body-text-color-subdued)}
.distributions .likeliest {font-weight: 650}
.distributions .likeliest b {background: var(--color-accent)}
.legend i {display: block; height: 14px; border-radius: 3px; margin: 4px 0}
.legend div {display: flex; justify-content: space-between; font-size: 15px; color: var(--body-text-color);
  font-variant-numeric: tabular-nums}
.legend p {margin: 4px 0 0; line-height: 1.4}
"""


class Measured(NamedTuple):
    """A task's accuracy on a test set of n labelled images."""

    test_set: str
    accuracy: float
    n: int


def measured(source: str | os.PathLike[str]) -> dict[str, list[Measured]]:
    """Returns task -> its accuracy on each test set, as the evaluation of a run found it.

    Args:
      source: a run; of anything else nothing is known, and the result is empty.

    Raises:
      UserError: a damaged evaluation.
    """
    path = pathlib.Path(source).expanduser() / "eval" / "metrics.json"
    if not path.is_file():
        return {}
    wrong, fix = "a damaged evaluation", "run scripts/evaluate.py again"
    content = untrusted.read_json(path, wrong=wrong, fix=fix, own=True)
    found: dict[str, list[Measured]] = {}
    try:
        for name, tasks in content["datasets"].items():
            for task, metrics in tasks.items():
                one = Measured(name, float(metrics["accuracy"]), int(metrics["n"]))
                found.setdefault(task, []).append(one)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(wrong, where=str(path), found=repr(error), fix=fix) from error
    return found


def answer(
    prediction: Prediction,
    accuracies: Mapping[str, Sequence[Measured]],
    images: coverage.TrainingImages = coverage.UNKNOWN,
) -> str:
    """Returns each task's class, its probability, and how often the model was right on test sets."""
    parts = []
    for task, name in prediction.classes.items():
        share = percent(prediction.probabilities[task][name], 0)
        found = [
            f"right for {percent(one.accuracy, 1)} % of {one.n:,} test images ({one.test_set})"
            for one in accuracies.get(task, ())
        ]
        if task == "age" and prediction.expected_age is not None:
            found.insert(0, f"expected age {prediction.expected_age:.1f} years")
        found += [] if accuracies.get(task) else [NOT_MEASURED]
        lines = "".join(f'<p class="measured">{_text(line)}</p>' for line in found)
        parts.append(
            f'<div><p class="task">{_text(task)}</p>'
            f'<p><span class="class">{_text(coverage.marked(images, task, name))}</span> '
            f'<span class="share">{share} %</span></p>{lines}</div>'
        )
    return f'<div class="answer">{"".join(parts)}</div>'


def distributions(
    tasks: Sequence[TaskSpec], prediction: Prediction, images: coverage.TrainingImages = coverage.UNKNOWN
) -> str:
    """Returns a bar per class of each task, in the order of the task: ages ascend."""
    parts = []
    for task in tasks:
        rows = []
        for name in task.classes:
            share = prediction.probabilities[task.name][name]
            chosen = ' class="likeliest"' if name == prediction.classes[task.name] else ""
            label = _text(coverage.marked(images, task.name, name))
            bar = f'<i><b style="width: {100 * share:.1f}%"></b></i>'
            rows.append(f"<p{chosen}><span>{label}</span>{bar}<span>{percent(share, 0)} %</span></p>")
        title = _text(task.name)
        parts.append(f'<section data-task="{title}"><h3>{title}</h3>{"".join(rows)}</section>')
    return f'<div class="distributions">{"".join(parts)}</div>'


def legend(task: str, name: str, most: float, *, scale: float) -> str:
    """Returns the colours of a map and what they stand for.

    Args:
      task, name: the predicted class, whose probability the map is about.
      most: the largest drop.
      scale: the drop of the strongest colour, see `occlusion.scale`.
    """
    colours = ", ".join(f"rgb{colour}" for colour in (AGAINST, (150, 150, 150), EVIDENCE))
    points = f"{100 * scale:.0f}"
    what = f"{task} {name}"
    return (
        f'<div class="legend"><i style="background: linear-gradient(to right, {colours})"></i>'
        f"<div><span>−{points}</span><span>0</span><span>+{points} points</span></div>"
        f"<p>Fall of the probability of {_text(what)} when this part is covered, in percentage points: red "
        f"is evidence for it, blue against it. The largest is {100 * most:.0f} points.</p></div>"
    )


def _text(text: str) -> str:
    return html.escape(visible(text))
