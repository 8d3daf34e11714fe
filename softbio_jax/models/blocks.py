"""The transformer block of both encoders, and a stack of equal blocks as one scan."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from softbio_jax.adapters.config import AdapterRules
from softbio_jax.adapters.dense import AdaptedDense
from softbio_jax.adapters.math import DOWN, MASK, PRODUCT
from softbio_jax.errors import UserError, nearest
from softbio_jax.models.attention.attend import self_attention
from softbio_jax.models.config import Activation, ComputeConfig, gated_width
from softbio_jax.models.elementwise import ACTIVATIONS, LayerNorm
from softbio_jax.models.positions import Rotation

_POLICIES = jax.checkpoint_policies
_MOST_SLICES = 8  # a stack of S slices compiles its block S times
ATTENTION = "attention"  # checkpoint name of its result
# What is between them is elementwise.
_KEPT = (PRODUCT, DOWN, MASK, ATTENTION)
# What the forward pass saves for the backward pass; the rest is recomputed.
REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
    "none": None,  # save everything
    "attention": None,  # except attention's weights, see `attend`
    "elementwise": _POLICIES.save_only_these_names(*_KEPT),  # except norms, GELU and dropped inputs as well
    "dots": _POLICIES.dots_with_no_batch_dims_saveable,
    "full": _POLICIES.nothing_saveable,
}


class LayerScale(nn.Module):
    """y = gamma x, gamma (D,)."""

    init_value: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gamma = self.param("gamma", nn.initializers.constant(self.init_value), x.shape[-1:], jnp.float32)
        return x * jax.lax.broadcast_to_rank(gamma.astype(x.dtype), x.ndim)


class SelfAttention(nn.Module):
    """Multi-head self-attention with fused q, k, v (rows of q, then k, then v, head-major)."""

    heads: int
    compute: ComputeConfig
    adapters: AdapterRules
    causal: bool = False
    key_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, rotation: Rotation | None, rows: jax.Array | None = None) -> jax.Array:
        width = x.shape[-1]
        dense: dict[str, Any] = {"adapters": self.adapters, "dtype": self.compute.dtype}
        qkv = AdaptedDense(3 * width, projections=3, key_bias=self.key_bias, name="qkv", **dense)(x, rows)
        out = self_attention(
            qkv, heads=self.heads, compute=self.compute, rotation=rotation, causal=self.causal
        )
        return AdaptedDense(width, name="out", **dense)(checkpoint_name(out, ATTENTION), rows)


class MLP(nn.Module):
    """c_proj(activation(c_fc(x)))."""

    hidden: int
    compute: ComputeConfig
    adapters: AdapterRules
    activation: Activation = "gelu"

    @nn.compact
    def __call__(self, x: jax.Array, rows: jax.Array | None = None) -> jax.Array:
        dense: dict[str, Any] = {"adapters": self.adapters, "dtype": self.compute.dtype}
        outputs, act = gated_width(self.hidden, self.activation), ACTIVATIONS[self.activation]
        hidden = act(AdaptedDense(outputs, name="c_fc", **dense)(x, rows))
        return AdaptedDense(x.shape[-1], name="c_proj", **dense)(hidden, rows)


class Block(nn.Module):
    """Pre-norm block: x += ls_1(attn(ln_1(x))); x += ls_2(mlp(ln_2(x)))."""

    heads: int
    mlp_width: int
    layer_scale: float | None
    compute: ComputeConfig
    adapters: AdapterRules
    activation: Activation = "gelu"
    norm_eps: float = 1e-5
    causal: bool = False
    key_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, rotation: Rotation | None, rows: jax.Array | None = None) -> jax.Array:
        shared: dict[str, Any] = {"compute": self.compute, "adapters": self.adapters}
        attention = SelfAttention(
            self.heads, causal=self.causal, key_bias=self.key_bias, name="attn", **shared
        )
        mlp = MLP(self.mlp_width, activation=self.activation, name="mlp", **shared)
        update = attention(LayerNorm(self.norm_eps, name="ln_1")(x), rotation, rows)
        x = self._added(x, "ls_1", update)
        return self._added(x, "ls_2", mlp(LayerNorm(self.norm_eps, name="ln_2")(x), rows))

    def _added(self, x: jax.Array, name: str, update: jax.Array) -> jax.Array:
        # Where the tasks part in this layer, only the update has their axis.
        return jax.lax.broadcast_to_rank(x, update.ndim) + self._scaled(name, update).astype(x.dtype)

    def _scaled(self, name: str, x: jax.Array) -> jax.Array:
        return x if self.layer_scale is None else LayerScale(self.layer_scale, name=name)(x)


Slices = tuple[jax.Array, ...]  # of a batch, see `slices`


def slices(x: jax.Array, compute: ComputeConfig) -> Slices:
    """Divides x (B, ...) into S slices (B / S, ...) of at most `compute.block_rows` rows per device.

    Slice s has the rows s, S + s, ..., so that every device of the mesh that is set keeps its own. S is the
    least divisor of a device's rows, at most 8, with which a slice is small enough, else the largest.
    """
    devices = max(1, jax.sharding.get_abstract_mesh().size)
    rows = len(x) // devices
    if not compute.block_rows or rows <= compute.block_rows or len(x) % devices:
        return (x,)
    counts = [count for count in range(1, _MOST_SLICES + 1) if rows % count == 0]
    count = next((count for count in counts if rows // count <= compute.block_rows), counts[-1])
    split = x.reshape(-1, count, *x.shape[1:])
    return tuple(split[:, s] for s in range(count))


def merged(parts: Slices, *, axis: int = 0) -> jax.Array:
    """Puts slices of a batch together, whose rows are on the given axis."""
    if len(parts) == 1:
        return parts[0]
    stacked = jnp.stack(parts, axis=axis + 1)
    shape = stacked.shape
    return stacked.reshape(*shape[:axis], -1, *shape[axis + 2 :])


def each_slice(block: nn.Module, x: Slices, rotation: Rotation | None, rows: Slices | None) -> Slices:
    """Applies a bound block to every slice: what it keeps of few rows stays in the chip's fast memory."""
    made = []
    assert block.scope is not None
    drawn = _copied(block.scope.rng_counters)
    for s, part in enumerate(x):
        # A layer's dropout has one key for all slices; masks differ by the row's index.
        _restore(block.scope.rng_counters, drawn)
        made.append(block(part, rotation, None if rows is None else rows[s]))
    return tuple(made)


