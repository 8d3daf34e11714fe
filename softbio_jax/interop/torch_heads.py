"""The tasks' heads as torch modules hold them, for a tower that torch runs."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from softbio_jax.interop import thesis
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.params.paths import Tree, flatten
from softbio_jax.tasks import TaskSpec


def save(
    path: str | pathlib.Path,
    params: Tree,
    batch_stats: Tree,
    tasks: Sequence[TaskSpec],
    *,
    feature: str,
) -> None:
    """Writes heads as state dicts of torch.nn.Sequential, `Age.0.weight` and so on.

    A deep head is Sequential(BatchNorm1d(D), Dropout, Linear(D, D), GELU, Linear(D, C)), a linear
    one Sequential(BatchNorm1d(D), Dropout, Linear(D, C)); without batch norm place 0 is Identity.

    Args:
      path: a new .safetensors file.
      params: a model's, with `heads`.
      batch_stats: their running statistics.
      tasks: whose heads.
      feature: which feature they read, "pooled" or "projected"; noted with the classes.
    """
    leaves = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    stats = {name: np.asarray(leaf) for name, leaf in flatten(batch_stats).items()}
    arrays: dict[str, np.ndarray] = {}
    for task in tasks:
        arrays |= thesis.write_head(leaves, stats, task)
    notes = {task.name: json.dumps(task.classes) for task in tasks}
    save_arrays(path, arrays, metadata={"format": "pt", "feature": feature} | notes)
