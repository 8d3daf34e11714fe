"""Predictions against the distribution of annotators' votes, beside those against their majority."""

import numpy as np

from softbio_jax.data.partial import votes
from softbio_jax.evaluation.metrics.calibration import LEAST_PROBABILITY
from softbio_jax.evaluation.predictions import Predictions, rows_text


def against_votes(predictions: Predictions, task: str) -> dict[str, float] | None:
    """Returns metrics against the votes q of a test set, None where it has none.

      cross_entropy = mean -sum_c q_c log p_c,   divergence = cross_entropy - mean entropy of q,
      agreement = mean q of the predicted class, the share of annotators who chose it,
      ceiling = mean max_c q_c, the agreement of the majority itself

    Returns:
      `n`, `cross_entropy` and `divergence` (nats), `agreement` and `ceiling` (0 to 1).

    Raises:
      UserError: a cell that has no votes; names the row.

    Source: Peterson et al., ICCV 2019, section 4.1, for the cross-entropy against human votes.
    """
    cells = predictions.audit.get(votes.column(task), np.zeros(0, str))
    rows = np.flatnonzero(cells != "")
    if not len(rows) or task not in predictions.probabilities:
        return None
    where = f"predictions {predictions.name!r}"
    q = np.stack(
        [votes.shares(str(cells[row]), task, where=f"{where} {rows_text(np.array([row]))}") for row in rows]
    )
    p = predictions.probabilities[task][rows].astype(np.float64)
    cross = -(q * np.log(np.maximum(p, LEAST_PROBABILITY))).sum(axis=1)
    entropy = -(q * np.log(np.where(q > 0, q, 1))).sum(axis=1)
    return {
        "n": len(rows),
        "cross_entropy": float(cross.mean()),
        "divergence": float((cross - entropy).mean()),
        "agreement": float(q[np.arange(len(q)), p.argmax(axis=1)].mean()),
        "ceiling": float(q.max(axis=1).mean()),
    }
