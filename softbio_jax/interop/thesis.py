"""The thesis' checkpoint folders: PEFT's two files, and custom_layers.pt with heads and MTLoRA.

Facts of the layout are those of github.com/Antuke/PE_PEFT_FT, `src/model.py` and `src/dlora.py`;
its MTLoRA scales a task's update by 1 and the shared one by 0, which is therefore dropped.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from softbio_jax.adapters import methods
from softbio_jax.adapters.config import AdapterRules, LoRAConfig
from softbio_jax.interop import adaptation, peft
from softbio_jax.interop.adaptation import Adaptation
from softbio_jax.interop.safe_load import load_arrays, save_nested
from softbio_jax.interop.strict import check_finite
from softbio_jax.interop.torch_heads import Source, read_head, title, write_head
from softbio_jax.models.config import VisionConfig
from softbio_jax.params.paths import Tree, flatten, unflatten
from softbio_jax.tasks import TaskSpec

CUSTOM = "custom_layers.pt"
# Our layer -> the modules that hold its projections.
_BLOCK = {"attn/qkv": ("attn.q", "attn.k", "attn.v"), "attn/out": ("out_proj",),
          "mlp/c_fc": ("mlp.c_fc",), "mlp/c_proj": ("mlp.c_proj",)}  # fmt: skip
_POOL = {"attn/q": ("q_proj",), "attn/kv": ("k_proj", "v_proj"), "attn/out": ("out_proj",),
         "mlp/c_fc": ("mlp.c_fc",), "mlp/c_proj": ("mlp.c_proj",)}  # fmt: skip
_BLOCK_NORMS, _POOL_NORMS = ("ln_1", "ln_2"), ("layernorm",)
Arrays = Mapping[str, np.ndarray]


def read(
    directory: str | pathlib.Path, config: VisionConfig, tasks: Sequence[TaskSpec]
) -> Adaptation:
    """Reads a thesis checkpoint folder.

    Args:
      directory: adapter_config.json, adapter_model.safetensors and custom_layers.pt.
      config: the variant.
      tasks: the tasks, in the model's order.

    Raises:
      UserError: unreadable, another variant's, or a task or a part missing.
    """
    directory = pathlib.Path(directory)
    adapter = peft.read(directory, config)
    where = str(directory / CUSTOM)
    arrays, _ = load_arrays(where)
    check_finite(arrays, where=where)
    source = Source(arrays, where)
    leaves: dict[str, np.ndarray] = {}
    stats: dict[str, np.ndarray] = {}
    for task in tasks:
        head, head_stats = read_head(source, task)
        leaves |= head
        stats |= head_stats
    rules, tail = adapter.rules(config), adapter.tail(config)
    if any(key.startswith("mtl_layer.") for key in arrays):
        block = _read_part(source, "mtl_layer.", _BLOCK, _BLOCK_NORMS, tasks)
        leaves |= {f"encoder/tail/{path}": array[None] for path, array in block.items()}
        pool = _read_part(source, "mtl_attn_pool.", _POOL, _POOL_NORMS, tasks)
        leaves |= {f"pool/{path}": array for path, array in pool.items()}
        probes = [source[f"mtl_attn_pool.probe.{title(task)}"] for task in tasks]
        leaves["pool/task_probe"] = np.stack(probes)
        rank = block["attn/out/tasks/lora_a"].shape[-1]
        own = methods.mtlora(LoRAConfig(rank=rank, alpha=float(rank))).rules.per_task
        rules, tail = dataclasses.replace(rules, per_task=own), 1
    return Adaptation(
        adapter=adapter, leaves=leaves, batch_stats=unflatten(stats), rules=rules, tail=tail
    )


def write(
    directory: str | pathlib.Path,
    params: Tree,
    batch_stats: Tree,
    rules: AdapterRules,
    tasks: Sequence[TaskSpec],
) -> None:
    """Writes a model as the thesis' code loads it.

    Args:
      directory: made if need be.
      params: of a model with DoRA or LoRA, or MTLoRA with base_input shared.
      batch_stats: the heads' running statistics.
      rules: the rules the model was built with.
      tasks: the tasks, in the model's order.

    Raises:
      UserError: a layer the thesis' modules do not have, or torch is missing.
    """
    save(directory, adaptation.of_model(params, batch_stats, rules), tasks)


def save(directory: str | pathlib.Path, checkpoint: Adaptation, tasks: Sequence[TaskSpec]) -> None:
    """Writes what `read` gave, as the thesis' code loads it.

    Args:
      directory: made if need be.
      checkpoint: what training added.
      tasks: whose heads, in the model's order.

    Raises:
      UserError: a layer the thesis' modules do not have, or torch is missing.
    """
    directory = pathlib.Path(directory)
    peft.write(directory, checkpoint.adapter, naming="thesis")
    flat = dict(checkpoint.leaves)
    stats = {path: np.asarray(leaf) for path, leaf in flatten(checkpoint.batch_stats).items()}
    tree: dict[str, dict[str, np.ndarray]] = {"prediction_layers": {}}
    for task in tasks:
        tree["prediction_layers"] |= write_head(flat, stats, task)
    if checkpoint.rules.per_task is not None:
        tail = {
            path.removeprefix("encoder/tail/"): leaf[0]
            for path, leaf in flat.items()
            if path.startswith("encoder/tail/")
        }
        pool = {p.removeprefix("pool/"): v for p, v in flat.items() if p.startswith("pool/")}
        tree["mtl_layer"] = _write_part(tail, _BLOCK, _BLOCK_NORMS, tasks)
        tree["mtl_attn_pool"] = _write_part(pool, _POOL, _POOL_NORMS, tasks) | {
            f"probe.{title(task)}": pool["task_probe"][t] for t, task in enumerate(tasks)
        }
    save_nested(directory / CUSTOM, tree)


def _read_part(
    source: Source, prefix: str, table: Mapping[str, tuple[str, ...]], norms: Sequence[str],
    tasks: Sequence[TaskSpec],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Reads a block or a pooling: plain weights, and each task's A and B stacked."""
    part = {}
    for layer, modules in table.items():
        names = [prefix + module for module in modules]
        part[f"{layer}/kernel"] = np.concatenate([source[f"{n}.linear.weight"].T for n in names], 1)
        part[f"{layer}/bias"] = np.concatenate([source[f"{n}.linear.bias"] for n in names])
        for ours, theirs in (("lora_a", "lora_tasks_A"), ("lora_b", "lora_tasks_B")):
            part[f"{layer}/tasks/{ours}"] = np.stack(
                [np.stack([source[f"{n}.{theirs}.{title(t)}"].T for n in names]) for t in tasks]
            )
    for norm in norms:
        part[f"{norm}/scale"] = source[f"{prefix}{norm}.weight"]
        part[f"{norm}/bias"] = source[f"{prefix}{norm}.bias"]
    return part


