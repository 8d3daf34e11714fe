"""Which attention an encoder takes, and how many blocks are compiled apart: by devices, type and shape."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp

from softbio_jax.models.attention import kernel
from softbio_jax.models.attention.layout import Layout, on_chip_bytes
from softbio_jax.models.config import ComputeConfig, VisionConfig

_Compute = TypeVar("_Compute", bound=ComputeConfig)
_PLATFORM = {"pallas": "tpu", "cudnn": "gpu", "bmm": "cpu"}
_OWN = {platform: name for name, platform in _PLATFORM.items()}
_VMEM = {"TPU v4": 2**24}  # vector memory of a core; v5p and 7x: 2^26, v5e and v6e: 2^27
_LEAST_VMEM = 2**26
_CAPABILITY = 8.0  # of GPUs whose cuDNN attention JAX takes: Ampere
_CUDNN_HEAD = 128  # channels, a multiple of 8
# Slices of stacked weights are copied, which takes time where they do not stay in a core's cache.
_UNROLLED_FROM = 2**20  # numbers in a block's kernels
_UNROLLED_TO = 24  # blocks: compiling takes as long as there are blocks


class Shape(NamedTuple):
    """Heads K, channels of a head, queries N and keys M."""

    heads: int
    head_dim: int
    queries: int
    keys: int


class Choice(NamedTuple):
    """The name of an attention, and why it is not the devices' own."""

    name: str
    why: str = ""


def choose(attention: str, *, dtype: Any, shape: Shape, devices: Sequence[Any] | None = None) -> Choice:
    """Returns what computes attention of a shape: xla, bmm, cudnn, pallas or pallas_interpret.

    Args:
      attention: "auto", or what was asked for, which only a shape or a type that it cannot have overrules.
      dtype: of q, k and v.
      shape: theirs.
      devices: that are compiled for, which need not exist; None: unknown, and attention is not "auto".
    """
    if attention == "auto":
        first = (devices or jax.devices())[0]
        name = _OWN.get(first.platform, "xla")
    else:
        name = attention
    if name in ("xla", "bmm"):
        return Choice(name)
    why = _unsupported(name, jnp.dtype(dtype), shape, devices or ())
    if not why and attention == "auto":
        why = _refused(name, _own(devices or jax.devices()))
    return Choice("xla", why) if why else Choice(name)


def resolved(
    compute: _Compute, encoder: VisionConfig, devices: Sequence[Any], *, tokens: int | None = None
) -> tuple[_Compute, Choice]:
    """Returns compute with the attention that "auto" means for an encoder on devices, and the choice.

    Where unroll is None, it becomes a number as well.

    Args:
      compute: with a resolved type.
      encoder: its blocks' shape decides.
      devices: that are compiled for.
      tokens: N; None: of the encoder's own image size.
    """
    count = tokens or encoder.tokens
    shape = Shape(encoder.heads, encoder.head_dim, count, count)
    choice = choose(compute.attention, dtype=compute.dtype, shape=shape, devices=devices)
    unroll = compute.unroll or blocks_at_once(compute, encoder, devices)
    return dataclasses.replace(compute, attention=cast(Any, choice.name), unroll=unroll), choice


def blocks_at_once(compute: ComputeConfig, encoder: VisionConfig, devices: Sequence[Any]) -> int:
    """Returns how many blocks an iteration of the scan over layers has: on CPUs all, where they are large.

    Without a loop XLA's CPU backend neither fills arrays of all layers with zeros nor copies into them and
    out of them, nor, with kernels as `forward.per_layer` returns them, weights. It merges, however, what a
    remat policy computes again with the first time, so that nothing would be saved; there the loop stays.

    Args:
      compute: its remat.
      encoder: its blocks.
      devices: that are compiled for.
    """
    kernels = encoder.width * (4 * encoder.width + 2 * encoder.mlp_width)
    fits = kernels >= _UNROLLED_FROM and encoder.layers <= _UNROLLED_TO
    return encoder.layers if fits and compute.remat == "none" and devices[0].platform == "cpu" else 1


def missing_platform(compute: ComputeConfig, devices: Sequence[Any]) -> str:
    """Returns the platform that the configured attention needs and the devices are not, or ""."""
    needed = _PLATFORM.get(compute.attention, "")
    return "" if needed == devices[0].platform else needed


def on_this_machine(compute: _Compute, devices: Sequence[Any] | None = None) -> _Compute:
    """Returns compute with attention "auto" where the devices are not of the platform that it names.

    Args:
      compute: of a model.
      devices: None: all of JAX's.
    """
    if not missing_platform(compute, devices or jax.devices()):
        return compute
    return dataclasses.replace(compute, attention="auto")


def _unsupported(name: str, dtype: Any, shape: Shape, devices: Sequence[Any]) -> str:
    if name == "cudnn":
        if dtype.itemsize != 2:
            return f"cuDNN has no attention of {dtype}"
        if shape.head_dim % 8 or shape.head_dim > _CUDNN_HEAD:
            return f"cuDNN has no heads of {shape.head_dim} channels"
        if shape.queries == 1:
            return "one query"
        old = [d for d in devices if float(getattr(d, "compute_capability", _CAPABILITY)) < _CAPABILITY]
        return f"compute capability {old[0].compute_capability} is below {_CAPABILITY}" if old else ""
    if dtype == jnp.float16:
        return "TPUs have no float16"
    layout = Layout(shape.heads, shape.head_dim, False, None, False)
    needed = on_chip_bytes(layout, shape.queries, shape.keys, dtype)
    limit = _VMEM.get(devices[0].device_kind, _LEAST_VMEM) if devices else _LEAST_VMEM
    if needed > limit:
        return f"{needed / 2**20:.0f} MiB of vector memory needed, {limit / 2**20:.0f} are there"
    return ""


def _own(devices: Sequence[Any]) -> Any:
    """Returns a device of this process, or one that need not exist."""
    mine = [device for device in devices if device.process_index == jax.process_index()]
    return (mine or devices)[0]


@functools.cache
def _refused(name: str, device: Any) -> str:
    """Compiles a small attention for a device; returns the first line of the error, or ""."""
    where = jax.sharding.SingleDeviceSharding(device)
    qkv = jax.ShapeDtypeStruct((1, 16, 3 * 128), jnp.bfloat16, sharding=where)

    def run(qkv: jax.Array) -> jax.Array:
        if name == "pallas":
            layout = Layout(2, 64, False, jax.lax.Precision.DEFAULT, False)
            return kernel.attention(layout, (qkv,), None).sum()
        q, k, v = (x.reshape(1, 16, 2, 64) for x in jnp.split(qkv, 3, axis=-1))
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn").sum()

    try:
        jax.jit(jax.grad(run)).lower(qkv).compile()
    except Exception as error:  # what a compiler raises depends on the compiler
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"{name} was refused: {lines[0][:120]}"
    return ""
