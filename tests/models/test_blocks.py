"""The stack of blocks: remat policies change what is kept, never what comes out."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.adapters import methods
from softbio_jax.errors import UserError
from softbio_jax.models import blocks
from softbio_jax.models.blocks import REMAT_POLICIES
from softbio_jax.models.config import ComputeConfig
from softbio_jax.runs import parallel
from tests.adapters import towers
from tests.compiling import quick_jit


@pytest.fixture(scope="module")
def passes():
    """policy -> features, gradient and how many numbers the backward pass keeps."""
    made = {}
    method = towers.METHODS["dora"]
    for remat in REMAT_POLICIES:
        model = towers.model(method, compute=ComputeConfig(remat=remat, matmul_precision="highest"))
        params = towers.stirred(towers.variables(model)["params"])
        x = towers.images(model.config, 4)

        def run(params, model=model, x=x):
            features = model.apply({"params": params}, x, method="features")
            return sum(jnp.sum(jnp.sin(f)) for f in features.values()), features

        def kept(params, run=run):
            _, pull = jax.vjp(lambda p: run(p)[0], params)
            return sum(leaf.size for leaf in jax.tree.leaves(pull) if hasattr(leaf, "size"))

        gradient, features = quick_jit(jax.grad(run, has_aux=True))(params)
        made[remat] = features, gradient, kept(params)
    return made


@pytest.mark.parametrize("remat", [name for name in REMAT_POLICIES if name != "none"])
def test_every_policy_computes_the_same(passes, remat):
    for ours, wanted in zip(passes[remat][:2], passes["none"][:2], strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), ours, wanted)


def test_what_is_computed_again_is_not_kept(passes):
    kept = {remat: passes[remat][2] for remat in REMAT_POLICIES}
    ordered = ("none", "attention", "dots", "elementwise", "full")  # dots keeps both parts of a sum
    assert set(ordered) == set(kept)
    assert all(kept[more] > kept[less] for more, less in itertools.pairwise(ordered))


def test_an_unknown_policy_is_told_in_one_line():
    model = towers.model(towers.METHODS["lp"], compute=ComputeConfig(remat="ful"))
    with pytest.raises(
        UserError, match="expected one of none, attention, elementwise, dots, full, found 'ful'"
    ):
        towers.variables(model)


DROPPED = dataclasses.replace(towers.LORA, dropout=0.5)


@pytest.mark.parametrize(
    ("method", "remat"), [("lora", "elementwise"), pytest.param("mtlora", "none", marks=pytest.mark.long)]
)
def test_a_batch_in_slices_has_the_same_dropout_features_and_gradient(method, remat):
    chosen = getattr(methods, method)(DROPPED)
    made = []
    for block_rows in (0, 2):
        compute = ComputeConfig(block_rows=block_rows, remat=remat, matmul_precision="highest")
        model = towers.model(chosen, compute=compute)
        params = towers.stirred(towers.variables(model)["params"])
        x, rows = towers.images(model.config, 6), jnp.arange(6)

        def run(params, model=model, x=x, rows=rows):
            rngs = {"dropout": jax.random.key(3)}
            features = model.apply({"params": params}, x, rows=rows, method="features", rngs=rngs)
            return sum(jnp.sum(jnp.sin(f)) for f in features.values()), features

        made.append(quick_jit(jax.grad(run, has_aux=True))(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *made)


@pytest.mark.parametrize(
    ("rows", "block_rows", "count"),
    [
        (32, 8, 4),
        (24, 8, 3),
        (8, 8, 1),
        (20, 8, 4),
        (7, 8, 1),
        (34, 8, 2),
        (128, 8, 8),
        (17, 8, 1),
        (9, 0, 1),
    ],
)
def test_slices_are_small_whole_and_few(rows, block_rows, count):
    x = jnp.arange(rows * 3).reshape(rows, 3)
    parts = blocks.slices(x, ComputeConfig(block_rows=block_rows))
    assert len(parts) == count and {len(part) for part in parts} == {rows // count}
    np.testing.assert_array_equal(blocks.merged(parts), x)
    tasks = tuple(jnp.stack([part, -part]) for part in parts)
    np.testing.assert_array_equal(blocks.merged(tasks, axis=1), jnp.stack([x, -x]))


def test_every_device_keeps_its_rows_in_slices():
    mesh = parallel.make_mesh()
    x = jax.ShapeDtypeStruct((32, 5), jnp.float32, sharding=parallel.batch_sharding(mesh))
    compute = ComputeConfig(block_rows=2)

    def run(x):
        parts = blocks.slices(x, compute)
        assert [len(part) for part in parts] == [16, 16], "two of a device's four rows each"
        return blocks.merged(tuple(2 * part for part in parts))

    with jax.set_mesh(mesh):
        compiled = jax.jit(run).lower(x).compile()
    assert not any(name in compiled.as_text() for name in ("all-gather", "all-to-all", "permute"))
    assert compiled.output_shardings.is_equivalent_to(x.sharding, 2)
