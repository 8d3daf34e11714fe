"""Floating-point operations of encoders, heads and adapters in the forward pass, from shapes only.

Two conventions side by side, see docs/counting.md: `Flops.total` counts every multiply-add of a
matrix product twice, including attention's; `Flops.profiler` is what torch's profiler prints,
which leaves attention out and adds elementwise products and sums. `matmul_flops` counts the
products of a traced function.
"""

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend import core

from softbio_jax.adapters.config import Adapter, AdapterRules, LoRAConfig
from softbio_jax.models.config import TextConfig, VisionConfig
from softbio_jax.models.multitask import HeadConfig

Grid = tuple[int, int] | None  # rows and columns of patches; None: the variant's own

# What the profiler counts for one number of q or k in the reference's rotation: two products, two
# more by a constant scale of one, and a sum.
_ROTATION = 4 + 1
# Products per number of the hidden layer.
_ACTIVATION = {"gelu": 0, "gelu_tanh": 0, "quick_gelu": 2, "swiglu": 1}
# Projections side by side in one kernel; per-task adapters have an A and a B for each.
_PROJECTIONS = {"attn/qkv": 3, "attn/kv": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations by kind; they add up and multiply by a number of images or texts.

    Args:
      dense: matrix products with weights and the patch convolution, two per multiply-add.
      attention: q k^T and its product with v, two per multiply-add, including masked positions.
      elementwise: the products and sums of the reference's forward pass that torch's profiler
        counts, one each: positions, rotation, LayerScale, residuals.
    """

    dense: int = 0
    attention: int = 0
    elementwise: int = 0

    @property
    def total(self) -> int:
        """All matrix products, including attention."""
        return self.dense + self.attention

    @property
    def profiler(self) -> int:
        """The count of torch.profiler with_flops, which has no formula for fused attention."""
        return self.dense + self.elementwise

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(
            dense=self.dense + other.dense,
            attention=self.attention + other.attention,
            elementwise=self.elementwise + other.elementwise,
        )

    def __mul__(self, n: int) -> "Flops":
        return Flops(dense=n * self.dense, attention=n * self.attention, elementwise=n * self.elementwise)

    __rmul__ = __mul__


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseLayer:
    """`layers` equal matrices (inputs, outputs), each applied to `rows` rows per image.

    The path is the one that `AdapterRules` match, such as encoder/trunk/attn/qkv.
    """

    path: str
    rows: int
    inputs: int
    outputs: int
    layers: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inputs * self.outputs * self.layers


def dense_layers(config: VisionConfig, *, grid: Grid = None, tail: int = 0) -> Iterator[DenseLayer]:
    """Yields the matrices of a vision encoder that adapters may adapt; tail is its last blocks."""
    tokens, width = config.tokens_on(grid), config.width
    for part, layers in (("trunk", config.layers - tail), ("tail", tail)):
        if layers:
            for name, (inputs, outputs) in _block_sizes(width, config.mlp_width, config.fc_width).items():
                yield DenseLayer(
                    path=f"encoder/{part}/{name}", rows=tokens, inputs=inputs, outputs=outputs, layers=layers
                )
    if config.pooling == "attn":
        sizes = {"attn/q": (width, width), "attn/kv": (width, 2 * width)}
        blocks = _block_sizes(width, config.pool_hidden)
        sizes |= {key: size for key, size in blocks.items() if key != "attn/qkv"}
        for name, (inputs, outputs) in sizes.items():
            rows = tokens if name == "attn/kv" else 1
            yield DenseLayer(path=f"pool/{name}", rows=rows, inputs=inputs, outputs=outputs)


def vision_flops(config: VisionConfig, *, grid: Grid = None, projected: bool = True) -> Flops:
    """Returns the operations of a vision encoder for one image.

    Resampling the positional embedding happens once per pass and is not counted.

    Args:
      config: the variant.
      grid: rows and columns of patches.
      projected: whether the projection is applied; heads on the pooled feature skip it.
    """
    rows, columns = grid or (config.grid, config.grid)
    tokens, width, layers = config.tokens_on(grid), config.width, config.layers
    dense = 2 * rows * columns * width * 3 * config.patch_size**2
    dense += sum(layer.flops for layer in dense_layers(config, grid=grid))
    attention = layers * 4 * tokens**2 * width
    scales = 0 if config.layer_scale is None else 2
    turns = 2 * _ROTATION if config.rotary else 0
    placed = (tokens - config.register_tokens) * config.position_embedding
    elementwise = placed * width + tokens * width * layers * (turns + 2 + scales)
    # Besides the sigmoid: the product of a gate, and quick GELU's two.
    elementwise += tokens * config.mlp_width * layers * _ACTIVATION[config.activation]
    if config.pooling == "attn":
        attention += 4 * tokens * width
        elementwise += width
    if projected and config.out_dim is not None:
        outputs = tokens if config.pooling == "none" else 1
        dense += 2 * outputs * config.feature_width * config.out_dim
    return Flops(dense=dense, attention=attention, elementwise=elementwise)


def text_flops(config: TextConfig, *, tokens: int | None = None) -> Flops:
    """Returns the operations of a text encoder for one text, padded to `tokens` or the context."""
    n, width, layers = config.context if tokens is None else tokens, config.width, config.layers
    sizes = _block_sizes(width, config.mlp_width).values()
    hidden = n * layers * config.mlp_width
    return Flops(
        dense=2 * n * layers * sum(i * o for i, o in sizes) + 2 * width * config.out_dim,
        attention=layers * 4 * n**2 * width,
        elementwise=n * width * (1 + 2 * layers) + hidden * _ACTIVATION[config.activation],
    )


def zero_shot_flops(vision: VisionConfig, text: TextConfig, *, prompts: int) -> Flops:
    """Returns the operations for one image and a number of texts, with their similarities."""
    similarity = Flops(dense=2 * text.out_dim * prompts)
    return vision_flops(vision) + prompts * text_flops(text) + similarity


def head_flops(config: HeadConfig, *, width: int, classes: int) -> Flops:
    """Returns the operations of one task's head on a feature of D = width: 2 D C, deep 2 D^2 + 2 D C."""
    hidden = 2 * width**2 if config.kind == "deep" else 0
    return Flops(dense=hidden + 2 * width * classes)


def _block_sizes(width: int, hidden: int, first: int | None = None) -> dict[str, tuple[int, int]]:
    return {
        "attn/qkv": (width, 3 * width),
        "attn/out": (width, width),
        "mlp/c_fc": (width, first or hidden),
        "mlp/c_proj": (hidden, width),
    }


def adapter_flops(config: VisionConfig, rules: AdapterRules, *, grid: Grid = None, tail: int = 0) -> Flops:
    """Returns what unmerged adapters add for one image; merged ones add nothing.

    Each adapted matrix (in, out) costs 2 R (in + out) more per row. tail is the encoder's last
    blocks.
    """
    dense = 0
    for layer in dense_layers(config, grid=grid, tail=tail):
        adapter = rules.match(layer.path)
        if adapter is not None:
            dense += layer.rows * _products(adapter, layer) * layer.layers
    return Flops(dense=dense)


def dora_norm_flops(config: VisionConfig, rules: AdapterRules, *, tail: int = 0) -> Flops:
    """Returns what DoRA's column norms add to each forward pass, regardless of its batch.

    A^T W, A^T A and (A^T A) B for each matrix adapted by DoRA, as in `adapters.math.dora_gain`.
    """
    dense = 0
    for layer in dense_layers(config, tail=tail):
        adapter = rules.match(layer.path)
        if isinstance(adapter, LoRAConfig) and adapter.dora:
            rank, i, o = adapter.rank, layer.inputs, layer.outputs
            dense += 2 * rank * (i * o + rank * i + rank * o) * layer.layers
    return Flops(dense=dense)


def task_flops(config: VisionConfig, rules: AdapterRules, *, grid: Grid = None) -> Flops:
    """Returns what the streams of T = rules.per_task.tasks tasks add for one image.

    It comes on top of `adapter_flops` with a tail of one. Each per-task matrix of P projections
    costs 2 T R (P in + out) per row. From the first one on, attention runs per task, beside the
    shared stream's, and so does the pooling; with base_input "task" every later kernel reads T
    streams.
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
        attention += (tasks - 1) * 4 * config.tokens_on(grid) * config.width
    return Flops(dense=dense, attention=attention)


def _products(adapter: Adapter, layer: DenseLayer) -> int:
    """Returns the operations that an adapter adds to one row of a layer."""
    if isinstance(adapter, LoRAConfig):
        return 2 * adapter.rank * (layer.inputs + layer.outputs)
    return adapter.products(layer.inputs, layer.outputs)


def matmul_flops(jaxpr: Any) -> int:
    """Returns two operations per multiply-add of every matrix product and convolution in a jaxpr.

    A scan's body counts as often as it runs, unlike in XLA's own cost analysis, and recomputation
    by remat counts again; of `shard_map` all devices count. A Pallas kernel counts as what it states. Of a
    platform-dependent choice the default counts, of the branches of a condition the most expensive one.

    Args:
      jaxpr: open or closed.
    """
    return sum(flops_by_scope(jaxpr).values())


def flops_by_scope(jaxpr: Any) -> collections.Counter[str]:
    """Returns the operations of `matmul_flops` by the names of the modules and transformations around them.

    A name is a path such as jvp(MultitaskModel.features)/encoder/trunk/block/mlp/c_fc.
    """
    counted: collections.Counter[str] = collections.Counter()
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        scope = str(equation.source_info.name_stack)
        for inner, flops in _equation_flops(equation).items():
            counted[f"{scope}/{inner}"] += flops
    return counted


def _equation_flops(equation: Any) -> Mapping[str, int]:
    """Returns {path within the equation: operations}."""
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        summed = math.prod(shape[axis] for axis in contracted)
        return {name: 2 * math.prod(equation.outvars[0].aval.shape) * summed}
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        groups = equation.params["batch_group_count"]
        summed = math.prod(kernel) // (features * groups)
        return {name: 2 * math.prod(equation.outvars[0].aval.shape) * summed}
    if name == "cond":
        branches = [flops_by_scope(branch) for branch in equation.params["branches"]]
        # `platform_dependent` puts its default last.
        chosen = equation.params.get("branches_platforms")
        return branches[-1] if chosen else max(branches, key=lambda branch: sum(branch.values()))
    if name == "pallas_call" and (estimate := equation.params["cost_estimate"]) is not None:
        # Its own products also multiply zeros, where a head fills no register.
        return {name: int(estimate.flops)}
    times = 1
    if name == "scan":
        times = equation.params["length"]
    elif name == "shard_map":  # its body is one device's part
        times = equation.params["mesh"].size
    counted: collections.Counter[str] = collections.Counter()
    for inner in _jaxprs(equation.params):
        counted.update(flops_by_scope(inner))
    return {scope: times * flops for scope, flops in counted.items()}


def _jaxprs(params: Mapping[str, Any]) -> Iterator[Any]:
    """Yields the jaxprs among the parameters of an equation, open or closed."""
    for value in params.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, core.Jaxpr | core.ClosedJaxpr):
                yield item
