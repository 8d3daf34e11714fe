"""A pass over a data set: every example's logits, on every host."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from scipy import special

from softbio_jax import parallel
from softbio_jax.data.loading import PADDING
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.evaluation.metrics.averages import THESIS_SYNTHETIC_LABELS
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.tasks import MISSING


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs:
    """Logits of N examples in the data set's order, and some of their features."""

    logits: dict[str, np.ndarray]  # {task: (N, C)} float32
    labels: dict[str, np.ndarray]  # {task: (N,)} int32, MISSING where unknown
    features: np.ndarray | None = None  # (M, D) float32, of the examples that were asked for


def packed(
    batch: Mapping[str, jax.Array], logits: Mapping[str, jax.Array], feature: jax.Array
) -> dict[str, jax.Array]:
    """Returns what `collect` wants of a forward pass.

    Features are small beside logits' cost, so they are always there: one program serves all.

    Args:
      batch: with example (B,) and labels/{task} (B,).
      logits: {task: (B, C)}.
      feature: (B, D).
    """
    out = {f"logits/{task}": values for task, values in logits.items()}
    out |= {f"labels/{task}": batch[f"labels/{task}"] for task in logits}
    return out | {"example": batch["example"], "feature": feature}


def collect(
    forward: Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]],
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    size: int,
    tasks: Sequence[str],
    mesh: Mesh,
    feature_rows: np.ndarray | None = None,
    between: Callable[[], None] = lambda: None,
) -> Outputs:
    """Runs `forward` over every batch and puts each row where its example number says.

    Args:
      forward: global batch -> what `packed` returns, whole on every device.
      batches: this process' batches, whose padding has the example `PADDING`.
      size: N.
      tasks: which tasks.
      mesh: over which batches are sharded.
      feature_rows: (M,) ascending examples whose features are kept; None: of none, and then
        they do not even leave the device.
      between: called before every batch.

    Returns:
      Logits and labels of all N examples, and the features that were asked for.
    """
    logits: dict[str, np.ndarray] = {}
    labels = {task: np.full(size, MISSING, np.int32) for task in tasks}
    features: np.ndarray | None = None
    for batch in batches:
        between()
        on_device = forward(parallel.to_global(batch, mesh))
        if feature_rows is None:
            on_device = {key: value for key, value in on_device.items() if key != "feature"}
        out = jax.device_get(on_device)
        rows = out["example"] != PADDING
        examples = out["example"][rows]
        for task in tasks:
            values = out[f"logits/{task}"][rows]
            store = logits.setdefault(task, np.zeros((size, values.shape[1]), np.float32))
            store[examples] = values
            labels[task][examples] = out[f"labels/{task}"][rows]
        if feature_rows is not None:
            values = out["feature"]
            if features is None:
                features = np.zeros((len(feature_rows), values.shape[1]), np.float32)
            wanted = np.isin(out["example"], feature_rows)
            features[np.searchsorted(feature_rows, out["example"][wanted])] = values[wanted]
    return Outputs(logits=logits, labels=labels, features=features)


def losses(outputs: Outputs) -> dict[str, float]:
    """Returns each task's mean cross-entropy and accuracy over its labelled examples.

    Tasks without a label are left out: {"age/loss": ..., "age/accuracy": ...}.
    """
    result = {}
    for task, labels in outputs.labels.items():
        known = labels != MISSING
        if not known.any():
            continue
        logits, target = outputs.logits[task][known], labels[known]
        top = logits.max(axis=1)
        log_total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        result[f"{task}/loss"] = float(np.mean(log_total - logits[np.arange(len(target)), target]))
        result[f"{task}/accuracy"] = float(np.mean(logits.argmax(axis=1) == target))
    return result


def predictions(outputs: Outputs, dataset: PreparedDataset) -> Predictions:
    """Returns the table of a test set's predictions, for the tasks it has labels of."""
    known = _labelled(outputs)
    audit = {name: column for name, column in dataset.columns.items() if name != "id"}
    return Predictions(
        name=dataset.name,
        ids=dataset.columns["id"],
        labels={task: outputs.labels[task] for task in known},
        probabilities={task: special.softmax(outputs.logits[task], axis=1) for task in known},
        audit=audit,
        synthetic_labels=THESIS_SYNTHETIC_LABELS.get(dataset.name, ()),
    )


def kept_features(outputs: Sequence[Outputs], sets: Sequence[PreparedDataset]) -> dict[str, np.ndarray]:
    """Returns the features that were kept of each test set: {name: (M, D)}."""
    return {
        item.name: out.features for out, item in zip(outputs, sets, strict=True) if out.features is not None
    }


def concatenate(outputs: Sequence[Outputs]) -> Outputs:
    """Returns the examples of several data sets one after the other."""
    tasks = outputs[0].labels
    return Outputs(
        logits={task: np.concatenate([o.logits[task] for o in outputs]) for task in tasks},
        labels={task: np.concatenate([o.labels[task] for o in outputs]) for task in tasks},
    )


def validation_predictions(outputs: Sequence[Outputs], sets: Sequence[PreparedDataset]) -> Predictions:
    """Returns the table of the validation rows of all sets, on which temperatures are fitted."""
    whole = concatenate(outputs)
    known = _labelled(whole)
    return Predictions(
        name="validation",
        ids=np.concatenate(
            [np.char.add(f"{dataset.name}/", dataset.columns["id"].astype(str)) for dataset in sets]
        ),
        labels={task: whole.labels[task] for task in known},
        probabilities={task: special.softmax(whole.logits[task], axis=1) for task in known},
    )


def _labelled(outputs: Outputs) -> list[str]:
    return [task for task, labels in outputs.labels.items() if (labels != MISSING).any()]
