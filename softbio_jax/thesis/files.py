"""Checkpoints of the thesis' code: folders with adapters, and flat files without.

A folder (LoRA, DoRA, MTLoRA) holds PEFT's adapter_config.json and adapter_model.safetensors, and
custom_layers.pt with the heads and MTLoRA's per-task block and pooling.

A flat file (LP, AP, FT) holds trained encoder parameters and heads. Two layouts are read: one flat
state dict (`backbone.*`, `prediction_layers.Age.*`, `log_vars`), and the older one of three
(`backbone_state_dict`, `prediction_layers`, `attn_pool`), whose keys start with
`strategy.backbone.` and `heads.age.` and whose last layer is number 5 of the head, 4 in the newer.
The newer is written.

Source: github.com/Antuke/PE_PEFT_FT, `src/model.py`.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from softbio_jax.adapters import methods
from softbio_jax.adapters.config import NO_ADAPTERS, LoRAConfig
from softbio_jax.errors import UserError
from softbio_jax.interop import adapter_files, official, peft
from softbio_jax.interop.adapter_files import Adaptation, AdapterFormat
from softbio_jax.interop.keymap import check_finite, shapes_of
from softbio_jax.interop.peft_layers import Adapter
from softbio_jax.interop.safe_load import load_arrays, save_arrays, save_nested
from softbio_jax.interop.torch_heads import Source, read_head, title, write_head
from softbio_jax.models.config import VISION, VisionConfig
from softbio_jax.params import flatten, unflatten
from softbio_jax.tasks import TASKS, TaskSpec

CUSTOM = "custom_layers.pt"
# Our layer -> the modules that hold its projections.
_BLOCK = {
    "attn/qkv": ("attn.q", "attn.k", "attn.v"),
    "attn/out": ("out_proj",),
    "mlp/c_fc": ("mlp.c_fc",),
    "mlp/c_proj": ("mlp.c_proj",),
}
_POOL = {
    "attn/q": ("q_proj",),
    "attn/kv": ("k_proj", "v_proj"),
    "attn/out": ("out_proj",),
    "mlp/c_fc": ("mlp.c_fc",),
    "mlp/c_proj": ("mlp.c_proj",),
}
_BLOCK_NORMS, _POOL_NORMS = ("ln_1", "ln_2"), ("layernorm",)
Arrays = Mapping[str, np.ndarray]


def read(directory: str | pathlib.Path, config: VisionConfig, tasks: Sequence[TaskSpec]) -> Adaptation:
    """Reads a checkpoint folder of a variant, with `tasks` in the model's order.

    Raises:
      UserError: unreadable, another variant's, or a task or a part missing.
    """
    directory = pathlib.Path(directory)
    adapter = peft.read(directory, config, tower="vision")  # it has no text encoder
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
        leaves["pool/task_probe"] = np.stack([source[f"mtl_attn_pool.probe.{title(t)}"] for t in tasks])
        rank = block["attn/out/tasks/lora_a"].shape[-1]
        own = methods.mtlora(LoRAConfig(rank=rank, alpha=float(rank))).rules.per_task
        rules, tail = dataclasses.replace(rules, per_task=own), 1
    return Adaptation(adapter=adapter, leaves=leaves, batch_stats=unflatten(stats), rules=rules, tail=tail)


def write(directory: str | pathlib.Path, checkpoint: Adaptation, tasks: Sequence[TaskSpec]) -> None:
    """Writes a folder that the thesis' code loads, with `tasks` in the model's order.

    Raises:
      UserError: a layer that its modules do not have, or torch is missing.
    """
    directory = pathlib.Path(directory)
    peft.write(directory, checkpoint.adapter, naming="official_linear")
    flat = dict(checkpoint.leaves)
    stats = {path: np.asarray(leaf) for path, leaf in flatten(checkpoint.batch_stats).items()}
    tree: dict[str, dict[str, np.ndarray]] = {"prediction_layers": {}}
    for task in tasks:
        tree["prediction_layers"] |= write_head(flat, stats, task)
    if checkpoint.rules.per_task is not None:
        tail, pool = (
            {path.removeprefix(start): leaf for path, leaf in flat.items() if path.startswith(start)}
            for start in ("encoder/tail/", "pool/")
        )
        tail = {path: leaf[0] for path, leaf in tail.items()}
        tree["mtl_layer"] = _write_part(tail, _BLOCK, _BLOCK_NORMS, tasks)
        tree["mtl_attn_pool"] = _write_part(pool, _POOL, _POOL_NORMS, tasks) | {
            f"probe.{title(task)}": pool["task_probe"][t] for t, task in enumerate(tasks)
        }
    save_nested(directory / CUSTOM, tree)


def _read_part(
    source: Source,
    prefix: str,
    table: Mapping[str, tuple[str, ...]],
    norms: Sequence[str],
    tasks: Sequence[TaskSpec],
) -> dict[str, np.ndarray]:
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
    part: Arrays, table: Mapping[str, tuple[str, ...]], norms: Sequence[str], tasks: Sequence[TaskSpec]
) -> dict[str, np.ndarray]:
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
            # Present without effect: their scale is 0.
            out[f"{name}.lora_shared_A"] = np.zeros_like(a[0, i].T)
            out[f"{name}.lora_shared_B"] = np.zeros_like(b[0, i].T)
    for norm in norms:
        out[f"{norm}.weight"], out[f"{norm}.bias"] = part[f"{norm}/scale"], part[f"{norm}/bias"]
    return out


_LOG_VARS = "log_vars"  # log sigma^2, in the tasks' order
_LEGACY = (
    (r"(?:backbone_state_dict\.|attn_pool\.)?strategy\.backbone\.(.+)", r"backbone.\1"),
    (r"(?:prediction_layers\.)?heads\.(.+)", r"prediction_layers.\1"),
    (r"(?:backbone_state_dict|attn_pool)\.(backbone\..+)", r"\1"),
)
# Its encoders hold the fused projection of a block as a module.
_IN_PROJ = re.compile(r"(transformer\.resblocks\.\d+\.attn\.in_proj)([._])(weight|bias)")


def read_flat(path: str | pathlib.Path, config: VisionConfig) -> Adaptation:
    """Reads a flat file; its `leaves` are trained ones of an encoder, one entry per block.

    Raises:
      UserError: unreadable, another variant's, or a key that belongs to neither layout.
    """
    where = str(path)
    arrays, _ = load_arrays(path)
    check_finite(arrays, where=where)
    arrays = {_newer(key): array for key, array in arrays.items()}
    encoder = {
        "visual." + _IN_PROJ.sub(r"\1_\3", key.removeprefix("backbone.")): array
        for key, array in arrays.items()
        if key.startswith("backbone.")
    }
    _check(encoder, config, where)
    leaves = dict(official.OFFICIAL.forward(encoder))
    stats: dict[str, np.ndarray] = {}
    used = {key for key in arrays if key.startswith("backbone.")}
    for name, task in TASKS.items():
        prefix = f"prediction_layers.{name.capitalize()}."
        own = {key for key in arrays if key.startswith(prefix)}
        if own:
            head, head_stats = read_head(Source(arrays, where), task)
            leaves |= head
            stats |= head_stats
            used |= own
    if _LOG_VARS in arrays:
        values = dict(zip(TASKS, arrays[_LOG_VARS], strict=False))
        leaves |= {f"balance/{name}/log_var": np.asarray(value) for name, value in values.items()}
        used.add(_LOG_VARS)
    if unknown := sorted(set(arrays) - used):
        what, found = "not a tensor of a trained model of the thesis", ", ".join(unknown[:3])
        expected, fix = "backbone.*, prediction_layers.* and log_vars", "name its folder, if it has adapters"
        raise UserError(what, where=where, expected=expected, found=found, fix=fix)
    return Adaptation(
        adapter=Adapter(layers={}), leaves=leaves, batch_stats=unflatten(stats), rules=NO_ADAPTERS, tail=0
    )


def write_flat(path: str | pathlib.Path, checkpoint: Adaptation) -> None:
    """Writes a flat file in the newer layout.

    Raises:
      UserError: there are adapters, or the ending is neither .pt nor .safetensors.
    """
    if checkpoint.adapter.layers:
        found, fix = f"{len(checkpoint.adapter.layers)} adapters", "name a folder, without an ending"
        raise UserError("adapters do not go into a flat file", where=str(path), found=found, fix=fix)
    leaves = dict(checkpoint.leaves)
    stats = {key: np.asarray(leaf) for key, leaf in flatten(checkpoint.batch_stats).items()}
    others = ("heads/", "balance/", "distill/")
    encoder = {key: leaf for key, leaf in leaves.items() if not key.startswith(others)}
    arrays = {
        "backbone." + _IN_PROJ.sub(r"\1.\3", key): array
        for key, array in official.drop_prefix(official.OFFICIAL.backward(encoder)).items()
    }
    for name, task in TASKS.items():
        if any(key.startswith(f"heads/{name}/") for key in leaves):
            head = write_head(leaves, stats, task)
            arrays |= {f"prediction_layers.{key}": array for key, array in head.items()}
    logs = [leaves.get(f"balance/{name}/log_var") for name in TASKS]
    if any(log is not None for log in logs):
        arrays[_LOG_VARS] = np.array([0.0 if log is None else log for log in logs], np.float32)
    save_arrays(path, arrays, metadata={"format": "pt"})


def _newer(key: str) -> str:
    for pattern, newer in _LEGACY:
        if match := re.fullmatch(pattern, key):
            key = match.expand(newer)
            break
    if match := re.fullmatch(r"prediction_layers\.([a-z]+)\.(\d+)\.(.+)", key):
        task, place, leaf = match.groups()
        return f"prediction_layers.{task.capitalize()}.{'4' if place == '5' else place}.{leaf}"
    return key


def _check(encoder: Arrays, config: VisionConfig, where: str) -> None:
    """Raises unless every key is one of the variant's, with its shape."""
    found = shapes_of(encoder)
    expected = official.vision_shapes(config)
    wrong = [key for key, shape in found.items() if expected.get(key) != shape]
    if not wrong:
        return
    fits = [name for name, other in VISION.items() if found.items() <= official.vision_shapes(other).items()]
    first = f"{wrong[0].removeprefix('visual.')} {found[wrong[0]]}"
    raise UserError(
        "checkpoint of another variant" if fits else "unknown keys for this encoder",
        where=where,
        expected=config.name,
        found=f"{first}, as in {', '.join(fits)}" if fits else first,
        fix="name the variant it was trained on",
    )


def _read_any(path: pathlib.Path, config: VisionConfig) -> Adaptation:
    return read(path, config, _tasks_of_folder(path)) if path.is_dir() else read_flat(path, config)


def _write_any(path: pathlib.Path, checkpoint: Adaptation, config: VisionConfig) -> None:
    if path.suffix in (".pt", ".safetensors"):
        write_flat(path, checkpoint)
    else:
        write(path, checkpoint, adapter_files.tasks_of(checkpoint))


def _tasks_of_folder(folder: pathlib.Path) -> list[TaskSpec]:
    arrays, _ = load_arrays(folder / CUSTOM)
    found = {key.split(".")[1] for key in arrays if key.startswith("prediction_layers.")}
    known = {title(task): task for task in TASKS.values()}
    if unknown := sorted(found - known.keys()):
        raise UserError(
            "head of an unknown task",
            where=str(folder / CUSTOM),
            expected=", ".join(known),
            found=", ".join(unknown),
            fix="remove the other heads",
        )
    return [task for name, task in known.items() if name in found]


FORMAT = AdapterFormat(read=_read_any, write=_write_any)