def _write_part(
    part: Arrays, table: Mapping[str, tuple[str, ...]], norms: Sequence[str],
    tasks: Sequence[TaskSpec],
) -> dict[str, np.ndarray]:  # fmt: skip
    out = {}
    for layer, modules in table.items():
        kernels = np.split(part[f"{layer}/kernel"], len(modules), axis=1)
        biases = np.split(part[f"{layer}/bias"], len(modules))
        a, b = part[f"{layer}/tasks/lora_a"], part[f"{layer}/tasks/lora_b"]
        for i, name in enumerate(modules):
            out[f"{name}.linear.weight"], out[f"{name}.linear.bias"] = kernels[i].T, biases[i]
            for t, task in enumerate(tasks):
                out[f"{name}.lora_tasks_A.{title(task)}"] = a[t, i].T
                out[f"{name}.lora_tasks_B.{title(task)}"] = b[t, i].T
            # There, but of no effect: their scale is 0.
            out[f"{name}.lora_shared_A"] = np.zeros_like(a[0, i].T)
            out[f"{name}.lora_shared_B"] = np.zeros_like(b[0, i].T)
    for norm in norms:
        out[f"{norm}.weight"], out[f"{norm}.bias"] = part[f"{norm}/scale"], part[f"{norm}/bias"]
    return out
