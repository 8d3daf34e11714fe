"""Floating-point operations that adapters add to a tower's forward pass, from shapes alone."""

from softbio_jax.adapters.config import Adapter, AdapterRules, LoRAConfig
from softbio_jax.models.config import VisionConfig
from softbio_jax.models.flops import DenseLayer, Flops, dense_layers, tokens_of

# How many projections a kernel holds side by side; a task's own have an A and a B each.
_PROJECTIONS = {"attn/qkv": 3, "attn/kv": 2}


def adapter_flops(
    config: VisionConfig,
    rules: AdapterRules,
    *,
    grid: tuple[int, int] | None = None,
    tail: int = 0,
) -> Flops:
    """Returns what unmerged adapters add for one image; merged ones add nothing.

    Each adapted matrix (in, out) costs 2 R (in + out) more a row.

    Args:
      config: the variant.
      rules: which layers are adapted.
      grid: rows and columns of patches; None for the variant's own.
      tail: how many last blocks are kept apart.
    """
    dense = 0
    for layer in dense_layers(config, grid=grid, tail=tail):
        adapter = rules.match(layer.path)
        if adapter is not None:
            dense += layer.rows * _products(adapter, layer) * layer.layers
    return Flops(dense=dense)


def dora_norm_flops(config: VisionConfig, rules: AdapterRules, *, tail: int = 0) -> Flops:
    """Returns what DoRA's column norms add to each forward pass, whatever its batch.

    A^T W, A^T A and (A^T A) B for each adapted matrix, as `adapters.math.dora_gain` has them.

    Args:
      config: the variant.
      rules: which layers are adapted, and which of them by DoRA.
      tail: how many last blocks are kept apart.
    """
    dense = 0
    for layer in dense_layers(config, tail=tail):
        adapter = rules.match(layer.path)
        if isinstance(adapter, LoRAConfig) and adapter.dora:
            rank, i, o = adapter.rank, layer.inputs, layer.outputs
            dense += 2 * rank * (i * o + rank * i + rank * o) * layer.layers
    return Flops(dense=dense)


def task_flops(
    config: VisionConfig, rules: AdapterRules, *, grid: tuple[int, int] | None = None
) -> Flops:
    """Returns what T tasks' own streams add for one image to `adapter_flops` with a tail of one.

    Each per-task matrix of P projections costs 2 T R (P in + out) a row. From the first one on,
    attention is each task's own, beside the shared stream's, and so is all of the pooling; with
    base_input "task" every kernel after it reads T streams.

    Args:
      config: the variant.
      rules: which layers are adapted, per_task.tasks being T.
      grid: rows and columns of patches; None for the variant's own.
    """
    own = rules.per_task
    if own is None:
        return Flops()
    tasks, parted = own.tasks, False
    dense = attention = 0
    for layer in dense_layers(config, grid=grid, tail=1):
        if layer.path.startswith("encoder/trunk"):
            continue
        pooled = layer.path.startswith("pool/")
        name = "/".join(layer.path.split("/")[-2:])
        if pooled or (parted and own.base_input == "task"):
            dense += (tasks - 1) * layer.flops
            if (shared := rules.match(layer.path)) is not None:
                dense += (tasks - 1) * layer.rows * _products(shared, layer)
        if (adapter := own.match(layer.path)) is not None:
            sides = _PROJECTIONS.get(name, 1) * layer.inputs + layer.outputs
            dense += tasks * 2 * layer.rows * adapter.rank * sides
            if name == "attn/qkv":
                more = tasks if own.base_input == "shared" else tasks - 1
                attention += more * 4 * layer.rows**2 * config.width
            parted = True
    if config.pooling == "attn":
        attention += (tasks - 1) * 4 * tokens_of(config, grid) * config.width
    return Flops(dense=dense, attention=attention)


def _products(adapter: Adapter, layer: DenseLayer) -> int:
    """Returns the operations that an adapter adds to one row of a layer."""
    if isinstance(adapter, LoRAConfig):
        return 2 * adapter.rank * (layer.inputs + layer.outputs)
    return adapter.products(layer.inputs, layer.outputs)
