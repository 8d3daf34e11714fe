"""The tasks' heads as torch modules hold them."""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.params import Tree, flatten
from softbio_jax.tasks import TaskSpec

# Places in a head's nn.Sequential: norm, dropout, dense, gelu, dense.
_NORM, _FIRST, _LAST = 0, 2, 4
_STATS = {"running_mean": "mean", "running_var": "var"}
Arrays = Mapping[str, np.ndarray]


class Source:
    """The arrays of a file; a missing one is a UserError."""

    def __init__(self, arrays: Arrays, where: str):
        self.arrays, self.where = arrays, where

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self.arrays:
            raise UserError(
                "part missing in a checkpoint",
                where=self.where,
                expected=key,
                found=f"{len(self.arrays)} other arrays",
                fix="name the tasks it was trained on",
            )
        return self.arrays[key].astype(np.float32)


def title(task: TaskSpec) -> str:
    """Returns the name of a task's modules: Age."""
    return task.name.capitalize()


def read_head(source: Source, task: TaskSpec) -> tuple[dict, dict]:
    """Returns the leaves of a task's head and its running statistics, each by its path in a model.

    The source's keys are `prediction_layers.Age.0.weight` and so on.

    Raises:
      UserError: a part is missing, or the head has other classes.
    """
    path, prefix = f"heads/{task.name}", f"prediction_layers.{title(task)}."
    head = {}
    for name, i in _places(deep=f"{prefix}{_LAST}.weight" in source.arrays).items():
        head[f"{path}/{name}/kernel"] = source[f"{prefix}{i}.weight"].T
        head[f"{path}/{name}/bias"] = source[f"{prefix}{i}.bias"]
    bias = head[f"{path}/dense_out/bias"]
    if bias.shape != (task.num_classes,):
        raise UserError(
            "head of another size",
            where=f"{source.where} {prefix}",
            expected=f"{task.num_classes} classes",
            found=str(len(bias)),
            fix="name a checkpoint of the same task",
        )
    if f"{prefix}{_NORM}.weight" not in source.arrays:
        return head, {}
    head[f"{path}/norm/scale"] = source[f"{prefix}{_NORM}.weight"]
    head[f"{path}/norm/bias"] = source[f"{prefix}{_NORM}.bias"]
    stats = {f"{path}/norm/{ours}": source[f"{prefix}{_NORM}.{name}"] for name, ours in _STATS.items()}
    return head, stats


def write_head(flat: Arrays, stats: Arrays, task: TaskSpec) -> dict[str, np.ndarray]:
    """Returns a task's head as `Age.0.weight` and so on, the inverse of `read_head`.

    Args:
      flat: a model's leaves by path.
      stats: its running statistics by path.
      task: the head's.
    """
    path, key = f"heads/{task.name}", title(task)
    head = {}
    for name, i in _places(deep=f"{path}/dense_0/kernel" in flat).items():
        head[f"{key}.{i}.weight"] = flat[f"{path}/{name}/kernel"].T
        head[f"{key}.{i}.bias"] = flat[f"{path}/{name}/bias"]
    if f"{path}/norm/scale" in flat:
        head[f"{key}.{_NORM}.weight"] = flat[f"{path}/norm/scale"]
        head[f"{key}.{_NORM}.bias"] = flat[f"{path}/norm/bias"]
        for name, ours in _STATS.items():
            head[f"{key}.{_NORM}.{name}"] = stats[f"{path}/norm/{ours}"]
        head[f"{key}.{_NORM}.num_batches_tracked"] = np.zeros((), np.int64)
    return head


def _places(*, deep: bool) -> dict[str, int]:
    return {"dense_0": _FIRST, "dense_out": _LAST} if deep else {"dense_out": _FIRST}


def save(
    path: str | pathlib.Path, params: Tree, batch_stats: Tree, tasks: Sequence[TaskSpec], *, feature: str
) -> None:
    """Writes heads as state dicts of torch.nn.Sequential, `Age.0.weight` and so on.

    A deep head is Sequential(BatchNorm1d(D), Dropout, Linear(D, D), GELU, Linear(D, C)), a linear
    one Sequential(BatchNorm1d(D), Dropout, Linear(D, C)); without batch norm place 0 is Identity.

    Args:
      path: a new .safetensors file.
      params: a model's, with `heads`.
      batch_stats: the heads' running statistics.
      tasks: to write the heads of.
      feature: the heads' input, "pooled" or "projected"; noted with the classes.
    """
    leaves = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    stats = {name: np.asarray(leaf) for name, leaf in flatten(batch_stats).items()}
    arrays: dict[str, np.ndarray] = {}
    for task in tasks:
        arrays |= write_head(leaves, stats, task)
    notes = {task.name: json.dumps(task.classes) for task in tasks}
    save_arrays(path, arrays, metadata={"format": "pt", "feature": feature} | notes)