def _copied(counters: Any) -> Any:
    """Returns how many keys each module of a scope has drawn, as flax counts them."""
    return {name: _copied(value) if isinstance(value, dict) else value for name, value in counters.items()}


def _restore(counters: Any, drawn: Any) -> None:
    for name, value in counters.items():
        if isinstance(value, dict):
            _restore(value, drawn.get(name, {}))
        else:
            counters[name] = drawn.get(name, 0)


class _ScannedBlock(nn.Module):
    make: Callable[[str], Block]
    capture: bool

    @nn.compact
    def __call__(self, x: Slices, rotation: Rotation | None, rows: Slices | None) -> tuple[Slices, object]:
        block = self.make("block")
        nn.share_scope(self, block)  # no level of its own in the parameter tree
        x = each_slice(block, x, rotation, rows)
        return x, (merged(x) if self.capture else None)


def stack(
    make: Callable[[str], Block], *, layers: int, name: str, compute: ComputeConfig, capture: bool
) -> nn.Module:
    """Returns a module that maps (x (B, N, D), rotation, rows), x and rows in `slices`, to (x, states).

    Args:
      make: builds a block of the given name.
      layers: L >= 1.
      name: the stack's name in the parameter tree.
      compute: its remat and unroll are used.
      capture: whether states are every block's output (L, B, N, D), else None.

    Raises:
      UserError: no such remat policy.
    """
    body = over_layers(_ScannedBlock, length=layers, inputs=2, compute=compute)
    return body(make, capture, name=name)


def over_layers(
    body: type[nn.Module], *, length: int, inputs: int, compute: ComputeConfig
) -> type[nn.Module]:
    """Returns a module scanned over layers, its parameters with a leading layer axis.

    Args:
      body: a layer: (carry, *inputs) to (carry, output).
      length: number of layers.
      inputs: number of inputs beside the carry, the same for every layer.
      compute: its remat and unroll are used.

    Raises:
      UserError: no such remat policy.
    """
    if compute.remat not in REMAT_POLICIES:
        raise UserError(
            "unknown remat policy",
            where="compute.remat",
            expected=f"one of {', '.join(REMAT_POLICIES)}",
            found=repr(compute.remat),
            fix=nearest(compute.remat, REMAT_POLICIES, otherwise="use one of them"),
        )
    blocks_at_once = min(compute.unroll or 1, length)
    if REMAT_POLICIES[compute.remat] is not None:
        # Across the iterations of a loop nothing is merged; within one, what is computed again would be.
        body = nn.remat(body, policy=REMAT_POLICIES[compute.remat], prevent_cse=blocks_at_once > 1)
    return nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast,) * inputs,
        length=length,
        unroll=blocks_at_once,
    )
