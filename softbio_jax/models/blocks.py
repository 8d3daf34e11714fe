"""The transformer block of both encoders, and a stack of equal blocks as one scan."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from softbio_jax.adapters.config import AdapterRules
from softbio_jax.adapters.dense import AdaptedDense
from softbio_jax.errors import UserError, nearest
from softbio_jax.models import positions
from softbio_jax.models.attention import attend, split_heads
from softbio_jax.models.config import ComputeConfig
from softbio_jax.models.norm import LayerNorm

Rotation = tuple[jax.Array, jax.Array]  # cos and sin, (N, head_dim) each
_POLICIES = jax.checkpoint_policies
# What the forward pass saves for the backward pass; the rest is recomputed.
REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
    "none": None,  # save everything
    "attention": None,  # except attention's weights, see `attend`
    "dots": _POLICIES.dots_with_no_batch_dims_saveable,
    "full": _POLICIES.nothing_saveable,
}


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Returns the exact GELU x (1 + erf(x / sqrt 2)) / 2 of x (..., D), not jax.nn.gelu's default.

    The backward pass saves only x, where autodiff saves three arrays of the MLP's width.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """
    return jax.nn.gelu(x, approximate=False)


def _gelu_backward(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return jax.vjp(functools.partial(jax.nn.gelu, approximate=False), x)[1](dy)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


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

    @nn.compact
    def __call__(self, x: jax.Array, rotation: Rotation | None, rows: jax.Array | None = None) -> jax.Array:
        width = x.shape[-1]
        dense: dict[str, Any] = {"adapters": self.adapters, "dtype": self.compute.dtype}
        qkv = AdaptedDense(3 * width, projections=3, name="qkv", **dense)(x, rows)
        q, k, v = (split_heads(t, self.heads) for t in jnp.split(qkv, 3, axis=-1))
        if rotation is not None:
            q, k = positions.rotate(q, *rotation), positions.rotate(k, *rotation)
        how: dict[str, Any] = {"implementation": self.compute.attention, "recompute": self.compute.recompute}
        out = attend(q, k, v, causal=self.causal, **how)
        return AdaptedDense(width, name="out", **dense)(out, rows)


class MLP(nn.Module):
    """c_proj(gelu(c_fc(x)))."""

    hidden: int
    compute: ComputeConfig
    adapters: AdapterRules

    @nn.compact
    def __call__(self, x: jax.Array, rows: jax.Array | None = None) -> jax.Array:
        dense: dict[str, Any] = {"adapters": self.adapters, "dtype": self.compute.dtype}
        hidden = gelu(AdaptedDense(self.hidden, name="c_fc", **dense)(x, rows))
        return AdaptedDense(x.shape[-1], name="c_proj", **dense)(hidden, rows)


class Block(nn.Module):
    """Pre-norm block: x += ls_1(attn(ln_1(x))); x += ls_2(mlp(ln_2(x)))."""

    heads: int
    mlp_width: int
    layer_scale: float | None
    compute: ComputeConfig
    adapters: AdapterRules
    causal: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, rotation: Rotation | None, rows: jax.Array | None = None) -> jax.Array:
        shared: dict[str, Any] = {"compute": self.compute, "adapters": self.adapters}
        attention = SelfAttention(self.heads, causal=self.causal, name="attn", **shared)
        mlp = MLP(self.mlp_width, name="mlp", **shared)
        update = attention(LayerNorm(name="ln_1")(x), rotation, rows)
        x = self._added(x, "ls_1", update)
        return self._added(x, "ls_2", mlp(LayerNorm(name="ln_2")(x), rows))

    def _added(self, x: jax.Array, name: str, update: jax.Array) -> jax.Array:
        # Where the tasks part in this layer, only the update has their axis.
        return jax.lax.broadcast_to_rank(x, update.ndim) + self._scaled(name, update).astype(x.dtype)

    def _scaled(self, name: str, x: jax.Array) -> jax.Array:
        return x if self.layer_scale is None else LayerScale(self.layer_scale, name=name)(x)


class _ScannedBlock(nn.Module):
    make: Callable[[str], Block]
    capture: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, rotation: Rotation | None, rows: jax.Array | None
    ) -> tuple[jax.Array, object]:
        block = self.make("block")
        nn.share_scope(self, block)  # no level of its own in the parameter tree
        x = block(x, rotation, rows)
        return x, (x if self.capture else None)


def stack(
    make: Callable[[str], Block], *, layers: int, name: str, compute: ComputeConfig, capture: bool
) -> nn.Module:
    """Returns a module that maps (x (B, N, D), rotation, rows) to (x, states).

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
    if REMAT_POLICIES[compute.remat] is not None:
        # Inside a scan nothing can be merged across iterations, so CSE need not be prevented.
        body = nn.remat(body, policy=REMAT_POLICIES[compute.remat], prevent_cse=False)
    return nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast,) * inputs,
        length=length,
        unroll=compute.unroll,
    )
