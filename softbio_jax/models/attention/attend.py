"""Scaled dot-product attention of merged heads, with or without a leading task axis."""

import itertools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from softbio_jax.models import positions
from softbio_jax.models.attention import bmm, kernel
from softbio_jax.models.attention.choice import Shape, choose
from softbio_jax.models.attention.layout import Layout, Turn, turn_tables
from softbio_jax.models.config import ComputeConfig
from softbio_jax.models.positions import Rotation

_FULL = ("high", "highest", "float32", "tensorfloat32")  # TPU kernels have one precision beside the default
_LEAST_QUERIES = 8


def self_attention(
    qkv: jax.Array,
    *,
    heads: int,
    compute: ComputeConfig,
    rotation: Rotation | None = None,
    causal: bool = False,
) -> jax.Array:
    """Returns softmax(q k^T / sqrt(head_dim)) v, the softmax in float32.

    Args:
      qkv: (B, N, 3 D), q, k and v side by side, heads merged; or (T, B, N, 3 D).
      heads: K.
      compute: its attention computes, over the devices of a mesh that is set (`jax.set_mesh`). With
        remat "attention" the weights (B, K, N, N) are made again in the backward pass, as fused
        kernels always do; docs/performance.md shows what that saves and costs.
      rotation: rotary positions of q and k.
      causal: mask later positions (text encoder).

    Returns:
      (B, N, D), or (T, B, N, D).
    """
    return _attend((qkv,), heads, compute, rotation, causal)


def cross_attention(q: jax.Array, kv: jax.Array, *, heads: int, compute: ComputeConfig) -> jax.Array:
    """Returns attention of q (B, N, D) to k and v side by side (B, M, 2 D), see `self_attention`."""
    return _attend((q, kv), heads, compute, None, False)


def _attend(
    inputs: tuple[jax.Array, ...], heads: int, compute: ComputeConfig, rotation: Rotation | None, causal: bool
) -> jax.Array:
    parts = 3 if len(inputs) == 1 else 1
    head_dim = inputs[0].shape[-1] // (parts * heads)
    shape = Shape(heads, head_dim, inputs[0].shape[-2], inputs[-1].shape[-2])
    name = _name(compute, inputs[0], shape)
    if name.startswith("pallas"):
        return _in_one_pass(inputs, heads, head_dim, rotation, causal, interpret=name == "pallas_interpret")
    split = [jnp.split(x, x.shape[-1] // (heads * head_dim), axis=-1) for x in inputs]
    q, k, v = (x.reshape(*x.shape[:-1], heads, head_dim) for x in itertools.chain(*split))
    if rotation is not None:
        q, k = positions.rotate(q, rotation), positions.rotate(k, rotation)
    # One query has few weights.
    recompute = compute.recompute and shape.queries > 1
    return _dot_product(q, k, v, implementation=name, causal=causal, recompute=recompute)


def _name(compute: ComputeConfig, x: jax.Array, shape: Shape) -> str:
    mesh = jax.sharding.get_abstract_mesh()
    if compute.attention != "auto":
        name = choose(compute.attention, dtype=x.dtype, shape=shape).name
    elif mesh.empty and jax.device_count() > 1 and jax.default_backend() == "tpu":
        name = "xla"  # the devices that this is for are not known, and nothing but XLA spreads it over them
    else:
        name = choose("auto", dtype=x.dtype, shape=shape, devices=jax.devices()).name
    whole = mesh.empty or x.shape[-3] % mesh.size == 0
    return name if whole or not name.startswith("pallas") else "xla"


def _dot_product(
    q: jax.Array, k: jax.Array, v: jax.Array, *, implementation: str, causal: bool, recompute: bool
) -> jax.Array:
    """Returns (B, N, D) or (T, B, N, D) of q (B, N, K, head_dim) or (T, B, N, K, head_dim); k and v alike.

    float16 is multiplied as such on GPUs only, elsewhere in float32.
    """
    dtype = q.dtype
    if dtype == jnp.float16 and jax.default_backend() != "gpu":
        # jax.nn asks for float16 products summed in float32, which no other compiler has.
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))

    def one(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        if implementation == "bmm":
            return bmm.attention(q, k, v, causal, recompute).astype(dtype)
        out = jax.nn.dot_product_attention(
            q, k, v, is_causal=causal, implementation="cudnn" if implementation == "cudnn" else "xla"
        )
        return out.reshape(*out.shape[:-2], -1).astype(dtype)

    if recompute and implementation != "bmm":
        one = jax.checkpoint(one, prevent_cse=False)
    if q.ndim == 4:
        return one(q, k, v)
    # One task at a time, as in `adapters.math.apart`.
    return jnp.stack([one(q[t], k[t], v[t]) for t in range(len(q))])


def _in_one_pass(
    inputs: tuple[jax.Array, ...],
    heads: int,
    head_dim: int,
    rotation: Rotation | None,
    causal: bool,
    *,
    interpret: bool,
) -> jax.Array:
    exact = jax.config.jax_default_matmul_precision in _FULL  # type: ignore[attr-defined]
    precision = jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT
    reach = 1 if rotation is None else rotation.reach
    layout = Layout(heads, head_dim, causal, precision, interpret, reach)
    turn = None if rotation is None else turn_tables(rotation, layout.columns)

    def local(inputs: tuple[jax.Array, ...], turn: Turn | None) -> jax.Array:
        outer = inputs[0].shape[:-2]
        flat = [x.reshape(-1, *x.shape[-2:]) for x in inputs]
        queries = flat[0].shape[1]
        if queries == 1:  # the compiler has no products of one row
            flat[0] = jnp.pad(flat[0], ((0, 0), (0, _LEAST_QUERIES - 1), (0, 0)))
        out = kernel.attention(layout, tuple(flat), turn)[:, :queries]
        return out.reshape(*outer, *out.shape[1:])

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return local(inputs, turn)
    # jit does not partition a kernel.
    examples = P(*[None] * (inputs[0].ndim - 3), mesh.axis_names)
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(examples, P()), out_specs=examples, check_vma=False)
    return mapped(inputs, turn)
