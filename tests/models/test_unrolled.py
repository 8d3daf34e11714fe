"""Blocks without a loop, as on CPUs: kernels per layer, the same numbers, no more memory."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.models.attention.choice import blocks_at_once, resolved
from softbio_jax.models.config import VISION, ComputeConfig, vision_config
from softbio_jax.models.forward import encode, per_layer, stacked
from softbio_jax.params import combine, flatten, partition
from tests.adapters import towers

CPU, TPU, GPU = (types.SimpleNamespace(platform=p, device_kind="") for p in ("cpu", "tpu", "gpu"))
LAYERS = vision_config("tiny-demo").layers


def passes(unroll, *, remat="none"):
    """The compiled gradient of the adapters, its arguments, and the kernels among them."""
    compute = ComputeConfig(unroll=unroll, remat=remat, attention="bmm")
    model = towers.model(towers.METHODS["lora"], "tiny-demo", compute=compute)
    params = towers.stirred(towers.variables(model)["params"])
    trained, frozen = partition(params, lambda path: "lora" in path or path.startswith("heads"))
    frozen, images = per_layer(model, frozen), towers.images(model.config, 4)

    def loss(trained, frozen, images):
        features = encode(model, combine(trained, frozen), images)
        return sum(jnp.sum(jnp.sin(f)) for f in features.values())

    compiled = jax.jit(jax.value_and_grad(loss)).lower(trained, frozen, images).compile()
    return compiled, (trained, frozen, images)


@pytest.fixture(scope="module")
def both():
    return {unroll: passes(unroll) for unroll in (1, LAYERS)}


def test_it_computes_what_the_loop_does(both):
    (loss, gradient), (wanted, slope) = (run(*inputs) for run, inputs in (both[LAYERS], both[1]))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, slope)


def test_kernels_are_read_where_they_are(both):
    """A stack of kernels is neither an input nor made in the program."""
    _, (_, frozen, _) = both[1]
    shapes = {leaf.shape for path, leaf in flatten(frozen).items() if path.startswith("encoder/trunk/")}
    stacks = [f"f32[{','.join(map(str, shape))}]" for shape in shapes if len(shape) == 3]
    assert len(stacks) == 4
    for unroll, wanted in ((1, True), (LAYERS, False)):
        program = both[unroll][0].as_text()
        assert [stack in program for stack in stacks] == [wanted] * len(stacks)


def test_without_a_loop_no_more_is_kept(both):
    """What norms and GELU compute again is not merged with the first time."""
    loop, flat = (both[unroll][0].memory_analysis().temp_size_in_bytes for unroll in (1, LAYERS))
    assert flat <= 1.1 * loop


def test_kernels_by_layer_and_back():
    model = towers.model(towers.METHODS["mtlora"], compute=ComputeConfig(unroll=3))
    shapes = towers.abstract(towers.METHODS["mtlora"], "tiny-test")
    params = jax.tree.map(lambda x: np.random.default_rng(0).random(x.shape, np.float32), shapes)
    apart = per_layer(model, params)
    kernels = {path: leaf for path, leaf in flatten(apart).items() if isinstance(leaf, tuple)}
    assert {path.split("/")[1] for path in kernels} == {"trunk", "tail"}
    assert all(path.endswith("/kernel") and leaf[0].ndim == 2 for path, leaf in kernels.items())
    jax.tree.map(np.testing.assert_array_equal, stacked(apart), params)
    assert per_layer(model.clone(compute=ComputeConfig()), params) is params


@pytest.mark.parametrize(
    ("variant", "remat", "device", "blocks"),
    [
        ("PE-Core-B16-224", "none", CPU, 12),
        ("PE-Core-L14-336", "none", CPU, 24),
        ("PE-Core-L14-336", "attention", CPU, 1),  # XLA would save nothing
        ("PE-Core-L14-336", "full", CPU, 1),
        ("PE-Core-G14-448", "none", CPU, 1),  # 50 blocks would compile for minutes
        ("tiny-demo", "none", CPU, 1),
        ("PE-Core-B16-224", "none", TPU, 1),
        ("PE-Core-B16-224", "none", GPU, 1),
    ],
)
def test_where_there_is_no_loop(variant, remat, device, blocks):
    assert blocks_at_once(ComputeConfig(remat=remat), VISION[variant], [device]) == blocks


def test_what_was_asked_for_is_taken():
    compute, _ = resolved(ComputeConfig(unroll=2, attention="xla"), VISION["PE-Core-B16-224"], [CPU])
    assert compute.unroll == 2
