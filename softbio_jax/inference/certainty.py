"""Answers that are called unsure: less probable than a threshold that was chosen on validation rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from softbio_jax.errors import UserError
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.predictor import Prediction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certainty:
    """The least probability of a sure answer per task; infinite where no answer is sure.

    `selective.threshold` chose it for answers on single images: of those that are sure, at most a given
    share is wrong.
    """

    least: Mapping[str, float]

    def marked(self, prediction: Prediction) -> Prediction:
        """Returns the prediction with the names of its unsure tasks."""
        unsure = tuple(
            task
            for task, name in prediction.classes.items()
            if prediction.probabilities[task][name] < self.least[task]
        )
        return dataclasses.replace(prediction, unsure=unsure)

    def notes(self) -> list[str]:
        """Returns one line per task without a sure answer."""
        never = (task for task, least in self.least.items() if least == float("inf"))
        return [f"{task}: always unsure, no threshold kept the risk on validation rows" for task in never]


def of_bundle(bundle: Bundle, risk: str) -> Certainty:
    """Returns the thresholds of a model for a risk, such as "0.1": at most a tenth of the answers is wrong.

    Raises:
      UserError: the model has none, for a task or at all, or not of this risk.
    """
    least = {}
    for task in (task.name for task in bundle.tasks):
        of_task = bundle.thresholds.get(task, {})
        if risk not in of_task:
            raise UserError(
                "no threshold of unsure answers",
                where=f"{bundle.name} {task}",
                expected=f"one of the risk {risk}",
                found=", ".join(of_task) or "none",
                fix="use one of these risks"
                if of_task
                else "evaluate the run with scripts/evaluate.py, "
                "with validation rows of the task (data.val_fraction), and save or export it again",
            )
        chosen = of_task[risk]
        least[task] = float("inf") if chosen is None else chosen
    return Certainty(least=least)
