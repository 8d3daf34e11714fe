"""Folding adapters into plain kernels."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from softbio_jax.adapters.config import AdapterRules, LoRAConfig
from softbio_jax.adapters.math import Formula, column_norm
from softbio_jax.errors import UserError
from softbio_jax.params import Tree, flatten, unflatten

_ADAPTER = ("lora_a", "lora_b", "dora_magnitude", "dora_base_norm")
Flat = dict[str, np.ndarray]


def merge(params: Tree, rules: AdapterRules, *, task: int | None = None) -> Tree:
    """Returns params with every adapter folded into its kernel and removed.

    LoRA: W + s A B. DoRA: (m / ||V_j||) V, V = W + s A B. A task's own: W + s A_t B_t, its probe
    in the place of the pooling's. Another formula: its own. In float32, on stacked trees as on
    single layers; the kernel keeps its type.

    Args:
      params: nested dict of arrays, adapted.
      rules: the rules it was built with.
      task: with per-task adapters, whose tower is wanted: an index in [0, T).

    Returns:
      The tree of the plain model.

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
        # A broad rule also matches layers that take no adapter, the heads' for instance.
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
                "no task of its own to merge",
                where="merge",
                expected="task=None for shared adapters",
                found=f"task {task}",
                fix="drop the task",
            )
        return
    if own.base_input == "shared":
        raise UserError(
            "MTLoRA with a shared base input does not fold into a plain tower",
            where="method.base_input",
            expected="task",
            found="shared",
            fix="train with base_input=task, or keep the adapters apart",
        )
    tasks = next(leaf.shape[-4] for path, leaf in flat.items() if path.endswith("/tasks/lora_a"))
    if task is None or not 0 <= task < tasks:
        raise UserError(
            "which task's tower",
            where="merge",
            expected=f"0 to {tasks - 1}",
            found=str(task),
            fix="name one, each has its own",
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


def reset_adapters(params: Tree) -> Tree:
    """Returns params with every leaf that starts from a tower's own weights started again.

    dora_base_norm and dora_magnitude become their kernel's ||W_j||, task_probe the pooling's
    probe. Needed after those were replaced, by a checkpoint for instance: the identity at the
    start holds only for the weights in place.
    """
    flat = flatten(params)
    for path, leaf in list(flat.items()):
        parent, _, name = path.rpartition("/")
        if name in ("dora_base_norm", "dora_magnitude"):
            flat[path] = column_norm(flat[f"{parent}/kernel"])
        elif name == "task_probe":
            flat[path] = jnp.broadcast_to(flat[f"{parent}/probe"], leaf.shape)
    return unflatten(flat)
