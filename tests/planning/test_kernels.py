"""What the planner makes of kernels, and what the TPU compiler does."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from softbio_jax.models.attention.attend import cross_attention, self_attention
from softbio_jax.models.attention.choice import Shape, choose
from softbio_jax.models.config import ComputeConfig
from softbio_jax.models.flops import matmul_flops
from softbio_jax.models.positions import Rotation
from softbio_jax.planning.hlo import memory_bytes
from softbio_jax.planning.topology import GENERATIONS, devices_of
from softbio_jax.runs import parallel

KERNEL = ComputeConfig(attention="pallas_interpret")
BATCH, TOKENS, HEADS, WIDTH = 2, 50, 4, 256
ONE_PRODUCT = 2 * BATCH * TOKENS**2 * WIDTH


def flops(function, compute, shape):
    attention = functools.partial(self_attention, heads=HEADS, compute=compute)
    return matmul_flops(jax.make_jaxpr(function(attention))(jax.ShapeDtypeStruct(shape, jnp.float32)))


def test_a_kernel_counts_with_its_products():
    shape = (BATCH, TOKENS, 3 * WIDTH)
    assert flops(lambda f: f, KERNEL, shape) == 2 * ONE_PRODUCT
    assert flops(lambda f: f, KERNEL, shape) == flops(lambda f: f, ComputeConfig(attention="xla"), shape)
    # The scores once more, and four products.
    assert flops(lambda f: jax.grad(lambda x: f(x).sum()), KERNEL, shape) == 7 * ONE_PRODUCT


def test_a_kernel_on_a_mesh_counts_for_all_devices():
    with jax.set_mesh(parallel.make_mesh()):
        shape = (8, TOKENS, 3 * WIDTH)
        assert flops(lambda f: f, KERNEL, shape) == 2 * ONE_PRODUCT * 8 // BATCH


def test_an_array_that_a_kernel_gets_three_times_is_read_once():
    program = """
ENTRY %main (qkv: bf16[8,577,3072]) -> bf16[8,577,1024] {
  %qkv = bf16[8,577,3072]{2,1,0} parameter(0)
  ROOT %out = bf16[8,577,1024]{2,1,0} custom-call(%qkv, %qkv, %qkv), custom_call_target="tpu_custom_call"
}
"""
    assert memory_bytes(program) == 2 * 8 * 577 * (3072 + 1024)


needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu")
SLICE = {"v4": "2x2x1", "v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2", "7x": "2x2x1"}
SHAPES = [
    # heads, channels, tokens, causal
    (16, 64, 577, False),  # L14-336
    (12, 64, 197, False),  # B16-224
    (3, 64, 577, False),  # T16-384
    (16, 64, 1025, False),  # L14-448
    (16, 96, 1024, False),  # G14-448
    (16, 64, 32, True),  # text
    (20, 64, 72, True),
    (8, 80, 257, False),
    (16, 72, 257, False),
    (16, 72, 576, False),  # So400m/16 of SigLIP 2 at 384 pixels
    (16, 88, 257, False),
    (8, 128, 257, False),
]
HALVES = [(6, 64, 261, False), (12, 64, 201, False), (20, 64, 261, False)]  # DINOv3's, by layout of the pairs


@pytest.mark.long
@needs_libtpu
@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_kernel_compiles_forward_and_backward(generation):
    devices = devices_of(f"{generation}:{SLICE[generation]}").devices
    where = SingleDeviceSharding(devices[0])
    compute = ComputeConfig(attention="pallas", dtype="bfloat16")

    def abstract(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    def compiled(function, *inputs):
        def total(*inputs):
            return function(*inputs).astype(jnp.float32).sum()

        program = jax.jit(jax.value_and_grad(total, argnums=range(len(inputs)))).lower(*inputs).compile()
        # A forward and a backward kernel, not XLA's attention.
        assert program.as_text().count('custom_call_target="tpu_custom_call"') == 2

    taken = 0
    assert choose("auto", dtype=jnp.bfloat16, shape=Shape(16, 64, 577, 577), devices=devices).name == "pallas"
    for heads, head_dim, tokens, causal in SHAPES + HALVES:
        shape = Shape(heads, head_dim, tokens, tokens)
        chosen = choose("auto", dtype=jnp.bfloat16, shape=shape, devices=devices)
        if chosen.name == "xla":
            assert "vector memory" in chosen.why and generation == "v4"
            continue
        taken += 1
        table = jnp.ones((tokens, head_dim))
        reach = head_dim // 2 if (heads, head_dim, tokens, causal) in HALVES else 1
        rotation = None if causal else Rotation(table, table, reach)
        attention = functools.partial(
            self_attention, heads=heads, compute=compute, causal=causal, rotation=rotation
        )
        compiled(attention, abstract(2, tokens, 3 * heads * head_dim))
    assert taken == len(SHAPES + HALVES) or generation == "v4"
    pooling = functools.partial(cross_attention, heads=8, compute=compute)
    compiled(pooling, abstract(2, 1, 1024), abstract(2, 577, 2048))
