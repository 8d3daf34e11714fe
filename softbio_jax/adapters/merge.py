"""Folding adapters into plain kernels."""

from collections.abc import Mapping

import numpy as np

from softbio_jax.adapters.config import AdapterRules, LoRAConfig
from softbio_jax.adapters.math import Formula
from softbio_jax.errors import UserError
from softbio_jax.params import Tree, flatten, unflatten

_ADAPTER = ("lora_a", "lora_b", "dora_magnitude", "dora_base_norm")
Flat = dict[str, np.ndarray]


def merge(params: Tree, rules: AdapterRules, *, task: int | None = None) -> Tree:
    """Returns params with every adapter folded into its kernel and removed.

    LoRA: W + s A B. DoRA: (m / ||V_j||) V, V = W + s A B. Per task: W + s A_t B_t, with the task's
    probe in the pooling. Other formulas: `Formula.merge`. In float32, on stacked or single layers;
    kernels keep their type.

    Args:
      params: nested dict of arrays.
      rules: the rules of the model.
      task: with per-task adapters, the index in [0, T) of the task to merge.

    Raises:
      UserError: per-task adapters that do not fold, or no task where one is needed.
    """
    flat: Flat = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    _check_task(rules, flat, task)
    merged = {path: leaf for path, leaf in flat.items() if path.rsplit("/", 1)[-1] not in _ADAPTER}
    for path in [path for path in merged if path.endswith("/kernel")]:
        layer = path.removesuffix("/kernel")
        kernel = merged[path].astype(np.float32)
        config = rules.match(layer)
        # A broad rule also matches layers without adapters, such as the heads'.
        if isinstance(config, LoRAConfig) and f"{layer}/lora_a" in flat:
            kernel = _fold(kernel, flat, layer, config)
        elif isinstance(config, Formula) and (beside := _beside(merged, layer)):
            kernel = config.merge(kernel, {name: merged.pop(f"{layer}/{name}") for name in beside})
        own = rules.match_task(layer) if f"{layer}/tasks/lora_a" in flat else None
        if own is not None and task is not None:
            kernel = kernel + _task_update(flat, layer, own, task)
        merged[path] = kernel.astype(merged[path].dtype)
    if "pool/task_probe" in merged:
        merged["pool/probe"] = merged.pop("pool/task_probe")[task]
    return unflatten(merged)


def _beside(flat: Flat, layer: str) -> list[str]:
    """Returns the names of a dense layer's leaves other than its kernel and bias."""
    names = (path.removeprefix(f"{layer}/") for path in flat if path.startswith(f"{layer}/"))
    return [name for name in names if "/" not in name and name not in ("kernel", "bias")]


def _check_task(rules: AdapterRules, flat: Flat, task: int | None) -> None:
    own = rules.per_task
    if own is None:
        if task is not None:
            raise UserError(
                "no per-task adapters to merge",
                where="merge",
                expected="task=None for shared adapters",
                found=f"task {task}",
                fix="remove the task",
            )
        return
    if own.base_input == "shared":
        raise UserError(
            "MTLoRA with a shared base input does not fold into a plain encoder",
            where="method.base_input",
            expected="task",
            found="shared",
            fix="train with base_input=task, or keep the adapters unmerged",
        )
    tasks = next(leaf.shape[-4] for path, leaf in flat.items() if path.endswith("/tasks/lora_a"))
    if task is None or not 0 <= task < tasks:
        raise UserError(
            "no task to merge",
            where="merge",
            expected=f"0 to {tasks - 1}",
            found=str(task),
            fix="choose one, for each has its own encoder",
        )


def _fold(kernel: np.ndarray, flat: Mapping[str, np.ndarray], layer: str, config: LoRAConfig) -> np.ndarray:
    a, b = (flat[f"{layer}/{name}"].astype(np.float32) for name in ("lora_a", "lora_b"))
    kernel = kernel + config.scale * (a @ b)
    if not config.dora:
        return kernel
    norm = np.linalg.norm(kernel, axis=-2, keepdims=True)
    return kernel * (flat[f"{layer}/dora_magnitude"][..., None, :] / norm)


def _task_update(flat: Mapping[str, np.ndarray], layer: str, config: LoRAConfig, task: int) -> np.ndarray:
    """Returns s A_t B_t (..., in, out), projections side by side."""
    a, b = (flat[f"{layer}/tasks/{name}"].astype(np.float32) for name in ("lora_a", "lora_b"))
    product = config.scale * (a[..., task, :, :, :] @ b[..., task, :, :, :])  # (..., P, in, out/P)
    product = np.moveaxis(product, -3, -2)  # (..., in, P, out/P)
    return product.reshape(*product.shape[:-2], -1)
