"""A forward pass over a data set: the logits of every example, on every host."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self

import jax
import numpy as np
from jax.sharding import Mesh

from softbio_jax import parallel
from softbio_jax.console import QUIET, Console
from softbio_jax.data.loading import PADDING
from softbio_jax.tasks import MISSING

# {example (B,), feature (B, D), logits/{task} (B, C), labels/{task} (B,)}
Packed = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs:
    """Logits of N examples in the data set's order, and features of some of them."""

    logits: dict[str, np.ndarray]  # {task: (N, C)} float32
    labels: dict[str, np.ndarray]  # {task: (N,)} int32, MISSING where unknown
    features: np.ndarray | None = None  # (M, D) float32, of the requested rows

    @classmethod
    def concatenate(cls, outputs: Sequence["Outputs"]) -> Self:
        """Returns the examples of several data sets, one set after the other, without features."""
        tasks = outputs[0].labels
        return cls(
            logits={task: np.concatenate([o.logits[task] for o in outputs]) for task in tasks},
            labels={task: np.concatenate([o.labels[task] for o in outputs]) for task in tasks},
        )

    def tasks(self) -> list[str]:
        """Returns the tasks with at least one label."""
        return [task for task, labels in self.labels.items() if (labels != MISSING).any()]

    def losses(self) -> dict[str, float]:
        """Returns {task}/loss, the mean cross-entropy, and {task}/accuracy over labelled examples."""
        result = {}
        for task in self.tasks():
            known = self.labels[task] != MISSING
            logits, target = self.logits[task][known], self.labels[task][known]
            top = logits.max(axis=1)
            log_total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
            result[f"{task}/loss"] = float(np.mean(log_total - logits[np.arange(len(target)), target]))
            result[f"{task}/accuracy"] = float(np.mean(logits.argmax(axis=1) == target))
        return result


def packed(batch: Mapping[str, jax.Array], logits: Mapping[str, jax.Array], feature: jax.Array) -> Packed:
    """Returns the outputs of one forward pass in the form that `collect` reads.

    Args:
      batch: with example (B,) and labels/{task} (B,).
      logits: {task: (B, C)}.
      feature: (B, D). Always returned, so that one compiled program serves every pass.
    """
    out = {f"logits/{task}": values for task, values in logits.items()}
    out |= {f"labels/{task}": batch[f"labels/{task}"] for task in logits}
    return out | {"example": batch["example"], "feature": feature}


def collect(
    forward: Callable[[Mapping[str, jax.Array]], Packed],
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    size: int,
    tasks: Sequence[str],
    mesh: Mesh,
    feature_rows: np.ndarray | None = None,
    console: Console = QUIET,
) -> Outputs:
    """Runs `forward` over every batch and stores each row at its example's place.

    Args:
      forward: global batch -> `packed` outputs, replicated.
      batches: of this process; padding rows have the example `PADDING`.
      size: N.
      tasks: names of the tasks.
      mesh: devices over which batches are sharded.
      feature_rows: (M,) ascending examples whose features are kept. None keeps none, and features
        never leave the device.
      console: checked before every batch, which may end the pass.
    """
    logits: dict[str, np.ndarray] = {}
    labels = {task: np.full(size, MISSING, np.int32) for task in tasks}
    features: np.ndarray | None = None
    for batch in batches:
        console.check()
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
